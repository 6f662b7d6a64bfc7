"""What the admin API answers, as a table: the router and the OpenAPI description are both made from it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

import msgspec
from aiohttp import hdrs, web

JSON: Final = "application/json"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class IfMatch(Enum):
    """Whether a request must name, by ``If-Match``, the state that its sender saw."""

    UNUSED = "unused"
    OPTIONAL = "optional"
    REQUIRED = "required"


class ErrorReport(msgspec.Struct, frozen=True):
    """The body of every error."""

    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A part of a path, or of a query, with its JSON schema."""

    schema: Mapping[str, object]
    meaning: str
    pattern: str = ""
    """What the router takes for it in a path; "": anything without a slash."""


NAME: Final = Parameter(schema={"type": "string", "minLength": 1}, meaning="A service's name, percent-encoded.")
NUMBER: Final = Parameter(
    schema={"type": "integer", "minimum": 0, "maximum": 999_999_999_999},
    meaning="A generation's number.",
    pattern="[0-9]{1,12}",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path."""

    method: str
    path: str
    handler: Handler
    summary: str
    answer: Any
    """The type of the body; str where it is not JSON."""
    content_type: str = JSON
    other_answers: Mapping[int, Any] = field(default_factory=dict)
    """Statuses, beside 200, whose body is no error."""
    body: type | None = None
    body_required: bool = False
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    """Of the path; all that it names."""
    query: Mapping[str, Parameter] = field(default_factory=dict)
    """All that it may have; anything else is refused."""
    errors: Mapping[int, str] = field(default_factory=dict)
    """Status to when it comes."""
    etag: bool = False
    if_match: IfMatch = IfMatch.UNUSED

    @property
    def writes(self) -> bool:
        return self.method not in (hdrs.METH_GET, hdrs.METH_HEAD)

    @property
    def route(self) -> web.RouteDef:
        path = self.path
        for name, parameter in self.parameters.items():
            if parameter.pattern:
                path = path.replace(f"{{{name}}}", f"{{{name}:{parameter.pattern}}}")
        handler = _strict(self.handler, frozenset(self.query))
        return web.get(path, handler) if self.method == hdrs.METH_GET else web.route(self.method, path, handler)


def _strict(handler: Handler, allowed: frozenset[str]) -> Handler:
    """Refuse a query that would not be heeded: whoever wrote it believes that it is."""

    async def strict(request: web.Request) -> web.StreamResponse:
        unknown = sorted(set(request.query) - allowed)
        if unknown:
            allows = ", ".join(sorted(allowed)) or "none"
            raise web.HTTPBadRequest(reason=f"unknown query parameter {unknown[0]!r}; allowed: {allows}")
        return await handler(request)

    return strict
