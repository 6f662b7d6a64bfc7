"""nginx's error log from a moment on: the reason that nginx gives only there when it refuses a reload."""

from __future__ import annotations

import os
import re
import stat
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_LINE: Final = re.compile(r"^\S+ \S+ \[(?P<level>emerg|alert|crit)\] (?P<pid>\d+)#\d+: (?P<text>.*)$", re.MULTILINE)
_MOST_AT_ONCE: Final = 1 << 20
_MOST_LINES: Final = 20
_LONGEST: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """A line of a severity that no traffic causes."""

    level: str
    pid: int
    """As the process that wrote it knows itself."""
    text: str

    def __str__(self) -> str:
        return f"[{self.level}] {self.text}"


class LogTail:
    """What is written to a log after this object was made. A log that is no regular file stays silent."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._inode, self._offset = _state(path)
        self.lines: deque[LogLine] = deque(maxlen=_MOST_LINES)
        """The last severe lines seen so far, oldest first."""

    def read(self) -> list[LogLine]:
        """Return the severe lines that are new since the last call."""
        inode, size = _state(self._path)
        if self._path is None or inode == 0:
            return []
        if inode != self._inode or size < self._offset:
            # Rotated or truncated: what matters was written after that, or will be.
            self._inode, self._offset = inode, 0
        found: list[LogLine] = []
        with suppress(OSError), self._path.open("rb") as file:
            file.seek(self._offset)
            # Up to the last whole line; the rest is read again with its end.
            chunk = file.read(_MOST_AT_ONCE)
            whole = chunk[: chunk.rfind(b"\n") + 1]
            self._offset += len(whole)
            found = [
                LogLine(level=match["level"], pid=int(match["pid"]), text=match["text"][:_LONGEST])
                for match in _LINE.finditer(whole.decode("utf-8", "replace"))
            ]
        self.lines.extend(found)
        return found


def _state(path: Path | None) -> tuple[int, int]:
    if path is not None:
        with suppress(OSError):
            status = os.stat(path)
            return (status.st_ino, status.st_size) if stat.S_ISREG(status.st_mode) else (0, 0)
    return (0, 0)
