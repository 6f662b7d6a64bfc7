"""What the operator says around ours, where nginx inherits all of a directive's lines or none: one of ours would end
his, so his are said again beside it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from proxygen.kit.templating import Block
from proxygen.proxy.render.defaults import innermost, lines_of, lines_of_any, words_of
from proxygen.proxy.render.subrequests import NAMING
from proxygen.proxy.render.views import DefaultLine, Template

CARRIED: Final = frozenset(
    {
        *NAMING,
        "add_header",
        "add_header_inherit",
        "error_page",
        "fastcgi_ignore_headers",
        "fastcgi_param",
        "grpc_ignore_headers",
        "grpc_set_header",
        "limit_req",
        "proxy_ignore_headers",
        "proxy_set_header",
        "uwsgi_ignore_headers",
        "uwsgi_param",
    }
)
"""The directives whose lines in nginx.conf's ``http`` are needed for this."""

BEFORE_ACCESS: Final = frozenset(
    {
        "add_header",
        "client_max_body_size",
        "error_page",
        "limit_conn",
        "limit_conn_dry_run",
        "limit_conn_status",
        "limit_req",
        "limit_req_dry_run",
        "limit_req_status",
    }
)
"""What nginx obeys before it asks for a password, or when it refuses one."""

_ACCEL: Final = {
    Template.PROXY: ("X-Accel-Redirect", "X-Accel-Expires", "X-Accel-Limit-Rate", "X-Accel-Charset"),
    Template.GRPC: ("X-Accel-Redirect", "X-Accel-Charset"),
}
"""By which an instance steers nginx: into paths of other services and internal ones, for one. X-Accel-Buffering, by
which it asks that its answer be passed on at once, is obeyed. gRPC has no more than these."""


def added_headers(within: Iterable[Block], *around: Iterable[Block]) -> tuple[Block, ...]:
    """The operator's ``add_header`` lines that one of ours would hide; ``within`` is what he says in the same block."""
    within = tuple(within)
    said = innermost("add_header_inherit", within, *around)
    if lines_of("add_header", within) or (said and words_of(said[-1])[1:] != ("on",)):
        return ()
    return innermost("add_header", *around)


def limits(within: Iterable[Block], *around: Iterable[Block]) -> tuple[Block, ...]:
    """The same of ``limit_req``."""
    return () if lines_of("limit_req", within) else innermost("limit_req", *around)


def parameters(
    directive: str, within: Iterable[Block], *around: Iterable[Block], ours: Collection[str] = ()
) -> tuple[Block, ...]:
    """The same of what is passed to instances, without the names that are ours, which would be passed twice."""
    if lines_of(directive, within):
        return ()
    lines = ((line, words_of(line)[1:2]) for line in innermost(directive, *around))
    return tuple(line for line, names in lines if names and names[0].lower() not in ours)


def gate_lines(fragments: Iterable[Block]) -> tuple[Block, ...]:
    return lines_of_any(BEFORE_ACCESS, fragments)


def ignored_headers(template: Template, within: Iterable[Block], *around: Iterable[Block]) -> DefaultLine | None:
    """The line by which nginx ignores what an instance orders it to do; None where the operator ignores all of it
    already. nginx warns of a header that one block names twice."""
    directive = f"{template.module}_ignore_headers"
    stated = {word.lower() for line in lines_of(directive, within) for word in words_of(line)[1:]}
    inherited = () if stated else (word for line in innermost(directive, *around) for word in words_of(line)[1:])
    names = {name.lower(): name for name in (*_ACCEL.get(template, _ACCEL[Template.PROXY]), *inherited)}
    words = tuple(name for key, name in names.items() if key not in stated)
    return DefaultLine(directive, words) if words else None
