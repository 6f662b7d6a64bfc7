"""The OpenAPI description of the admin API, made from the table of endpoints and the types of the bodies.

https://spec.openapis.org/oas/v3.1.0
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Any, Final

import msgspec

from proxygen import __version__
from proxygen.proxy.admin.endpoints import JSON, ErrorReport, IfMatch, Operation, Parameter

_SCHEMA: Final = "#/components/schemas/{name}"
_TOKEN: Final = "token"  # noqa: S105 - the name of a scheme
_ETAG: Final = {"schema": {"type": "string"}, "description": "The state that is told; a write names it in If-Match."}

_KEYWORDS: Final = (
    "$ref",
    "title",
    "description",
    "type",
    "format",
    "enum",
    "const",
    "minimum",
    "maximum",
    "pattern",
    "properties",
    "required",
    "items",
    "prefixItems",
    "additionalProperties",
    "anyOf",
    "default",
)
"""What a schema of ours says, in this order. msgspec writes more from version to version, and in another order."""

_WRITE_ERRORS: Final = {
    401: "the bearer token is missing or wrong",
    403: "writes are off, or this one comes from a page of another site",
    413: "the body is too long",
    415: "the body is not JSON",
    429: "too many wrong tokens",
}


def description(endpoints: Iterable[Operation]) -> Mapping[str, Any]:
    """Return the document, as JSON has it."""
    table = tuple(endpoints)
    schemas, components = _schemas(table)
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in table:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "proxygen's admin API",
            "version": __version__,
            "description": (
                "Reading needs no token. A write over TCP needs one, as `Authorization: Bearer TOKEN`; over the unix "
                "socket the file's mode is the guard. Shares are basis points (10000 is everything), durations "
                "seconds, times ISO 8601 in UTC."
            ),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {_TOKEN: {"type": "http", "scheme": "bearer"}},
        },
    }


def _schemas(table: tuple[Operation, ...]) -> tuple[Mapping[Any, Any], Mapping[str, Any]]:
    """Return the schema of each type that is a body, and the components that they refer to."""
    types = list(dict.fromkeys([*_bodies(table), ErrorReport]))
    found, components = msgspec.json.schema_components(types, ref_template=_SCHEMA)
    schemas = dict(zip(types, map(normal_form, found), strict=True))
    return schemas, _referred_to(schemas.values(), {name: normal_form(each) for name, each in components.items()})


def normal_form(schema: Any) -> Any:
    """Return the schema as every version of msgspec would have it: known keywords alone, in one order.

    An empty default goes, since a property that is not required says as much, and only some versions write it.
    """
    if not isinstance(schema, Mapping):
        return schema
    kept = {keyword: schema[keyword] for keyword in _KEYWORDS if keyword in schema}
    return {keyword: _part(keyword, value) for keyword, value in kept.items() if (keyword, value) not in _EMPTY}


_EMPTY: Final[tuple[tuple[str, Any], ...]] = (("default", {}), ("default", []))


def _part(keyword: str, value: Any) -> Any:
    match keyword:
        case "properties":
            return {name: normal_form(each) for name, each in value.items()}
        case "items" | "additionalProperties":
            return normal_form(value)
        case "anyOf" | "prefixItems":
            return [normal_form(each) for each in value]
        case _:
            return value


def _referred_to(schemas: Iterable[Any], components: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the components that the schemas lead to, by name."""
    names: set[str] = set()
    waiting = [name for schema in schemas for name in _references(schema)]
    while waiting:
        name = waiting.pop()
        if name not in names:
            names.add(name)
            waiting.extend(_references(components[name]))
    return {name: components[name] for name in sorted(names)}


def _references(part: Any) -> Iterator[str]:
    if isinstance(part, Mapping):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"].removeprefix(_SCHEMA.format(name=""))
        for value in part.values():
            yield from _references(value)
    elif isinstance(part, list | tuple):
        for value in part:
            yield from _references(value)


def _bodies(table: tuple[Operation, ...]) -> Iterator[Any]:
    for endpoint in table:
        yield endpoint.answer
        yield from endpoint.other_answers.values()
        if endpoint.body is not None:
            yield endpoint.body


def _all_parameters(endpoint: Operation) -> list[Any]:
    path, query = _parameters(endpoint.parameters, "path"), _parameters(endpoint.query, "query")
    return [*path, *query, *_if_match(endpoint)]


def _operation(endpoint: Operation, schemas: Mapping[Any, Any]) -> Mapping[str, Any]:
    operation: dict[str, Any] = {
        "operationId": endpoint.handler.__name__.strip("_"),
        "summary": endpoint.summary,
        "parameters": _all_parameters(endpoint),
        "responses": _responses(endpoint, schemas),
        "security": [{_TOKEN: []}] if endpoint.writes else [],
    }
    if endpoint.body is not None:
        operation["requestBody"] = {
            "required": endpoint.body_required,
            "content": {JSON: {"schema": schemas[endpoint.body]}},
        }
    return operation


def _parameters(parameters: Mapping[str, Parameter], place: str) -> Iterator[Mapping[str, Any]]:
    for name, parameter in parameters.items():
        yield {
            "name": name,
            "in": place,
            "required": place == "path",
            "schema": parameter.schema,
            "description": parameter.meaning,
        }


def _if_match(endpoint: Operation) -> Iterator[Mapping[str, Any]]:
    if endpoint.if_match is not IfMatch.UNUSED:
        yield {
            "name": "If-Match",
            "in": "header",
            "required": endpoint.if_match is IfMatch.REQUIRED,
            "schema": {"type": "string"},
            "description": "The ETag of the state that the sender saw; nothing is done where it is another by now.",
        }


def _responses(endpoint: Operation, schemas: Mapping[Any, Any]) -> Mapping[str, Any]:
    errors: dict[int, str] = dict(endpoint.errors)
    if endpoint.path.startswith("/api/"):
        errors.setdefault(400, "what was sent cannot be used; the text says which part")
    if endpoint.writes:
        errors |= _WRITE_ERRORS
    if endpoint.body is not None:
        errors[408] = "the body did not arrive in time"
    if endpoint.if_match is not IfMatch.UNUSED:
        errors.setdefault(412, "the state is another by now; nothing was done")
    if endpoint.if_match is IfMatch.REQUIRED:
        errors.setdefault(428, "If-Match is missing")
    good = {200: endpoint.answer, **endpoint.other_answers}
    responses = {str(status): _answer(endpoint, status, schemas[kind]) for status, kind in good.items()}
    for status, reason in errors.items():
        responses[str(status)] = {
            "description": reason,
            "content": {JSON: {"schema": schemas[ErrorReport]}},
        }
    return dict(sorted(responses.items()))


def _answer(endpoint: Operation, status: int, schema: Any) -> Mapping[str, Any]:
    headers = {"headers": {"ETag": _ETAG}} if endpoint.etag else {}
    return {
        "description": HTTPStatus(status).phrase,
        **headers,
        "content": {endpoint.content_type: {"schema": schema}},
    }
