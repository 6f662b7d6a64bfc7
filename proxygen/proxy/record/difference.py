"""What is different between two generations' files, as a unified diff."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from proxygen.proxy.nginx.default_copies import OPERATOR_FILE
from proxygen.proxy.nginx.stamp import STAMP_FILE

_NOT_SHOWN: Final = f"@@ not shown: {OPERATOR_FILE} holds copies of servers of your nginx.conf @@\n"
_NOT_READ: Final = f"@@ not shown: this user may not read {OPERATOR_FILE}; whether it changes is not known @@\n"

Contents = Mapping[str, str | None]
"""Files by their paths in a generation; None for what is the operator's own and this user may not read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDifference:
    """One file; ``lines`` end with their line breaks and begin with the two names. What is the operator's own is not
    among them: the admin API and its page have other readers than nginx.conf."""

    path: str
    lines: tuple[str, ...]
    added: int
    removed: int
    is_compared: bool = True
    """False where this user may not read it: whether it differs is not known."""


def contents(generation: Path) -> Contents:
    """Return a generation's files, without the stamp, which is another in each.

    Nothing where it is not there; raise OSError where a file is gone while it is read, or may not be read.
    """
    paths = (path for folder in ("http.d", "stream.d") for path in _files(generation / folder))
    named = ((str(path.relative_to(generation)), path) for path in paths)
    return {name: _text(name, path) for name, path in named if name != STAMP_FILE}


def _files(folder: Path) -> list[Path]:
    # Path.glob finds nothing in a directory that may not be read.
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == ".conf")
    except FileNotFoundError:
        return []


def _text(name: str, path: Path) -> str | None:
    try:
        return path.read_text()
    except PermissionError:
        if name == OPERATOR_FILE:
            return None
        raise


def compare(before: Contents, after: Contents, *, names: tuple[str, str]) -> tuple[FileDifference, ...]:
    """Return the files that differ, and those of which that is not known; ``names`` stand before their paths."""
    pairs = ((path, before.get(path, ""), after.get(path, "")) for path in sorted({*before, *after}))
    return tuple(
        _not_read(path, names) if old is None or new is None else _compare(path, old, new, names)
        for path, old, new in pairs
        if old is None or old != new
    )


def summary(differences: tuple[FileDifference, ...], against: str) -> str:
    added, removed, known = (
        sum(getattr(each, kind) for each in differences) for kind in ("added", "removed", "is_compared")
    )
    said = f"{known} files change against {against}: {added} lines added, {removed} removed"
    unknown = len(differences) - known
    return f"{said}; {unknown} could not be compared" if unknown else said


def _not_read(path: str, names: tuple[str, str]) -> FileDifference:
    old, new = (f"{name}/{path}" for name in names)
    lines = (f"--- {old}\n", f"+++ {new}\n", _NOT_READ)
    return FileDifference(path=path, lines=lines, added=0, removed=0, is_compared=False)


def _compare(path: str, before: str, after: str, names: tuple[str, str]) -> FileDifference:
    old, new = (f"{name}/{path}" for name in names)
    lines = tuple(difflib.unified_diff(before.splitlines(keepends=True), after.splitlines(keepends=True), old, new))
    # The first two are the names.
    marks = [line[0] for line in lines[2:]]
    shown = (*lines[:2], _NOT_SHOWN) if path == OPERATOR_FILE else lines
    return FileDifference(path=path, lines=shown, added=marks.count("+"), removed=marks.count("-"))
