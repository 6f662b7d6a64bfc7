"""One service id on the agent: who is to stand there, and the lease that puts it there."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Final, NoReturn

from proxygen.kit.aio import Latest, Pace
from proxygen.registration.agent import Agent
from proxygen.registration.lease import Lease
from proxygen.registration.service import CompleteRegistration

_BURST: Final = 3
_RATE: Final = 0.1
"""A container may come back three times at once; after that, while it goes on dying, once in ten seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is to stand on the agent."""

    service: CompleteRegistration
    withdrawn: bool
    """In maintenance: it is about to end, or does not answer."""

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

    @property
    def wish(self) -> Wish | None:
        """The newest one, fulfilled or not; None for an empty seat."""
        return self._wishes.peek()

    def put(self, wish: Wish | None) -> None:
        """Wish for something else; None: for nobody. The same once more is no wish."""
        before = self.wish
        if wish is None and before is None:
            return
        if wish is None or before is None or not wish.means_the_same_as(before):
            self._idle_since = time.monotonic()
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
        self._lease = Lease(wish.service, self._agent)
        self._keeper = asyncio.create_task(self._lease.keep(), name=f"registration of {wish.service.id}")

    async def _leave(self) -> None:
        if self._lease is not None:
            await self._lease.deregister()
            self._lease = None

    async def _end_keeping(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})
            self._keeper = None
