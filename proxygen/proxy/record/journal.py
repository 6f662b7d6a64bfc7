"""What became of plans, and why: the last passes that came to something, kept on disk across restarts.

It is told to whoever asks and decides nothing: a disk that is full, or a file that somebody wrote, costs no apply.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from proxygen.kit.disk import write_atomically
from proxygen.kit.log import get_logger

KEPT: Final = 200

_FILE: Final = "state/journal.json"
_GATHER: Final = 0.5
"""Seconds in which entries are gathered before they are written."""

_log = get_logger(__name__)


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt to make a plan live."""

    at: str
    """ISO 8601, UTC."""
    outcome: str
    """applied, held, rejected or rolled back."""
    generation: int | None = None
    """The one that was live after it."""
    refused: int | None = None
    """The one that nginx did not take, where it was rolled back."""
    reason: str = ""
    cause: str = ""
    """What was different from what was live."""
    durations: Mapping[str, float] = {}
    """Seconds by stage."""
    propagation: float | None = None

    def repeats(self, other: Entry) -> bool:
        """Whether it says nothing that ``other`` did not: what fails is tried again and again."""
        mine, its = ((entry.outcome, entry.reason, entry.cause) for entry in (self, other))
        return self.outcome != "applied" and mine == its


class Journal:
    """The newest entries, oldest first. Belongs to one loop."""

    def __init__(self, output: Path) -> None:
        self._path: Final = output / _FILE
        self._entries: Final = deque(_read(self._path), maxlen=KEPT)
        self._added: Final = asyncio.Event()
        self._problem = ""

    @property
    def entries(self) -> tuple[Entry, ...]:
        return tuple(self._entries)

    def add(self, entry: Entry) -> None:
        """Add what is no repetition of the last one."""
        if self._entries and entry.repeats(self._entries[-1]):
            return
        self._entries.append(entry)
        self._added.set()

    async def run(self) -> None:
        """Write what is added until cancelled, and once more then."""
        writing: asyncio.Future[None] | None = None
        try:
            while True:
                await self._added.wait()
                self._added.clear()
                writing = asyncio.ensure_future(asyncio.to_thread(self._write, self.entries))
                await asyncio.shield(writing)
                await asyncio.sleep(_GATHER)
        finally:
            if writing is not None:
                # A thread cannot be cancelled, and two of them would write over each other.
                await asyncio.wait({writing})
            if self._added.is_set():
                self._write(self.entries)

    def _write(self, entries: tuple[Entry, ...]) -> None:
        try:
            write_atomically(self._path, msgspec.json.encode(entries))
        except OSError as error:
            if str(error) != self._problem:
                _log.warning("journal not written", file=str(self._path), reason=str(error))
            self._problem = str(error)
        else:
            self._problem = ""


def load_journal(output: Path) -> tuple[Entry, ...]:
    """Return what is on disk, oldest first; nothing where nothing can be read."""
    return _read(output / _FILE)


def _read(path: Path) -> tuple[Entry, ...]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=tuple[Entry, ...])[-KEPT:]
    except FileNotFoundError:
        return ()
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        _log.warning("journal not read, a new one begins", file=str(path), reason=str(error))
        return ()
