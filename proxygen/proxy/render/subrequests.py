"""Requests of nginx's own that the operator asks for in ``http``, such as ``auth_request /allows``.

nginx sends each to a path of the virtual server that was asked. In one of ours a tag's location would answer it, and a
service would decide who is let in. So such a path is answered here, unless the operator does it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Final

from proxygen.kit.templating import Block, Regex
from proxygen.proxy.render.defaults import innermost, lines_of_any, stated, words_of
from proxygen.proxy.render.views import DefaultLine, SubrequestView

_NOTHING: Final = DefaultLine("return", (204,))
# With a text of its own no error page takes the place of the answer, which may have another status.
_DENIED: Final = DefaultLine("return", (403, "denied"))

NAMING: Final[Mapping[str, DefaultLine]] = MappingProxyType(
    {"add_after_body": _NOTHING, "add_before_body": _NOTHING, "mirror": _NOTHING, "auth_request": _DENIED}
)
"""The directives of ``http`` that name a path, and what answers there: nobody is let in, nothing is added or copied."""

_OFF: Final = {"auth_request": "off", "mirror": "off", "add_after_body": '""', "add_before_body": '""'}
_LOCATION: Final = re.compile(r"(?P<kind>=|\^~|~\*|~|)(?P<path>.*)", re.DOTALL)
_ESCAPE: Final = re.compile(r"""\\(["'\\])""")


def subrequests(
    fragments: Collection[Block], outermost: Collection[Block], paths: Collection[str]
) -> tuple[SubrequestView, ...]:
    """What ours answer in a virtual server: with these fragments of the operator's in it, with what he says around it,
    and with routes of tags at ``paths``."""
    return tuple(
        SubrequestView(path=Regex(path), answer=answer)
        for path, answer in sorted(_inherited(fragments, outermost).items())
        if not _answer(fragments, path, paths)
    )


def closed(fragments: Collection[Block], outermost: Collection[Block]) -> frozenset[str]:
    """The paths at which a route of a tag has no exact location, since that of ours or of the operator's stands there:
    nginx refuses a second one, and the route would keep him from adding his."""
    asked = {path for directive in NAMING for path in _named(innermost(directive, fragments, outermost))}
    if not asked:
        return frozenset()
    his = {path for kind, path in _locations(fragments) if kind == "="}
    return frozenset(_inherited(fragments, outermost)) | (asked & his)


def _inherited(fragments: Collection[Block], outermost: Collection[Block]) -> dict[str, DefaultLine]:
    """What nginx asks for by what stands around a virtual server, and what ours answer."""
    said = stated(fragments)
    if "include" in said:
        # It may bring the location, and nginx refuses a second one.
        return {}
    found: dict[str, DefaultLine] = {}
    for directive in NAMING.keys() - said:
        for path in _named(innermost(directive, outermost)):
            found[path] = _DENIED if _DENIED in (NAMING[directive], found.get(path)) else _NOTHING
    return found


def unanswered(lines: Iterable[tuple[str, Block]], fragments: Collection[Block]) -> Iterator[str]:
    """Say which lines of the operator's for all virtual servers, each after its place, no location of his answers in
    ours. ``fragments`` are those that stand in every one."""
    said = stated(fragments)
    for place, line in lines:
        directive = words_of(line)[0]
        if directive in said:
            continue
        for path in _named((line,)):
            if not _answer(fragments, path, ()):
                yield (
                    f"{place}: {directive} {path} applies in the virtual servers of tags too, and"
                    f" {_who_answers(directive, said)}; put location = {path} into the fragment server.conf itself, or"
                    f" {directive} {_OFF[directive]};"
                )


def _who_answers(directive: str, said: Collection[str]) -> str:
    if "include" in said:
        return "server.conf includes files that are not read: unless they answer it, an instance does"
    return f"no location of yours answers it there: proxygen does, with {NAMING[directive].words[0]}"


def _named(lines: Iterable[Block]) -> Iterator[str]:
    """nginx takes the word as it stands for a path, variables too. One without a slash meets no tag's location."""
    for line in lines:
        for word in words_of(line)[1:2]:
            if word.startswith("/"):
                yield _ESCAPE.sub(r"\1", word)


def _answer(fragments: Iterable[Block], asked: str, paths: Collection[str]) -> bool:
    """Whether nginx takes a location of these fragments for a path: the exact one, else one by a regular expression,
    else the longest prefix. A tag may have the first and the last."""
    locations = _locations(fragments)
    if ("=", asked) in locations or asked in paths:
        return ("=", asked) in locations
    longest = max((len(path) + 1 for path in paths if asked.startswith(f"{path}/")), default=1)
    return any(
        _matches(kind, path, asked) if kind.startswith("~") else asked.startswith(path) and len(path) > longest
        for kind, path in locations
        if kind != "="
    )


def _locations(fragments: Iterable[Block]) -> list[tuple[str, str]]:
    heads = (_LOCATION.fullmatch("".join(words_of(line)[1:])) for line in lines_of_any({"location"}, fragments))
    return [(head["kind"], head["path"]) for head in heads if head is not None]


def _matches(kind: str, pattern: str, path: str) -> bool:
    try:
        return re.search(pattern, path, re.IGNORECASE if kind == "~*" else 0) is not None
    except re.error:
        # nginx's regular expressions are not quite Python's.
        return True
