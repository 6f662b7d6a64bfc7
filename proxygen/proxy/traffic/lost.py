"""Lines that nginx could not send, by its own count: it writes one warning for each into its error log.

Nobody else knows of them. nginx's send does not wait: while the socket's queue is full it fails, the kernel counts
nothing (SO_RXQ_OVFL is of sockets that drop by themselves), and no variable of nginx numbers a worker's requests.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

_WARNING: Final = b"send() to syslog failed"
_AT_ONCE: Final = 1 << 20
_MOST: Final = 16
"""Chunks that are read each time; what is written beyond them is not counted."""


class LostLines:
    """Counts the warnings in a log from now on."""

    def __init__(self, log: Path) -> None:
        self._log: Final = log
        self._inode, self._offset = self._state()
        self.count = 0

    def read(self) -> None:
        """Count what was written since the last time."""
        inode, size = self._state()
        if inode != self._inode or size < self._offset:
            # Rotated or truncated: what is in it now was written after that.
            self._inode, self._offset = inode, 0
        if size > self._offset:
            with suppress(OSError), self._log.open("rb") as file:
                self._count(file.fileno())

    def _count(self, descriptor: int) -> None:
        for _ in range(_MOST):
            chunk = os.pread(descriptor, _AT_ONCE, self._offset)
            # Whole lines; the rest is read again with its end.
            whole = chunk[: chunk.rfind(b"\n") + 1]
            self.count += whole.count(_WARNING)
            self._offset += len(whole)
            if len(chunk) < _AT_ONCE:
                return
        self._offset = os.fstat(descriptor).st_size

    def _state(self) -> tuple[int, int]:
        with suppress(OSError):
            status = os.stat(self._log)
            return status.st_ino, status.st_size
        return 0, 0
