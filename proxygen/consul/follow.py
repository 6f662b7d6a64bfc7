"""How the instances of the routed services are followed, and who is told.

`PollEach` has a blocking query for each service; Consul then tells each change at once, at the cost of a socket for
each. Where there are more services than sockets, `detect.DetectChanges` takes its place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial
from typing import Protocol

from proxygen.consul.answers import Reply
from proxygen.consul.client import ConsulClient
from proxygen.consul.decode import HealthEntry
from proxygen.consul.ledger import Ledger
from proxygen.consul.poll import Poll, Question
from proxygen.consul.reads import service_path
from proxygen.kit.aio import start_eternal
from proxygen.kit.errors import CatalogUnavailable


class Watcher(Protocol):
    """Who is told what a follower saw."""

    def is_routed(self, name: str) -> bool: ...

    def observe(self, name: str, entries: tuple[HealthEntry, ...]) -> bool:
        """Take in the entries of a service; return whether they are new."""
        ...

    async def entries_of(self, name: str, reply: Reply) -> tuple[HealthEntry, ...]:
        """Return what an answer shows of a service; what it seems to have lost is read consistently."""
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
        """One standing question, and one socket, for each service."""
        poll = poll_of_service(self._client, self._ledger, self._watcher, name)
        self._tasks[name] = start_eternal(self._group, poll.run(), name=f"watch of service {name}")

    def unfollow(self, name: str) -> None:
        """End the service's standing question. Raise KeyError where there is none."""
        self._tasks.pop(name).cancel()

    def listing_moved(self, index: int, retagged: Iterable[str]) -> None:
        """Nothing to do: each service's own query tells."""

    def stop(self) -> None:
        """End all standing questions; their sockets close."""
        for task in self._tasks.values():
            task.cancel()
        self._tasks.clear()


def poll_of_service(client: ConsulClient, ledger: Ledger, watcher: Watcher, name: str) -> Poll:
    """Return the standing question about one service, that tells the watcher what it sees."""

    async def heed(reply: Reply) -> None:
        entries = await watcher.entries_of(name, reply)
        if watcher.is_routed(name):
            watcher.observe(name, entries)

    return Poll(
        client,
        ledger,
        Question(source=f"service {name}", path=service_path(name)),
        heed,
        on_failure=partial(watcher.failed, name),
    )
