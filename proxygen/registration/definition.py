"""Consul service definitions as people write them: configuration files and API bodies, in JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from proxygen.kit.errors import BadInput

_SHAPES = (
    'write {"service": {…}}, {"services": […]}, the body of an API registration ({"Name": …, "Tags": […]}) '
    "or a bare list of tags"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """What proxygen reads of one service definition."""

    name: str
    tags: tuple[str, ...] = ()
    meta: tuple[tuple[str, str], ...] = ()
    """Sorted by key."""


def read_definitions(text: str) -> tuple[Definition, ...]:
    """Find the services in a definition. Raise BadInput for what is none.

    Keys count in any case, as they do for Consul. HCL's JSON form writes a block as a list of one object.
    """
    try:
        document = json.loads(text)
    except ValueError as error:
        raise BadInput(f"not JSON: {error}; convert HCL to its JSON form first") from error
    except RecursionError as error:
        raise BadInput("nested too deeply for a service definition") from error
    if isinstance(document, list) and document and all(isinstance(item, str) for item in document):
        return (Definition(name="tags", tags=tuple(document)),)
    definitions = tuple(_find(document))
    if not definitions:
        raise BadInput(f"no service definition with a name in it; {_SHAPES}")
    return definitions


def _find(document: object) -> Iterator[Definition]:
    if isinstance(document, list):
        for item in document:
            yield from _find(item)
        return
    if not isinstance(document, dict):
        raise BadInput(f"{json.dumps(document)[:80]} is no service definition; {_SHAPES}")
    keys = _lower(document)
    if isinstance(keys.get("name") or keys.get("service"), str):
        yield _definition(keys)
    elif keys.keys() & {"service", "services"}:
        for key in sorted(keys.keys() & {"service", "services"}):
            yield from _find(keys[key])
    elif all(isinstance(item, dict) for item in document.values()):
        # Objects by id, as /v1/agent/services answers.
        yield from _find(list(document.values()))


def _definition(keys: Mapping[str, Any]) -> Definition:
    name = str(keys.get("name") or keys["service"])
    tags = keys.get("tags") or []
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise BadInput(f"service {name}: tags must be a list of texts, not {json.dumps(tags)[:80]}")
    return Definition(name=name, tags=tuple(tags), meta=tuple(sorted(_meta(name, keys.get("meta") or {}).items())))


def _meta(name: str, value: object) -> Mapping[str, str]:
    blocks = value if isinstance(value, list) else [value]
    merged: dict[str, str] = {}
    for block in blocks:
        if not isinstance(block, dict) or not all(isinstance(item, str) for item in block.values()):
            raise BadInput(f"service {name}: meta must map texts to texts, not {json.dumps(block)[:80]}")
        merged |= block
    return merged


def _lower(mapping: Mapping[str, Any]) -> dict[str, Any]:
    return {key.lower(): value for key, value in mapping.items()}
