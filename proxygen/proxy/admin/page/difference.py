"""What one generation changed, line by line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from proxygen.proxy.admin.report import DiffReport, FileChange

_KINDS: Final = {"+": "added", "-": "removed", "@": "place"}
_HEADS: Final = ("+++", "---")


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffLine:
    """One line of a unified diff."""

    text: str
    kind: str
    """A class of the style sheet: added, removed, same, or place (where the next lines stand)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileView:
    """One file that is different."""

    path: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DifferenceView:
    """The page of one generation."""

    number: int
    summary: str
    files: tuple[FileView, ...]
    lines: tuple[DiffLine, ...]
    truncated: bool


def difference_view(report: DiffReport) -> DifferenceView:
    return DifferenceView(
        number=report.generation,
        summary=report.summary,
        files=tuple(_file(change) for change in report.files),
        lines=tuple(_line(line) for line in report.diff.rstrip("\n").split("\n")),
        truncated=report.truncated,
    )


def _file(change: FileChange) -> FileView:
    return FileView(path=change.path, text=f"+{change.added} −{change.removed}")


def _line(text: str) -> DiffLine:
    return DiffLine(text=text, kind="place" if text.startswith(_HEADS) else _KINDS.get(text[:1], "same"))
