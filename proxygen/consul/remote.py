"""The watch of one other datacenter: its questions, its own ledger and back-off, and what could not be answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Final, NoReturn

from proxygen.consul.answers import Reply
from proxygen.consul.client import ConsulClient
from proxygen.consul.decode import CONSUL_SERVICE, decode_entries, instances_of
from proxygen.consul.fetch import Fetcher
from proxygen.consul.ledger import Ledger
from proxygen.consul.poll import Poll, Question
from proxygen.consul.reads import confirm_absence, confirm_listing, service_path
from proxygen.consul.view import ObservedView
from proxygen.kit.aio import start_eternal
from proxygen.kit.errors import CatalogUnavailable, ConsulUnreachable
from proxygen.tags import Datacenter

_ROUND: Final = 5.0
"""Seconds from one reading of all services that have no standing question to the next, at least."""

Pair = tuple[Datacenter, str]
"""A datacenter and a service that names it."""


class Remote:
    """One other datacenter. ``answered`` is told of every service that was read or could not be."""

    def __init__(
        self,
        name: Datacenter,
        client: ConsulClient,
        view: ObservedView,
        answered: Callable[[Pair], None],
        turns: asyncio.Semaphore,
        group: asyncio.TaskGroup,
    ) -> None:
        self.polls: dict[str, asyncio.Task[None]] = {}
        self._name = name
        self._client = client.at(name)
        self._view = view
        self._answered = answered
        self._turns = turns
        self._group = group
        self._ledger = Ledger(f"datacenter {name}: ")
        self._services: frozenset[str] = frozenset()
        self._failing: set[str] = set()
        """Services that could not be read. The datacenter is back once one of them can be: that others can be read all
        the while says nothing of these."""
        # One reader each: a datacenter that does not answer keeps no reader from the others.
        self._reader = Fetcher(self._read, self._ledger, workers=1)
        self._tasks = [
            start_eternal(group, self._reader.run(), name=f"reading of services in {name}"),
            start_eternal(group, self._sweep(), name=f"sweep over services in {name}"),
        ]

    @property
    def problem(self) -> str | None:
        """Why the other datacenter cannot be read; None while it answers."""
        return self._ledger.problem

    def take(self, polled: set[str], services: set[str]) -> None:
        """Ask for exactly these services from now on, and for those in ``polled`` all the time."""
        gone, self._services = self._services - services, frozenset(services)
        for name in self.polls.keys() - polled:
            self.polls.pop(name).cancel()
        for name in gone:
            self._reader.forget(name)
            self._view.forget_elsewhere(self._name, name)
        for name in sorted(polled - self.polls.keys()):
            self._reader.forget(name)
            self.polls[name] = start_eternal(
                self._group, self._poll(name).run(), name=f"watch of service {name} in {self._name}"
            )
        if not self.polls:
            self._reader.forget(CONSUL_SERVICE)
        self._reader.ask(self._unseen())

    def stop(self) -> None:
        """Cancel its tasks; the instances that were read stay."""
        for task in self._tasks:
            task.cancel()

    async def _sweep(self) -> NoReturn:
        took = 0.0
        while True:
            # However many there are, they are being read for half of the time at most.
            await asyncio.sleep(max(_ROUND, took))
            started = time.monotonic()
            self._reader.ask(self._in_turn(), urgent=False)
            await self._reader.drained()
            took = time.monotonic() - started

    def _in_turn(self) -> list[str]:
        """Return what is read without an index: services without a standing question, and the servers' own.

        A standing question may be answered by a view of our agent, which knows nothing of the servers there
        (`answers.Backend`); so they are asked themselves, too.
        """
        return [*self._unpolled(), *([CONSUL_SERVICE] if self.polls else [])]

    def _unpolled(self) -> list[str]:
        return sorted(self._services - self.polls.keys())

    def _unseen(self) -> list[str]:
        return [name for name in self._unpolled() if self._view.instances_elsewhere(self._name, name) is None]

    def _poll(self, name: str) -> Poll:
        return Poll(
            self._client,
            self._ledger,
            Question(source=f"service {name}", path=service_path(name)),
            partial(self._heed, name),
            on_failure=partial(self._failed, name),
        )

    async def _read(self, name: str, urgent: bool) -> bool:
        if name != CONSUL_SERVICE and (name not in self._services or name in self.polls):
            return False
        async with self._turns:
            try:
                # The leader is behind nobody: without an index there is no telling what another server missed.
                reply = await self._client.read(service_path(name))
                if name == CONSUL_SERVICE:
                    self._is_back(name)
                    return False
                return await self._heed(name, reply)
            except CatalogUnavailable as error:
                self._failed(name, error)
                raise

    async def _heed(self, name: str, reply: Reply) -> bool:
        entries = decode_entries(reply.body)
        if not entries and self._view.instances_elsewhere(self._name, name) != ():
            entries = await confirm_absence(self._client, name, partial(confirm_listing, self._client))
        if reply.tells_contact:
            self._is_back(name)
        is_new = name in self._services and self._view.observe_elsewhere(self._name, name, instances_of(name, entries))
        self._answered((self._name, name))
        return is_new

    def _is_back(self, name: str) -> None:
        if name in self._failing:
            self._failing.clear()
            self._ledger.recover()

    def _failed(self, name: str, error: CatalogUnavailable) -> None:
        if isinstance(error, ConsulUnreachable):
            self._failing.add(name)
        self._answered((self._name, name))
