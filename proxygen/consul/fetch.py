"""Reading many things of one kind again: each at most once at a time, few at once, and not too often."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, NoReturn

from proxygen.consul.ledger import Ledger
from proxygen.kit.aio import retrying, start_eternal
from proxygen.kit.errors import CatalogUnavailable, ConsulUnreachable, stay_away

_FIRST_PAUSE: Final = 0.25
_LONGEST_PAUSE: Final = 30.0
_REFUSED_AGAIN: Final = 15.0
"""Seconds until a service is asked for again that Consul refused to show; the others do not wait for it."""

Read = Callable[[str, bool], Awaitable[bool]]
"""Reads one service or node, urgently or not; returns whether anything was new."""


class Fetcher:
    """Workers that read the services (or nodes) they are asked for, the urgent ones first."""

    def __init__(self, read: Read, ledger: Ledger, *, workers: int, what: str = "service") -> None:
        self.found = 0
        """Reads that were not urgent and yet found something new."""
        self._read = read
        self._ledger = ledger
        self._workers = workers
        self._what = what
        self._urgent: dict[str, None] = {}
        self._idle: dict[str, None] = {}
        self._busy: set[str] = set()
        self._resting: set[str] = set()
        """Names whose reads failed and that are asked for again after a while."""
        self._failures: dict[str, int] = {}
        """How often a name failed in a row."""
        self._moved = asyncio.Event()

    def ask(self, names: Iterable[str], *, urgent: bool = True) -> None:
        """Read these services, in this order. One that is being read right now is read again afterwards.

        One that failed is tried again by itself, and before that only where it is urgent.
        """
        for name in names:
            if urgent:
                self._idle.pop(name, None)
                self._urgent.setdefault(name)
            elif name not in self._urgent and name not in self._resting:
                self._idle.setdefault(name)
        self._moved.set()

    def forget(self, name: str) -> None:
        """Do not read this service after all."""
        self._urgent.pop(name, None)
        self._idle.pop(name, None)
        self._resting.discard(name)
        self._failures.pop(name, None)
        self._ledger.forget(self._source(name))
        self._moved.set()

    async def drained(self) -> None:
        """Wait until nothing is asked for or being read. What failed was read; its next try is not waited for."""
        while self._urgent or self._idle or self._busy:
            await self._wait_for_move()

    async def run(self) -> None:
        """Read until cancelled."""
        async with asyncio.TaskGroup() as group:
            for number in range(self._workers):
                start_eternal(group, self._work(group), name=f"reader {number + 1} of {self._what}s")

    async def _work(self, group: asyncio.TaskGroup) -> NoReturn:
        while True:
            # Each try takes another service, so that one that fails does not stand before the rest.
            caller = retrying(ConsulUnreachable, longest=_LONGEST_PAUSE, at_least=stay_away, sleep=self._ledger.pause)
            await caller(self._read_next, group)

    async def _read_next(self, group: asyncio.TaskGroup) -> None:
        name, urgent = await self._next()
        source, started = self._source(name), time.monotonic()
        try:
            is_new = await self._read(name, urgent)
            self.found += is_new and not urgent
            self._ledger.believed(source)
            self._failures.pop(name, None)
        except CatalogUnavailable as error:
            self._ledger.failed(source, error)
            seconds = self._pause_after(name, error, took=time.monotonic() - started)
            self._resting.add(name)
            group.create_task(self._rest(name, seconds), name=f"rest of {source}")
            if isinstance(error, ConsulUnreachable):
                raise
        finally:
            self._busy.discard(name)
            self._moved.set()

    def _pause_after(self, name: str, error: CatalogUnavailable, *, took: float) -> float:
        """Return the seconds until a name is read again: ever more, and no less than it took to fail, so that one that
        is too slow costs its reader half of the time at most."""
        if not isinstance(error, ConsulUnreachable):
            return _REFUSED_AGAIN
        failures = self._failures[name] = self._failures.get(name, 0) + 1
        return max(min(_FIRST_PAUSE * 2.0 ** min(failures, 16), _LONGEST_PAUSE), took, stay_away(error))

    async def _rest(self, name: str, seconds: float) -> None:
        await self._ledger.pause(seconds)
        if name in self._resting:
            self._resting.discard(name)
            self.ask((name,))

    async def _next(self) -> tuple[str, bool]:
        while True:
            for queue in (self._urgent, self._idle):
                for name in queue:
                    if name not in self._busy:
                        del queue[name]
                        self._busy.add(name)
                        return name, queue is self._urgent
            await self._wait_for_move()

    async def _wait_for_move(self) -> None:
        self._moved.clear()
        await self._moved.wait()

    def _source(self, name: str) -> str:
        return f"{self._what} {name}"


class Sweep:
    """Reads a whole set of them again when something moved that says not what.

    A lone move is followed at once. While moves go on and nothing new is found, the gap between two sweeps doubles
    up to ``longest_gap``, or up to twice what the sweep took where that is more: a churning catalog of any size costs
    at most a third of our time. Sweeps that find something follow each other sooner.
    """

    def __init__(
        self, fetcher: Fetcher, names: Callable[[], Iterable[str]], *, gap: float, longest_gap: float, every: float
    ) -> None:
        self._fetcher = fetcher
        self._names = names
        self._gap = gap
        self._longest_gap = longest_gap
        self._every = every
        self._moved = asyncio.Event()

    def moved(self) -> None:
        """Say that there may be something to read; it does not wait."""
        self._moved.set()

    async def run(self) -> NoReturn:
        """Sweep until cancelled, and every ``every`` seconds even if nothing moved."""
        gap = self._gap
        while True:
            try:
                async with asyncio.timeout(self._every):
                    await self._moved.wait()
            except TimeoutError:
                pass
            self._moved.clear()
            found = self._fetcher.found
            took = await self._read_all()
            longest = max(self._longest_gap, 2 * took)
            gap = self._gap if self._fetcher.found > found else min(gap * 2, longest)
            await asyncio.sleep(max(gap, took / 2))

    async def _read_all(self) -> float:
        """Return how many seconds it took."""
        started = time.monotonic()
        self._fetcher.ask(self._names(), urgent=False)
        await self._fetcher.drained()
        return time.monotonic() - started
