"""One service id on the agent: who is to be there, and the lease that puts it there; and all of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, NoReturn

from proxygen.kit.aio import Latest, Pace, start_eternal
from proxygen.kit.errors import CatalogUnavailable
from proxygen.registration.agent import Agent
from proxygen.registration.checks import Status
from proxygen.registration.lease import Lease
from proxygen.registration.service import CompleteRegistration, HeldByAgent

_BURST: Final = 3
_INHERITANCE: Final = 60.0
"""Seconds for which an entry stays when who stood there has another id: by then Consul has made its checks."""
_INHERITANCE_LOOK: Final = 0.2
_RATE: Final = 0.1
"""A container may come back three times at once; after that, while it goes on dying, once in ten seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is to stand on the agent."""

    service: CompleteRegistration
    withdrawn: bool
    """In maintenance: it is about to end, or does not answer."""
    statuses: Mapping[str, Status] = field(default_factory=dict)
    """What is known of its checks under another id, by kind."""

    def means_the_same_as(self, other: Wish) -> bool:
        """Whether Consul would be told the same; the callables that tell health may differ."""
        # The callables of two descriptions of one container differ.
        return self.withdrawn == other.withdrawn and _body(self.service) == _body(other.service)


def _body(service: CompleteRegistration) -> object:
    return service.body(service.checks, {})


class Seat:
    """Makes wishes come true, of which the newest counts. `run` is its life, and its end leaves all as it is."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._wishes: Latest[Wish | None] = Latest()
        self._pace = Pace(burst=_BURST, rate=_RATE)
        self._lease: Lease | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._idle_since = time.monotonic()
        self._heir = ""

    @property
    def wish(self) -> Wish | None:
        """The newest one, fulfilled or not; None for an empty seat."""
        return self._wishes.peek()

    @property
    def statuses(self) -> Mapping[str, Status]:
        """Of the checks of who stands here, by kind; those that are not known yet are missing."""
        return {} if self._lease is None else self._lease.statuses

    def put(self, wish: Wish | None, *, heir: str = "") -> None:
        """Wish for something else; None: for nobody. The same once more is no wish.

        ``heir``: the id under which who stood here stands from now on; it goes from here once it serves there.
        """
        before = self.wish
        if wish is None and before is None:
            return
        if wish is None or before is None or not wish.means_the_same_as(before):
            self._idle_since = time.monotonic()
            self._heir = heir
            self._wishes.put(wish)

    def hurry(self) -> None:
        """Tell Consul now how the instance is; nothing where the seat is empty."""
        if self._lease is not None:
            self._lease.hurry()

    def idle_for(self) -> float:
        """Seconds since anybody was to stand here; 0 while somebody is."""
        return 0.0 if self.wish is not None or self._lease is not None else time.monotonic() - self._idle_since

    async def run(self) -> NoReturn:
        """Fulfil the newest wish, and each after it; it ends by being cancelled, and leaves the entry in Consul."""
        try:
            while True:
                wish = await self._wishes.take()
                await self._end_keeping()
                if wish is None:
                    await self._leave()
                else:
                    await self._fulfil(wish)
        finally:
            await self._end_keeping()

    async def _fulfil(self, wish: Wish) -> None:
        if wish.withdrawn:
            # What was never put there needs no maintenance.
            if self._lease is not None:
                await self._lease.withdraw()
            return
        if self._lease is None:
            await self._pace.step()
            if self.wish is not wish:
                return
        self._lease = Lease(wish.service, self._agent, statuses=wish.statuses)
        self._keeper = asyncio.create_task(self._lease.keep(), name=f"registration of {wish.service.id}")

    async def _leave(self) -> None:
        if self._lease is None:
            return
        if self._heir:
            await self._until_inherited(self._lease.service.id, self._heir)
        if self.wish is None:
            await self._lease.deregister()
            self._lease = None

    async def _until_inherited(self, own: str, heir: str) -> None:
        """Wait until the same serves under its other id, for a while, or somebody else is wished for here."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_INHERITANCE):
                while self.wish is None:
                    with suppress(CatalogUnavailable):
                        if await can_follow(self._agent, own, heir):
                            return
                    await asyncio.sleep(_INHERITANCE_LOOK)

    async def _end_keeping(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})
            self._keeper = None


async def can_follow(agent: Agent, before: str, after: str) -> bool:
    """Whether an entry may go since another stands for the same, no worse. Raise CatalogUnavailable."""
    follower, leaver = await agent.look(after), await agent.look(before)
    return follower is not None and (leaver is None or _serves(follower) or not _serves(leaver))


def _serves(held: HeldByAgent) -> bool:
    return all(check["Status"] != "critical" for check in held.checks.values())


class Seats:
    """The seats of one agent, by service id. Wishes wait until `run`, which is the life of them all."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._seats: dict[str, Seat] = {}
        self._changed = asyncio.Event()

    @property
    def wishes(self) -> tuple[Wish, ...]:
        """Those of now; any thread may ask."""
        return tuple(wish for seat in tuple(self._seats.values()) if (wish := seat.wish) is not None)

    def of(self, service_id: str) -> Seat:
        if service_id not in self._seats:
            self._seats[service_id] = Seat(self._agent)
            self._changed.set()
        return self._seats[service_id]

    def is_taken(self, service_id: str) -> bool:
        """Whether anybody is to be there, or is there yet."""
        seat = self._seats.get(service_id)
        return seat is not None and not seat.idle_for()

    def forget_idle(self, longest: float) -> None:
        """Drop those that were idle for more seconds than this, and with them how often they were taken."""
        self._seats = {id: seat for id, seat in self._seats.items() if seat.idle_for() <= longest}
        self._changed.set()

    async def run(self) -> NoReturn:
        lives: dict[Seat, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                self._changed.clear()
                for service_id, seat in self._seats.items():
                    if seat not in lives:
                        lives[seat] = start_eternal(group, seat.run(), name=f"seat of {service_id}")
                for forgotten in lives.keys() - self._seats.values():
                    lives.pop(forgotten).cancel()
                await self._changed.wait()
        raise AssertionError("it is only ever cancelled")
