"""Durations and sizes as people and nginx write them: ``500ms``, ``30s``, ``10m``."""

from __future__ import annotations

import re
from typing import Final

from proxygen.kit.errors import quoted

_DURATION: Final = re.compile(r"(0|[1-9][0-9]{0,14})(ms|s|m|h|d)")
_MILLISECONDS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_SIZE: Final = re.compile(r"(0|[1-9][0-9]{0,14})([kmgKMG]?)")
_BYTES: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def parse_duration(text: str) -> int:
    """Return milliseconds. Raise ValueError for anything but a whole number and a unit."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{quoted(text)} is not a duration; write a whole number and ms, s, m, h or d, such as 30s")
    return int(match[1]) * _MILLISECONDS[match[2]]


def format_duration(milliseconds: int) -> str:
    """Return the shortest text that `parse_duration` reads back, in a unit that nginx knows too."""
    for unit in ("d", "h", "m", "s"):
        if milliseconds and milliseconds % _MILLISECONDS[unit] == 0:
            return f"{milliseconds // _MILLISECONDS[unit]}{unit}"
    return f"{milliseconds}ms"


def parse_size(text: str) -> int:
    """Return bytes. Raise ValueError for anything but a whole number with an optional k, m or g."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"{quoted(text)} is not a size; write a whole number, optionally with k, m or g, such as 10m")
    return int(match[1]) * _BYTES[match[2].lower()]


def format_size(size: int) -> str:
    """Return the shortest text that `parse_size` reads back."""
    for unit in ("g", "m", "k"):
        if size and size % _BYTES[unit] == 0:
            return f"{size // _BYTES[unit]}{unit}"
    return str(size)
