"""A file that one process holds at a time, and that names it."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class LockHeld(Exception):
    """Another process holds the lock; the caller says what that means."""

    def __init__(self, holder: str) -> None:
        super().__init__(f"process {holder}")
        self.holder = holder
        """Its number; ``unknown`` where it did not write it down."""


@contextmanager
def hold_lock(path: Path) -> Iterator[int]:
    """Hold a file's lock, and give its descriptor for `sign`. Raise LockHeld or OSError.

    The kernel ends the lock with its holder, however that ends.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            _take(descriptor)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
            raise LockHeld(holder or "unknown") from error
        yield descriptor
    finally:
        os.close(descriptor)


def sign(descriptor: int) -> None:
    """Write this process's number into the file, for people and their signals. Raise OSError."""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)


def is_locked(path: Path) -> bool:
    """Tell whether a process holds a file's lock; False too where that cannot be seen."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
    return False


def _take(descriptor: int) -> None:
    # `is_locked` has the lock for a moment.
    for pause in (0.05, 0.1, 0.2):
        with suppress(BlockingIOError):
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(pause)
    return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
