"""Following more services than there are sockets: find out what changed, then read only that.

Three things tell. The list of all checks that are *not* passing is a few bytes in a healthy catalog, and Consul
answers it as soon as any check moves. The index of catalog/services moves with every registration; which one it was,
`registrations.RegistrationScan` finds node by node. And a service that changed lately has a blocking query of its
own for a while, for what changes once mostly changes again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from proxygen.consul.answers import Reply
from proxygen.consul.changes import Checks, compare_checks, index_checks
from proxygen.consul.client import ConsulClient
from proxygen.consul.decode import RegistrationState, decode_checks
from proxygen.consul.fetch import Fetcher, Sweep
from proxygen.consul.follow import Watcher, poll_of_service
from proxygen.consul.ledger import Ledger
from proxygen.consul.poll import Poll, Question
from proxygen.consul.reads import service_path
from proxygen.consul.registrations import RegistrationReader, RegistrationScan
from proxygen.consul.view import ObservedView
from proxygen.kit.aio import start_eternal
from proxygen.kit.errors import CatalogUnavailable

_MOST_READERS: Final = 10
_KEPT_FREE: Final = 4
"""Sockets of the lower half that are for standing questions; the upper half is for short reads and other watches."""
_HEALTH_RATE: Final = 4.0
"""Answers a second in the long run: they are small, and nothing is more urgent than an instance that fails."""
_SCAN_GAP: Final = 0.2
_LONGEST_SCAN_GAP: Final = 0.5
_SWEEP_GAP: Final = 15.0
_RESYNC: Final = 300.0
"""Seconds after which every service is read again, whatever was or was not seen to move."""


class DetectChanges:
    """A follower whose sockets do not grow with the number of services."""

    def __init__(
        self,
        client: ConsulClient,
        ledger: Ledger,
        watcher: Watcher,
        view: ObservedView,
        scan: RegistrationScan,
        group: asyncio.TaskGroup,
    ) -> None:
        self._client = client
        self._ledger = ledger
        self._watcher = watcher
        self._view = view
        self._names: dict[str, None] = {}
        self._indexes: dict[str, int] = {}
        self._checks: Checks | None = None
        connections = client.settings.max_connections
        self._fetcher = Fetcher(self._read, ledger, workers=min(_MOST_READERS, max(1, connections // 4)))
        self._sweep = Sweep(self._fetcher, self._by_recency, gap=_SWEEP_GAP, longest_gap=_SWEEP_GAP, every=_RESYNC)
        self._scan = scan
        self._reader = RegistrationReader(
            gap=_SCAN_GAP,
            longest_gap=_LONGEST_SCAN_GAP,
            known=self._known,
            ask=self._ask,
            look_everywhere=self._sweep.moved,
        )
        scan.join(self._reader)
        self._recent = RecentPolls(
            client, ledger, watcher, group, most=max(0, connections // 2 - _KEPT_FREE), on_quiet=self._ask_one
        )
        health = Poll(
            client,
            ledger,
            Question(
                source="health of all services",
                path="/v1/health/state/any",
                params=(("filter", 'Status != "passing"'),),
                rate=_HEALTH_RATE,
            ),
            self._heed,
        )
        self._tasks = [
            start_eternal(group, health.run(), name="watch of all checks"),
            start_eternal(group, self._fetcher.run(), name="reading of changed services"),
            start_eternal(group, self._sweep.run(), name="sweep over all services"),
        ]

    def follow(self, name: str) -> None:
        """Read the service now, if the list of checks has been read; else with that list."""
        self._names[name] = None
        # Before the first list of checks a change after the read could not be seen; that list asks for all.
        if self._checks is not None:
            self._fetcher.ask((name,))

    def unfollow(self, name: str) -> None:
        """Forget the service's index too: once it is back, everything of it is read anew."""
        del self._names[name]
        self._indexes.pop(name, None)
        self._fetcher.forget(name)
        self._recent.drop(name)

    def listing_moved(self, index: int, retagged: Iterable[str]) -> None:
        """Ask for the services whose tags changed, and scan nodes for changes that the listing does not show."""
        # Before the first list of checks nothing has been read that could have changed.
        if self._checks is not None:
            self._ask(retagged)
            self._scan.moved(index)

    def stop(self) -> None:
        """End the tasks and drop every read that is planned; may be called from such a read."""
        for task in self._tasks:
            task.cancel()
        self._scan.leave(self._reader)
        self._recent.stop()
        for name in self._names:
            self._fetcher.forget(name)
        # A read that is under way may have been what stopped us.
        self._names.clear()

    def _by_recency(self) -> list[str]:
        # What changed lately will change again: a deploy touches one service many times.
        return sorted(self._names, key=lambda name: self._indexes.get(name, 0), reverse=True)

    def _ask(self, names: Iterable[str]) -> bool:
        """Read the routed ones of these services; return whether there are any. Recent ones tell by themselves."""
        if self._checks is None:
            # The first list of checks asks for all.
            return False
        routed = [name for name in names if name in self._names]
        self._fetcher.ask(name for name in routed if name not in self._recent)
        return bool(routed)

    def _known(self, node: str, registered: Mapping[str, RegistrationState]) -> Mapping[str, RegistrationState]:
        """Return what the services' own answers said of a node."""
        return {
            instance.id: RegistrationState(service=instance.service, modify_index=instance.modify_index)
            for instance in self._view.instances_on(node)
        }

    def _ask_one(self, name: str) -> None:
        self._ask((name,))

    async def _heed(self, reply: Reply) -> None:
        checks = index_checks(decode_checks(reply.body))
        before, self._checks = self._checks, checks
        if before is None:
            self._fetcher.ask(self._names)
            return
        changed = compare_checks(before, checks)
        self._ask(changed.services.union(*(self._view.services_on(node) for node in changed.nodes)))

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
        entries = await self._watcher.entries_of(name, reply)
        # While it was read a query of its own may have come to tell newer things.
        if name not in self._names or name in self._recent:
            return False
        self._indexes[name] = reply.index
        was_known = name in self._view
        is_new = self._watcher.observe(name, entries)
        if is_new and was_known and name in self._names:
            self._recent.take(name)
        return is_new


class RecentPolls:
    """Blocking queries of their own for services that changed, as long as they go on changing.

    A query that was sent is not cancelled to make room, for over TLS Consul holds its connection until the wait is
    over. A service keeps its query until a whole wait passes without a change; who comes while none is free does
    without.
    """

    def __init__(
        self,
        client: ConsulClient,
        ledger: Ledger,
        watcher: Watcher,
        group: asyncio.TaskGroup,
        *,
        most: int,
        on_quiet: Callable[[str], None],
    ) -> None:
        self._client = client
        self._ledger = ledger
        self._watcher = watcher
        self._group = group
        self._most = most
        self._on_quiet = on_quiet
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._tasks

    def take(self, name: str) -> None:
        """Give the service a query of its own, where one is free."""
        if len(self._tasks) < self._most:
            self._tasks[name] = self._group.create_task(self._poll(name), name=f"watch of recent service {name}")

    def drop(self, name: str) -> None:
        """End the service's standing question, if it has one."""
        if name in self._tasks:
            self._tasks.pop(name).cancel()

    def stop(self) -> None:
        """End all standing questions."""
        for name in tuple(self._tasks):
            self.drop(name)

    async def _poll(self, name: str) -> None:
        await poll_of_service(self._client, self._ledger, self._watcher, name).run(until_quiet=True)
        del self._tasks[name]
        # A change between Consul's last answer and now was told to nobody else.
        self._on_quiet(name)
