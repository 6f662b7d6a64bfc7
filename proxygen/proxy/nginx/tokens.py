"""nginx's own syntax, as far as one must read it to find a directive and its place in a file.

The rules are those of ``ngx_conf_read_token``. What nginx would refuse is not diagnosed here beyond saying that
the text cannot be read: ``nginx -t`` explains it better.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_TOKEN: Final = re.compile(
    r"""
    (?P<space>[ \t\r\n]+ | \#[^\n]*)
  | (?P<punctuation>[;{}])
  | (?P<quoted>"(?:[^"\\]|\\.)*" | '(?:[^'\\]|\\.)*')
  | (?P<bare>(?:\\.|\$\{|[^ \t\r\n;{}\#"'\\]) (?:\\.|\$\{|[^ \t\r\n;{\\])*)
    """,
    re.VERBOSE | re.DOTALL,
)
_ESCAPE: Final = re.compile(r"""\\(["'\\trn])""")
_ESCAPED: Final = {"t": "\t", "r": "\r", "n": "\n"}

# Lua between the braces of a *_by_lua_block: strings and comments may hold braces that do not count.
_LUA: Final = re.compile(
    r"""
    --\[(?P<c>=*)\[.*?\](?P=c)\] | --[^\n]* | \[(?P<s>=*)\[.*?\](?P=s)\]
  | "(?:[^"\\\n]|\\.)*" | '(?:[^'\\\n]|\\.)*' | (?P<brace>[{}]) | [^-\["'{}]+ | .
    """,
    re.VERBOSE | re.DOTALL,
)


class Unreadable(ValueError):
    """The text is not nginx syntax: an open quote, block or directive. ``line`` is where it goes wrong."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line


@dataclass(frozen=True, slots=True, kw_only=True)
class Directive:
    """One directive, or one entry of a block such as ``map``."""

    name: str
    arguments: tuple[str, ...]
    """Without quotes and escapes."""
    context: tuple[str, ...]
    """Names of the blocks around it within its file, outermost first."""
    line: int
    start: int
    """Where its name stands in the text."""
    span: tuple[int, int]
    """Where its arguments stand in the text; empty after the name where there are none."""


def read_directives(text: str) -> Iterator[Directive]:
    """Yield the directives in their order, a block's own before those inside it. Raise Unreadable."""
    context: list[str] = []
    words: list[re.Match[str]] = []
    position, line, counted = 0, 1, 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise Unreadable(line + text.count("\n", counted, position), "a quote that is never closed")
        position = match.end()
        if match["space"]:
            continue
        if match["punctuation"] is None:
            words.append(match)
            continue
        start = words[0].start() if words else match.start()
        line, counted = line + text.count("\n", counted, start), start
        if match[0] == "}":
            if words or not context:
                raise Unreadable(line, 'an unexpected "}"')
            context.pop()
            continue
        if not words:
            raise Unreadable(line, f'an unexpected "{match[0]}"')
        directive = _directive(words, tuple(context), line)
        yield directive
        words = []
        if match[0] == "{" and directive.name.endswith("_by_lua_block"):
            position = _end_of_lua(text, position, line)
        elif match[0] == "{":
            context.append(directive.name)
    if words or context:
        raise Unreadable(line, f"the end of the file inside {(context or [words[0][0]])[-1]!r}")


def _directive(words: list[re.Match[str]], context: tuple[str, ...], line: int) -> Directive:
    name, *arguments = (_unescape(word) for word in words)
    first = words[1].start() if arguments else words[0].end()
    return Directive(
        name=name,
        arguments=tuple(arguments),
        context=context,
        line=line,
        start=words[0].start(),
        span=(first, words[-1].end()),
    )


def _unescape(word: re.Match[str]) -> str:
    text = word[0][1:-1] if word["quoted"] else word[0]
    return _ESCAPE.sub(lambda match: _ESCAPED.get(match[1], match[1]), text) if "\\" in text else text


def end_of(text: str, directive: Directive) -> tuple[int, int]:
    """Return where what belongs to a directive begins and ends: the inside of its block, or nothing before its end.

    The second place is behind its last character. The text must be one that `read_directives` reads.
    """
    words: list[str] = []
    depth, inside, position = 0, directive.span[1], directive.span[1]
    while match := _TOKEN.match(text, position):
        position = match.end()
        if match["space"]:
            continue
        if match["punctuation"] is None:
            words.append(match[0])
            continue
        if match[0] == "{" and words and words[0].endswith("_by_lua_block"):
            position = _end_of_lua(text, position, 0)
        elif match[0] == "{":
            inside = inside if depth else position
            depth += 1
        elif match[0] == "}":
            depth -= 1
        words = []
        if depth == 0:
            break
    return inside, position


def _end_of_lua(text: str, position: int, line: int) -> int:
    depth = 1
    for match in _LUA.finditer(text, position):
        depth += {"{": 1, "}": -1}.get(match["brace"], 0)
        if depth == 0:
            return match.end()
    raise Unreadable(line, "a Lua block that is never closed")


def quote(text: str) -> str:
    """Return ``text`` as one quoted token. It must hold no ``$``, which nginx cannot escape."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
