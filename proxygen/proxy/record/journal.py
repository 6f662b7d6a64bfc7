"""What became of plans, and why: the last passes that came to something, kept on disk across restarts.

It is told to whoever asks and decides nothing: a disk that is full, or a file that somebody wrote, costs no apply.
"""

from __future__ import annotations

import asyncio
from collections import deque
from pathlib import Path
from typing import Final

import msgspec

from proxygen.kit.disk import write_atomically
from proxygen.kit.log import get_logger
from proxygen.proxy.record.steps import Step

KEPT: Final = 200

_FILE: Final = "state/journal.json"
_GATHER: Final = 0.5
"""Seconds in which steps are gathered before they are written."""

_log = get_logger(__name__)


class Journal:
    """The newest steps, oldest first. Belongs to one loop."""

    def __init__(self, output: Path) -> None:
        self._path: Final = output / _FILE
        self._steps: Final = deque(_read(self._path), maxlen=KEPT)
        self._added: Final = asyncio.Event()
        self._problem = ""

    @property
    def steps(self) -> tuple[Step, ...]:
        return tuple(self._steps)

    def add(self, step: Step) -> None:
        """Add what is no repetition of the last one."""
        if self._steps and step.repeats(self._steps[-1]):
            return
        self._steps.append(step)
        self._added.set()

    async def run(self) -> None:
        """Write what is added until cancelled, and once more then."""
        writing: asyncio.Future[None] | None = None
        try:
            while True:
                await self._added.wait()
                self._added.clear()
                writing = asyncio.ensure_future(asyncio.to_thread(self._write, self.steps))
                await asyncio.shield(writing)
                await asyncio.sleep(_GATHER)
        finally:
            if writing is not None:
                # A thread cannot be cancelled, and two of them would write over each other.
                await asyncio.wait({writing})
            if self._added.is_set():
                self._write(self.steps)

    def _write(self, steps: tuple[Step, ...]) -> None:
        try:
            write_atomically(self._path, msgspec.json.encode(steps))
        except OSError as error:
            if str(error) != self._problem:
                _log.warning("journal not written", file=str(self._path), reason=str(error))
            self._problem = str(error)
        else:
            self._problem = ""


def load_journal(output: Path) -> tuple[Step, ...]:
    """Return what is on disk, oldest first; nothing where nothing can be read."""
    return _read(output / _FILE)


def _read(path: Path) -> tuple[Step, ...]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=tuple[Step, ...])[-KEPT:]
    except FileNotFoundError:
        return ()
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        _log.warning("journal not read, a new one begins", file=str(path), reason=str(error))
        return ()
