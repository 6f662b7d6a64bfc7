"""A host's instances of a service: what their containers are called, and what they register as."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

_INSTANCE = "proxygen_application_instance"
"""The loop's variable, which Ansible puts beside each answer."""


@dataclass(frozen=True)
class Instance:
    """One container."""

    name: str
    """The container's."""
    id: str
    """In Consul. A digest of all that was asked for is part of it, so that an instance of another version, which leaves
    while this one comes, is never taken for it."""
    port: int
    variant: str


def proxygen_instances(
    service: str, host: str, numbers: int, port: int, step: int, asked: object, first: int = 0, variant: str = "stable"
) -> list[dict[str, Any]]:
    """Return so many instances, the first of them on ``port`` + ``first`` times ``step``."""
    release = hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()[:8]
    middle = "" if variant == "stable" else f"-{variant}"
    return [
        asdict(
            Instance(
                name=f"{service}{middle}-{number}",
                id=f"{service}{middle}-{host}-{number}-{release}",
                port=int(port) + int(step) * (first + number),
                variant=variant,
            )
        )
        for number in range(int(numbers))
    ]


def proxygen_running(found: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the variants of the containers that run. ``found`` are the engine's answers, each beside its instance."""
    return [answer[_INSTANCE]["variant"] for answer in found if _runs(answer)]


def proxygen_differing(found: Iterable[Mapping[str, Any]], images: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the variants of the containers that do not run, or are not what is asked for.

    ``images`` is what the engine has under the image's name: one or none.
    """
    wanted = _digest(images[0]["Id"]) if images else None
    return [answer[_INSTANCE]["variant"] for answer in found if not _is_as_asked(answer, wanted)]


def _is_as_asked(answer: Mapping[str, Any], image: str | None) -> bool:
    if not _runs(answer):
        return False
    container = answer["container"]
    told = f"PROXYGEN_REGISTER_ID={answer[_INSTANCE]['id']}"
    return _digest(container["Image"]) == image and told in container["Config"]["Env"]


def _runs(answer: Mapping[str, Any]) -> bool:
    return bool(answer["exists"] and answer["container"]["State"]["Running"])


def _digest(image: str) -> str:
    """Podman leaves out what sort of digest it is in some places."""
    return image.removeprefix("sha256:")


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "proxygen_differing": proxygen_differing,
            "proxygen_instances": proxygen_instances,
            "proxygen_running": proxygen_running,
        }
