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


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDifference:
    """One file; ``lines`` end with their line breaks and begin with the two names. What is the operator's own is not
    among them: the admin API and its page have other readers than nginx.conf."""

    path: str
    lines: tuple[str, ...]
    added: int
    removed: int


def contents(generation: Path) -> dict[str, str]:
    """Return a generation's files by their paths in it, without the stamp, which is another in each.

    Nothing where it is not there; raise OSError where a file is gone while it is read.
    """
    return {
        str(path.relative_to(generation)): path.read_text()
        for folder in ("http.d", "stream.d")
        for path in sorted((generation / folder).glob("*.conf"))
        if str(path.relative_to(generation)) != STAMP_FILE
    }


def compare(
    before: Mapping[str, str], after: Mapping[str, str], *, names: tuple[str, str]
) -> tuple[FileDifference, ...]:
    """Return the files that differ; ``names`` stand before their paths."""
    differing = (path for path in sorted({*before, *after}) if before.get(path, "") != after.get(path, ""))
    return tuple(_compare(path, before.get(path, ""), after.get(path, ""), names) for path in differing)


def summary(differences: tuple[FileDifference, ...], against: str) -> str:
    added, removed = (sum(getattr(each, kind) for each in differences) for kind in ("added", "removed"))
    return f"{len(differences)} files change against {against}: {added} lines added, {removed} removed"


def _compare(path: str, before: str, after: str, names: tuple[str, str]) -> FileDifference:
    old, new = (f"{name}/{path}" for name in names)
    lines = tuple(difflib.unified_diff(before.splitlines(keepends=True), after.splitlines(keepends=True), old, new))
    # The first two are the names.
    marks = [line[0] for line in lines[2:]]
    shown = (*lines[:2], _NOT_SHOWN) if path == OPERATOR_FILE else lines
    return FileDifference(path=path, lines=shown, added=marks.count("+"), removed=marks.count("-"))
