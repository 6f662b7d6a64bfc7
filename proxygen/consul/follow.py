"""Two ways to follow the instances of the routed services.

`PollEach` has a blocking query for each service; Consul then tells each change at once, at the cost of a socket for
each. `DetectChanges` needs as many sockets for a thousand services as for a hundred: it watches the health of
everything, works out which services changed, and reads only those.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial
from typing import Final, NoReturn, Protocol

from proxygen.aio import start_eternal
from proxygen.consul.answers import Reply
from proxygen.consul.changes import CheckKey, compare_checks, index_checks
from proxygen.consul.client import ConsulClient
from proxygen.consul.decode import Entry, decode_checks, decode_entries
from proxygen.consul.fetch import Fetcher, Sweep
from proxygen.consul.ledger import Ledger
from proxygen.consul.poll import Poll
from proxygen.consul.reads import service_path
from proxygen.consul.view import View
from proxygen.errors import CatalogUnavailable

_MOST_READERS: Final = 10
_SWEEP_GAP: Final = 0.5
_LONGEST_SWEEP_GAP: Final = 1.0
_EXPLAINED_SWEEP: Final = 15.0
"""Seconds until the sweep after a move that is explained."""
_RESYNC: Final = 300.0
"""Seconds after which every service is read again, for what no detector shows, such as a node's new address."""
_EXPLAINED_WITHIN: Final = 0.15
"""Seconds that a move of the catalog's index waits for a change of health that explains it."""


class Watcher(Protocol):
    """Who is told what a follower saw."""

    def is_routed(self, name: str) -> bool: ...

    def observe(self, name: str, entries: tuple[Entry, ...]) -> bool:
        """Take in the entries of a service; return whether they are new."""
        ...

    async def confirm_absence(self, name: str) -> tuple[Entry, ...]:
        """Read consistently a service that seems to have no instances."""
        ...

    def failed(self, name: str, error: CatalogUnavailable) -> None:
        """Take in that the service could not be read."""
        ...


class Follower(Protocol):
    """Keeps the watcher informed about the services that it follows."""

    def follow(self, name: str) -> None: ...

    def unfollow(self, name: str) -> None: ...

    def listing_moved(self, index: int, retagged: Iterable[str]) -> None:
        """Take in that catalog/services moved, and which services have other tags than before."""
        ...

    def stop(self) -> None: ...


class PollEach:
    """One blocking query for each service."""

    def __init__(self, client: ConsulClient, ledger: Ledger, watcher: Watcher, group: asyncio.TaskGroup) -> None:
        self._client = client
        self._ledger = ledger
        self._watcher = watcher
        self._group = group
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def follow(self, name: str) -> None:
        source = f"service {name}"
        poll = Poll(
            self._client,
            self._ledger,
            partial(self._heed, name),
            source=source,
            path=service_path(name),
            on_failure=partial(self._watcher.failed, name),
        )
        self._tasks[name] = start_eternal(self._group, poll.run(), name=f"watch of {source}")

    def unfollow(self, name: str) -> None:
        self._tasks.pop(name).cancel()

    def listing_moved(self, index: int, retagged: Iterable[str]) -> None:
        """Nothing to do: each service's own query tells."""

    def stop(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        self._tasks.clear()

    async def _heed(self, name: str, reply: Reply) -> None:
        entries = decode_entries(reply.body) or await self._watcher.confirm_absence(name)
        if self._watcher.is_routed(name):
            self._watcher.observe(name, entries)


class DetectChanges:
    """One blocking query on all checks, and reads of the services that it shows to have changed.

    Meta, weights, ports and instances without checks are no part of any check. They move the index of
    catalog/services and nothing else that can be asked for in one piece, so a move that no change of health explains
    makes us read all services again, the recently changed ones first.
    """

    def __init__(
        self, client: ConsulClient, ledger: Ledger, watcher: Watcher, view: View, group: asyncio.TaskGroup
    ) -> None:
        self._client = client
        self._watcher = watcher
        self._view = view
        self._names: dict[str, None] = {}
        self._indexes: dict[str, int] = {}
        self._checks: dict[CheckKey, tuple[str, str, str]] | None = None
        workers = min(_MOST_READERS, max(1, client.settings.max_connections // 4))
        self._fetcher = Fetcher(self._read, ledger, workers=workers)
        self._sweep = Sweep(
            self._fetcher, self._by_recency, gap=_SWEEP_GAP, longest_gap=_LONGEST_SWEEP_GAP, every=_RESYNC
        )
        poll = Poll(client, ledger, self._heed, source="health of all services", path="/v1/health/state/any")
        self._tasks = [
            start_eternal(group, poll.run(), name="watch of all checks"),
            start_eternal(group, self._fetcher.run(), name="reading of changed services"),
            start_eternal(group, self._sweep.run(), name="sweep over all services"),
        ]
        self._moves: asyncio.Queue[int] = asyncio.Queue()
        self._tasks.append(start_eternal(group, self._judge_moves(), name="judging of the catalog's moves"))

    def follow(self, name: str) -> None:
        self._names[name] = None
        # Before the first list of checks a change after the read could not be seen; that list asks for all.
        if self._checks is not None:
            self._fetcher.ask((name,))

    def unfollow(self, name: str) -> None:
        del self._names[name]
        self._indexes.pop(name, None)
        self._fetcher.forget(name)

    def listing_moved(self, index: int, retagged: Iterable[str]) -> None:
        # Before the first list of checks nothing has been read that could have changed.
        if self._checks is not None:
            self._fetcher.ask(name for name in retagged if name in self._names)
            self._moves.put_nowait(index)

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        for name in self._names:
            self._fetcher.forget(name)

    def _by_recency(self) -> list[str]:
        # What changed lately will change again: a deploy touches one service many times.
        return sorted(self._names, key=lambda name: self._indexes.get(name, 0), reverse=True)

    async def _heed(self, reply: Reply) -> None:
        checks = index_checks(decode_checks(reply.body))
        before, self._checks = self._checks, checks
        if before is None:
            self._fetcher.ask(self._names)
            return
        changed = compare_checks(before, checks)
        touched = changed.services.union(*(self._view.services_on(node) for node in changed.nodes))
        self._fetcher.ask(name for name in touched if name in self._names)

    async def _judge_moves(self) -> NoReturn:
        while True:
            index = await self._moves.get()
            await asyncio.sleep(_EXPLAINED_WITHIN)
            while not self._moves.empty():
                index = self._moves.get_nowait()
            # A registration names the index that it was written at; of a deregistration only the service's own answer
            # tells. Others that came in the same moment can wait.
            if self._view.newest == index or index in self._indexes.values():
                asyncio.get_running_loop().call_later(_EXPLAINED_SWEEP, self._sweep.moved)
            else:
                self._sweep.moved()

    async def _read(self, name: str, urgent: bool) -> bool:
        if name not in self._names:
            return False
        try:
            return await self._read_routed(name, urgent)
        except CatalogUnavailable as error:
            self._watcher.failed(name, error)
            raise

    async def _read_routed(self, name: str, urgent: bool) -> bool:
        # A detector's news may come from a server that is ahead of the next one asked: the leader is behind nobody.
        reply = await self._client.read(service_path(name), consistency="default" if urgent else "any")
        if not urgent and reply.index < self._indexes.get(name, 0):
            self._fetcher.ask((name,))
            return False
        entries = decode_entries(reply.body) or await self._watcher.confirm_absence(name)
        if name not in self._names:
            return False
        self._indexes[name] = reply.index
        return self._watcher.observe(name, entries)
