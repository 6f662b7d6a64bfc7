"""What virtual servers say of sizes, times and buffers, unless the operator says it himself.

nginx refuses a directive that stands twice in one block, and a block's own word hides the one around it: where a
fragment or nginx.conf's ``http`` states one of these, ours is left out.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from proxygen.templating import Block
from proxygen.views import DefaultLine, Template

if TYPE_CHECKING:
    from proxygen.viewing import Surroundings

_STATED: Final = re.compile(r"(?:^|[;{}])[ \t]*([a-z][a-z0-9_]*)(?=[ \t\r\n])", re.MULTILINE)
_LINE: Final = r"""^[ \t]*({}[ \t](?:"[^"\n]*"|'[^'\n]*'|[^;{{}}#"'\n])*;)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestDefaults:
    """The operator's wishes for every request that no tag of its service answers otherwise."""

    body_size: int = 0
    """Bytes; 0: no limit."""
    header_size: int = 32_768
    """Bytes."""
    any_header_names: bool = False
    timeout: int = 300_000
    """Milliseconds, as all time-outs here."""
    idle_timeout: int = 3_600_000
    keepalive_timeout: int = 1_000
    request_buffering: bool = True
    response_buffering: bool = True
    retries_unsafe: bool = False


def stated(fragments: Iterable[Block]) -> frozenset[str]:
    """The directives that fragments of the operator's begin lines with; one in a comment may be among them."""
    return frozenset(name for fragment in fragments for name in _STATED.findall(fragment))


def lines_of(directive: str, fragments: Iterable[Block]) -> tuple[Block, ...]:
    """What fragments say by one directive, to be said again where a level of ours would hide it."""
    pattern = re.compile(_LINE.format(directive), re.MULTILINE)
    return tuple(Block(line) for fragment in fragments for line in pattern.findall(fragment))


def server_lines(
    around: Surroundings, spoken: Collection[Template], said: frozenset[str], of_services: frozenset[str]
) -> tuple[DefaultLine, ...]:
    """The lines of a virtual server whose locations speak by these templates.

    ``said`` is what the operator says in it or around it, ``of_services`` what his fragments for its services say.
    """
    groups = (_every_server(around.requests), *(_buffers(module, around.requests) for module in _modules(spoken)))
    return tuple(
        line
        for group in groups
        for line in group
        if line.directive not in said and not (_is_size(line) and any(map(_is_size_name, said | of_services)))
    )


def _every_server(requests: RequestDefaults) -> tuple[DefaultLine, ...]:
    lines = [
        DefaultLine("server_tokens", ("off",)),
        # An instance's relative Location would name this nginx's own scheme and port, which a balancer hides.
        DefaultLine("absolute_redirect", ("off",)),
        DefaultLine("client_max_body_size", (requests.body_size,)),
        DefaultLine("large_client_header_buffers", (4, requests.header_size)),
        # A request takes some 8 kB: in nginx's own blocks of 4 kB a third one, nearly all of it empty.
        DefaultLine("request_pool_size", (3_072,)),
    ]
    if requests.any_header_names:
        lines += [DefaultLine("underscores_in_headers", ("on",)), DefaultLine("ignore_invalid_headers", ("off",))]
    return tuple(lines)


def _modules(spoken: Collection[Template]) -> Iterator[str]:
    """proxy always, since what an operator's fragment adds may use it."""
    yield "proxy"
    yield from (template.module for template in (Template.GRPC, Template.FASTCGI, Template.UWSGI) if template in spoken)


def _buffers(module: str, requests: RequestDefaults) -> tuple[DefaultLine, ...]:
    size, patience = requests.header_size, f"{requests.timeout}ms"
    if module == "grpc":
        patience = f"{requests.idle_timeout}ms"
        sizes = [DefaultLine("grpc_buffer_size", (size,))]
    else:
        # An answer's headers must fit into the first buffer, and what is on its way to the client into the others but
        # one.
        each = max(4_096, size // 8)
        sizes = [
            DefaultLine(f"{module}_buffer_size", (size,)),
            DefaultLine(f"{module}_buffers", (9, each)),
            DefaultLine(f"{module}_busy_buffers_size", (max(size, 8 * each),)),
        ]
        if not requests.request_buffering:
            sizes.append(DefaultLine(f"{module}_request_buffering", ("off",)))
        if not requests.response_buffering:
            sizes.append(DefaultLine(f"{module}_buffering", ("off",)))
    return (
        *sizes,
        DefaultLine(f"{module}_read_timeout", (patience,)),
        DefaultLine(f"{module}_send_timeout", (patience,)),
        DefaultLine(f"{module}_socket_keepalive", ("on",)),
        DefaultLine(f"{module}_next_upstream_timeout", ("10s",)),
    )


def _is_size(line: DefaultLine) -> bool:
    return _is_size_name(line.directive)


def _is_size_name(directive: str) -> bool:
    """Whether it is one of the buffers' sizes, which must fit each other: they are all the operator's or all ours."""
    return directive.endswith(("_buffer_size", "_buffers", "_busy_buffers_size"))
