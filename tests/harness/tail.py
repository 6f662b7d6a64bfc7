"""A log of JSON lines, read as it grows."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any


class JsonLines:
    """The lines of a file that is written meanwhile; each is read and parsed once, by whichever thread asks first."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._read = 0
        self._lines: list[dict[str, Any]] = []

    def so_far(self) -> list[dict[str, Any]]:
        """Return the whole lines that there are, oldest first, without those that are no JSON object."""
        with self._lock:
            self._catch_up()
            return list(self._lines)

    def _catch_up(self) -> None:
        try:
            size = self._path.stat().st_size
        except FileNotFoundError:
            size = 0
        if size < self._read:
            # The file began anew.
            self._read, self._lines = 0, []
        if size == self._read:
            return
        with self._path.open("rb") as file:
            file.seek(self._read)
            new, _, _ = file.read().rpartition(b"\n")
        if new:
            self._read += len(new) + 1
            self._lines += [json.loads(line) for line in new.splitlines() if line.startswith(b"{")]
