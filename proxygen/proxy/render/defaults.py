"""What virtual servers say of sizes, times and buffers, unless the operator says it himself.

nginx refuses a directive that stands twice in one block, and a block's own word hides the one around it: where a
fragment or nginx.conf's ``http`` states one of these, ours is left out.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache
from typing import Final, TypeVar

from proxygen.kit.templating import Block
from proxygen.proxy.render.surroundings import RequestDefaults, Surroundings
from proxygen.proxy.render.views import DefaultLine, Template

_WORD: Final = r"""(?:\$\{[^}]*\}|[^\s;{}"'#])(?:\$\{[^}]*\}|[^\s;{}])*"""
_TOKEN: Final = re.compile(rf"""#[^\n]*|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|{_WORD}|[;{{}}]|\s+""", re.DOTALL)
"""A comment, a text in quotes, a word, an end, or white space (ngx_conf_read_token)."""


def stated(fragments: Iterable[Block]) -> frozenset[str]:
    """The directives that fragments of the operator's say themselves, not in a block of theirs."""
    return frozenset(line.split(None, 1)[0] for fragment in fragments for line in _lines(fragment))


def lines_of(directive: str, fragments: Iterable[Block]) -> tuple[Block, ...]:
    """What fragments say by one directive, to be said again where a level of ours would hide it."""
    return lines_of_any(frozenset({directive}), fragments)


def lines_of_any(directives: Collection[str], fragments: Iterable[Block]) -> tuple[Block, ...]:
    """The same of several, in the order of the fragments."""
    lines = (line for fragment in fragments for line in _lines(fragment))
    return tuple(Block(f"{line};") for line in lines if line.split(None, 1)[0] in directives)


def innermost(directive: str, *levels: Iterable[Block]) -> tuple[Block, ...]:
    """The lines that nginx would inherit: those of the first of these levels that has any."""
    return next(filter(None, (lines_of(directive, level) for level in levels)), ())


def words_of(line: str) -> tuple[str, ...]:
    """The words of one line, without their quotes."""
    tokens = (token for token in _TOKEN.findall(line) if not token.isspace() and token not in (";", "{", "}"))
    return tuple(token[1:-1] if token[0] in "\"'" else token for token in tokens)


def mentions(fragments: Iterable[Block], words: Collection[str]) -> bool:
    """Whether one of these directives stands in fragments at all, in a block of theirs too."""
    return any(token in words for fragment in fragments for token in _TOKEN.findall(fragment))


@lru_cache(maxsize=1_024)
def _lines(fragment: str) -> tuple[str, ...]:
    return tuple(_read_lines(fragment))


def _read_lines(fragment: str) -> Iterator[str]:
    """The directives of a fragment without their ends; of a block its head."""
    depth, words = 0, ""
    for token in _TOKEN.findall(fragment):
        if token in (";", "{", "}"):
            if depth == 0 and words.strip():
                yield words.strip()
            depth, words = depth + {"{": 1, "}": -1, ";": 0}[token], ""
        elif not token.startswith("#"):
            words += token


def server_lines(
    around: Surroundings, spoken: Collection[Template], said: frozenset[str], of_services: frozenset[str]
) -> tuple[DefaultLine, ...]:
    """The lines of a virtual server whose locations speak by these templates.

    ``said`` is what the operator says in it or around it, ``of_services`` what his fragments for its services say.
    """
    if "include" in said:
        # Whatever that says.
        return ()
    lines = [line for line in _every_server(around.requests) if line.directive not in said]
    for module in _modules(spoken):
        sizes, rest = _sizes(module, around.requests), _rest(module, around.requests)
        own = {f"{module}_temp_file_write_size", f"{module}_max_temp_file_size", "include"}
        if (said | of_services).isdisjoint(own | {line.directive for line in sizes}):
            lines += sizes
        lines += (line for line in rest if line.directive not in said)
    return tuple(lines)


def _every_server(requests: RequestDefaults) -> tuple[DefaultLine, ...]:
    lines = [
        DefaultLine("server_tokens", ("off",)),
        # An instance's relative Location would name this nginx's own scheme and port, which a balancer hides.
        DefaultLine("absolute_redirect", ("off",)),
        DefaultLine("client_max_body_size", (requests.body_size,)),
        DefaultLine("large_client_header_buffers", (4, requests.header_size)),
        # A request takes some 8 kB: two blocks of this size. In nginx's own of 4 kB it takes a third, nearly all of it
        # empty; smaller ones are one more to allocate.
        DefaultLine("request_pool_size", (4_608,)),
    ]
    if requests.any_header_names:
        lines += [DefaultLine("underscores_in_headers", ("on",)), DefaultLine("ignore_invalid_headers", ("off",))]
    return tuple(lines)


_TLS: Final = (
    DefaultLine("ssl_protocols", ("TLSv1.2", "TLSv1.3")),
    DefaultLine("ssl_session_timeout", ("1d",)),
    DefaultLine("ssl_session_tickets", ("off",)),
)


def tls_lines(said: frozenset[str]) -> tuple[DefaultLine, ...]:
    """What virtual servers with a certificate say beside it; ``said`` as in `server_lines`."""
    # What an include says is not known, and nginx takes none of these twice.
    return () if "include" in said else tuple(line for line in _TLS if line.directive not in said)


def _modules(spoken: Collection[Template]) -> Iterator[str]:
    """proxy always, since what an operator's fragment adds may use it."""
    yield "proxy"
    yield from (template.module for template in (Template.GRPC, Template.FASTCGI, Template.UWSGI) if template in spoken)


def _sizes(module: str, requests: RequestDefaults) -> list[DefaultLine]:
    """Sizes that must fit each other: they are all the operator's or all ours."""
    size = requests.header_size
    if module == "grpc":
        return [DefaultLine("grpc_buffer_size", (size,))]
    # An answer's headers must fit into the first buffer, and what is on its way to the client into the others but one.
    each = max(4_096, -(-size // 8))
    return [
        DefaultLine(f"{module}_buffer_size", (size,)),
        DefaultLine(f"{module}_buffers", (9, each)),
        DefaultLine(f"{module}_busy_buffers_size", (8 * each,)),
    ]


def _rest(module: str, requests: RequestDefaults) -> list[DefaultLine]:
    patience = f"{requests.idle_timeout if module == 'grpc' else requests.timeout}ms"
    lines = [
        DefaultLine(f"{module}_read_timeout", (patience,)),
        DefaultLine(f"{module}_send_timeout", (patience,)),
        DefaultLine(f"{module}_socket_keepalive", ("on",)),
        DefaultLine(f"{module}_next_upstream_timeout", ("10s",)),
    ]
    if module != "grpc" and not requests.request_buffering:
        lines.append(DefaultLine(f"{module}_request_buffering", ("off",)))
    if module != "grpc" and not requests.response_buffering:
        lines.append(DefaultLine(f"{module}_buffering", ("off",)))
    return lines


_T = TypeVar("_T")


def or_default(stated_here: _T | None, otherwise: _T) -> _T:
    """What a tag states, else what holds without it."""
    return otherwise if stated_here is None else stated_here
