"""glob(3) as nginx calls it for ``include``: without flags, in the C locale, on bytes.

Python's own glob knows neither ``[^…]`` nor ``[[:digit:]]`` nor a backslash. A leading dot is matched by a dot alone;
what is found is sorted by its bytes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

_MAGIC: Final = re.compile(rb"[*?\[]")
_ESCAPED: Final = re.compile(rb"\\(.)", re.DOTALL)
# A "]" that comes first is one of the items, and nothing that was read is read otherwise to find an end.
_BRACKET: Final = re.compile(
    rb"\[(?P<not>[!^]?+)(?P<items>(?>\[:\w*:\]|\\.|[^\\])(?:\[:\w*:\]|\\.|[^\]\\])*+)\]", re.DOTALL
)
_ITEM: Final = re.compile(rb"\[:(?P<name>\w*):\]|\\(?P<escaped>.)|(?P<plain>.)", re.DOTALL)
_CLASSES: Final = {
    b"alnum": b"0-9A-Za-z",
    b"alpha": b"A-Za-z",
    b"blank": rb" \t",
    b"cntrl": rb"\x00-\x1f\x7f",
    b"digit": b"0-9",
    b"graph": rb"\x21-\x7e",
    b"lower": b"a-z",
    b"print": rb"\x20-\x7e",
    b"punct": rb"\x21-\x2f\x3a-\x40\x5b-\x60\x7b-\x7e",
    b"space": rb"\x09-\x0d\x20",
    b"upper": b"A-Z",
    b"xdigit": b"0-9A-Fa-f",
}
_NONE: Final = rb"(?!)"


def has_magic(pattern: bytes) -> bool:
    """Whether nginx takes the path of an include for a pattern."""
    return _MAGIC.search(pattern) is not None


def find(pattern: bytes) -> tuple[bytes, ...]:
    """Return the paths that an absolute pattern matches; those that cannot be seen are none."""
    found = [b"/"]
    parts = [part for part in pattern.split(b"/") if part]
    for number, part in enumerate(parts, 1):
        found = [path for base in found for path in _matches(base, part, is_last=number == len(parts))]
    return tuple(sorted(found))


def _matches(base: bytes, part: bytes, *, is_last: bool) -> Iterator[bytes]:
    if not has_magic(part):
        paths = iter((os.path.join(base, _ESCAPED.sub(rb"\1", part)),))
    else:
        matcher = _matcher(part)
        paths = (os.path.join(base, name) for name in _names(base) if matcher.fullmatch(name))
    return (path for path in paths if (os.path.lexists(path) if is_last else os.path.isdir(path)))


def _names(directory: bytes) -> list[bytes]:
    try:
        return [b".", b"..", *os.listdir(directory)]
    except OSError:
        return []


@lru_cache(maxsize=256)
def _matcher(part: bytes) -> re.Pattern[bytes]:
    text, position = b"" if part.startswith((b".", rb"\.")) else rb"(?!\.)", 0
    while position < len(part):
        letter = part[position : position + 1]
        bracket = _BRACKET.match(part, position) if letter == b"[" else None
        if bracket is not None:
            text += _bracket(bracket["items"], negated=bool(bracket["not"]))
            position = bracket.end()
            continue
        if letter == b"\\" and position + 1 < len(part):
            position += 1
            letter = part[position : position + 1]
            text += re.escape(letter)
        else:
            text += {b"*": b".*", b"?": b"."}.get(letter) or re.escape(letter)
        position += 1
    return re.compile(text, re.DOTALL)


def _bracket(items: bytes, *, negated: bool) -> bytes:
    """Return a bracket expression as Python's; one with an unknown class or a reversed range matches nothing."""
    found = list(_ITEM.finditer(items))
    ranges, position = b"", 0
    while position < len(found):
        if (name := found[position]["name"]) is not None:
            if name not in _CLASSES:
                return _NONE
            ranges += _CLASSES[name]
            position += 1
            continue
        first = last = _letter(found[position])
        if position + 2 < len(found) and found[position + 1]["plain"] == b"-" and found[position + 2]["name"] is None:
            last = _letter(found[position + 2])
            position += 2
        position += 1
        if first <= last:
            ranges += rb"\x%02x-\x%02x" % (first[0], last[0])
    if not ranges:
        return b"." if negated else _NONE
    return b"[" + (b"^" if negated else b"") + ranges + b"]"


def _letter(item: re.Match[bytes]) -> bytes:
    return item["escaped"] or item["plain"]
