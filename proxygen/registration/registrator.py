"""Registering the containers of one engine: what runs there and asks for it is in Consul, and nothing else of ours is.

Events only say where to look: what is so is asked of the engine each time, and everything is looked at again from time
to time. So neither a lost event nor a stream that ends leaves anything wrong for long.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import IPv4Network
from typing import Any, Final, NoReturn

from proxygen.catalog import Health
from proxygen.kit.aio import retrying, start_eternal
from proxygen.kit.errors import BadInput, CatalogUnavailable, EngineUnavailable
from proxygen.kit.log import get_logger
from proxygen.registration.agent import Agent
from proxygen.registration.containers import Container
from proxygen.registration.described import ContainerDefaults, describe
from proxygen.registration.docker import ContainerEvent, Engine
from proxygen.registration.metrics import ContainerCounts
from proxygen.registration.owners import OWNER, endpoint, place_of
from proxygen.registration.seat import Seats, Wish, can_follow
from proxygen.registration.service import CompleteRegistration
from proxygen.registration.signals import find_signal

_LOG = get_logger(__name__)

_LONGEST_PAUSE: Final = 5.0
"""Seconds between two tries to reach an engine; it is on this host."""
_FORGET: Final = 600.0
"""Seconds after which a seat that nobody took again is forgotten, and how often it was taken."""
_STOP_SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGKILL, signal.SIGQUIT})
"""What ends most programs; beside them each container's own."""
_AFTER_STOP: Final = 10.0
"""Seconds beyond a container's own time to stop, after which one that still runs was not stopped after all."""


@dataclass(slots=True, kw_only=True)
class _Known:
    """What is known of a container that runs."""

    container: Container
    wanted: tuple[CompleteRegistration, ...]
    """What it asks for; none where its labels cannot be used."""
    services: tuple[CompleteRegistration, ...] = ()
    """Of those the ones whose ids it holds."""
    stopping_until: float = 0.0
    """Monotonic; until then it is taken to be about to end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    """Who holds a service id, and as what."""

    container_id: str
    service: CompleteRegistration

    def is_of(self, other: _Held) -> bool:
        """Whether the other is the same port of the same container, by whatever id."""
        return self.container_id == other.container_id and self.service.port == other.service.port


class Registrator:
    """The work of `proxygen registrator`. Its end leaves every registration as it is: the containers run on."""

    def __init__(
        self,
        agent: Agent,
        *,
        engine: str,
        policy: ContainerDefaults,
        leased: Callable[[], IPv4Network | None],
        resync: float,
    ) -> None:
        """``policy.owner`` may be empty: then it is the name of the engine's host.

        ``leased`` tells `ContainerDefaults.leased` as it is now: a host may get its subnet long after we started.
        """
        self._agent = agent
        self._url = engine
        self._policy = policy
        self._leased = leased
        self._resync = resync
        self._engine: Engine | None = None
        self._known: dict[str, _Known] = {}
        self._held: dict[str, _Held] = {}
        """By service id."""
        self._seats = Seats(agent)
        self._skipped: dict[str, str] = {}
        self._remarked: dict[str, set[str]] = {}
        self._trouble = ""
        self._agent_trouble = ""
        self._found: set[str] | None = None
        """Ids that the agent had when we came; None until it has told."""
        self._events = 0
        self._synced: float | None = None

    @property
    def trouble(self) -> str:
        """Why the engine or Consul's agent does not answer; empty where both do."""
        return self._trouble or self._agent_trouble

    def figures(self) -> ContainerCounts:
        """Return what is so now; any thread may call it."""
        known = [(container_id, bool(one.services)) for container_id, one in tuple(self._known.items())]
        wishes = self._seats.wishes
        skipped = set(self._skipped)
        withdrawn = sum(wish.withdrawn for wish in wishes)
        return ContainerCounts(
            connected=self._engine is not None,
            registered=sum(has_services for _, has_services in known),
            skipped=sum(container_id in skipped and not has_services for container_id, has_services in known),
            ignored=sum(container_id not in skipped and not has_services for container_id, has_services in known),
            serving=len(wishes) - withdrawn,
            withdrawn=withdrawn,
            events=self._events,
            synced=self._synced,
        )

    async def run(self) -> NoReturn:
        """Keep up with the engine until cancelled; an engine that is away is tried again."""
        async with asyncio.TaskGroup() as group:
            start_eternal(group, self._seats.run(), name="seats of containers")
            while True:
                await retrying(EngineUnavailable, longest=_LONGEST_PAUSE)(self._attend)
        raise AssertionError("it is only ever cancelled")

    async def _attend(self) -> None:
        """Keep up with the engine until its stream of events ends."""
        try:
            async with Engine.at(self._url) as engine:
                if not self._policy.owner:
                    self._policy = replace(self._policy, owner=await engine.host())
                self._engine = engine
                await self._follow(engine)
        except EngineUnavailable as error:
            if self._trouble != str(error):
                _LOG.warning("engine lost, registrations stay, trying again", reason=str(error))
            self._trouble = str(error)
            raise
        finally:
            self._engine = None

    async def _follow(self, engine: Engine) -> None:
        hints: asyncio.Queue[ContainerEvent] = asyncio.Queue()
        tasks = [
            asyncio.create_task(_listen(engine.events(), hints), name="events of containers"),
            asyncio.create_task(self._work(engine, hints), name="registration of containers"),
        ]
        try:
            if not await engine.tells_of_signals():
                tasks.append(asyncio.create_task(_listen(engine.stops(), hints), name="containers that are stopped"))
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for ended in tasks:
                if ended.done():
                    ended.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _work(self, engine: Engine, hints: asyncio.Queue[ContainerEvent]) -> NoReturn:
        while True:
            await self._sync(engine)
            next_sync = time.monotonic() + self._resync
            while (pause := next_sync - time.monotonic()) > 0:
                events = await _events_within(hints, pause)
                self._events += len(events)
                for event in events:
                    self._heed(event)
                await self._look(engine, dict.fromkeys(event.container for event in events))

    async def _sync(self, engine: Engine) -> None:
        """Look at every container, and take away what earlier lives left in Consul."""
        running = await engine.running()
        await self._look(engine, (*running, *(self._known.keys() - set(running))))
        if self._trouble:
            _LOG.info("engine is back")
            self._trouble = ""
        self._forget_what_is_gone(running)
        await self._sweep()
        self._synced = time.time()

    def _heed(self, event: ContainerEvent) -> None:
        """A container that was sent a signal to stop is withdrawn while it still answers."""
        known = self._known.get(event.container)
        if known is not None and event.action == "kill" and _asks_to_stop(event, known.container):
            known.stopping_until = time.monotonic() + known.container.stop_timeout + _AFTER_STOP
        elif known is not None and event.action in ("start", "restart"):
            known.stopping_until = 0.0

    async def _look(self, engine: Engine, container_ids: Iterable[str]) -> None:
        """Look at all of them, and at who has an id that one of them asks for.

        Names that were swapped, or given on, are only understood together.
        """
        seen: dict[str, bool] = {}
        left = list(container_ids)
        while left:
            for container_id in left:
                seen[container_id] = self._note(container_id, await engine.inspect(container_id))
            rivals = (rival for container_id in left for rival in self._rivals(container_id))
            left = [rival for rival in dict.fromkeys(rivals) if rival not in seen]
        changed = [container_id for container_id, is_changed in seen.items() if is_changed]
        self._settle()
        for container_id in changed:
            for service in self._known[container_id].services:
                self._seats.of(service.id).hurry()

    def _note(self, container_id: str, container: Container | None) -> bool:
        """Take in how a container is; return whether its health is another than before."""
        before = self._known.get(container_id)
        if container is None or not container.running:
            self._known.pop(container_id, None)
            return False
        known = self._known[container_id] = _Known(container=container, wanted=self._describe(container))
        if before is None:
            return False
        known.services, known.stopping_until = before.services, before.stopping_until
        return before.container.health is not container.health

    def _rivals(self, container_id: str) -> Iterator[str]:
        """The containers that have had an id that this one asks for."""
        known = self._known.get(container_id)
        for service in known.wanted if known is not None else ():
            if (held := self._held.get(service.id)) is not None:
                yield held.container_id

    def move(self, address: str) -> None:
        """Announce another address of the host from now on, for the containers that are reached there."""
        self._policy = replace(self._policy, address=address)
        for known in self._known.values():
            known.wanted = self._describe(known.container)
        self._settle()

    def _settle(self) -> None:
        """Decide who has each id, and have that stand in Consul; an id passes from one to the other without a gap."""
        holders = self._holders()
        now: dict[str, _Held] = {}
        for container_id, known in self._known.items():
            known.services = tuple(one for one in known.wanted if holders[one.id] == container_id)
            self._tell_taken(known, holders)
            now |= {one.id: _Held(container_id=container_id, service=one) for one in known.services}
        before, self._held = self._held, now
        for service_id, held in now.items():
            self._seats.of(service_id).put(self._wish(held, before))
        for service_id in before.keys() - now.keys():
            self._seats.of(service_id).put(None, heir=_other_id(before[service_id], now))

    def _holders(self) -> dict[str, str]:
        """By service id the container that has it: who held it, while it asks for it, else who was seen first."""
        holders: dict[str, str] = {}
        for container_id, known in self._known.items():
            for service in known.wanted:
                held = self._held.get(service.id)
                if service.id not in holders or (held is not None and held.container_id == container_id):
                    holders[service.id] = container_id
        return holders

    def _wish(self, held: _Held, before: Mapping[str, _Held]) -> Wish:
        """With the health that is known of it under another id."""
        known = self._known[held.container_id]
        withdrawn = known.container.paused or time.monotonic() < known.stopping_until
        earlier = _other_id(held, before)
        statuses = self._seats.of(earlier).statuses if earlier else {}
        return Wish(service=held.service, withdrawn=withdrawn, statuses=statuses)

    def _describe(self, container: Container) -> tuple[CompleteRegistration, ...]:
        policy = replace(self._policy, leased=self._leased())
        try:
            services = describe(container, policy, self._health_of(container.id), partial(self._remark, container))
        except BadInput as error:
            self._skip(container, str(error))
            return ()
        return services

    def _tell_taken(self, known: _Known, holders: Mapping[str, str]) -> None:
        own = known.container.id
        taken = {one.id: self._known[holders[one.id]].container for one in known.wanted if holders[one.id] != own}
        if taken:
            texts = (f"{holder.place} has the id {id} already" for id, holder in taken.items())
            self._skip(known.container, "; ".join(texts))
        elif known.wanted:
            self._skipped.pop(own, None)

    def _remark(self, container: Container, text: str) -> None:
        """Tell once, for as long as the container is there."""
        said = self._remarked.setdefault(container.id, set())
        if text not in said:
            said.add(text)
            _LOG.warning("something of a container is left out", container=container.place, reason=text)

    def _skip(self, container: Container, reason: str) -> None:
        if self._skipped.get(container.id) != reason:
            _LOG.warning("container skipped", container=container.place, reason=reason)
        self._skipped[container.id] = reason

    def _health_of(self, container_id: str) -> Callable[[], Awaitable[Health]]:
        async def health() -> Health:
            """Ask the engine; what was known stands where it does not answer."""
            known = self._known.get(container_id)
            try:
                container = await self._engine.inspect(container_id) if self._engine is not None else None
            except EngineUnavailable:
                container = None
            container = container or (known.container if known is not None else None)
            if container is None or not container.running:
                return Health.CRITICAL
            return container.health or Health.PASSING

        return health

    def _forget_what_is_gone(self, running: Iterable[str]) -> None:
        self._seats.forget_idle(_FORGET)
        for known in (self._skipped, self._remarked):
            for container_id in known.keys() - set(running):
                del known[container_id]

    async def _sweep(self) -> None:
        """Remove what an earlier life of ours registered for containers that are gone; never what others registered."""
        wanted = {service.id for known in self._known.values() for service in known.services}
        try:
            held = await self._agent.services()
            if self._found is None:
                self._found = set(held)
            for service_id, service in held.items():
                is_orphan = service_id not in wanted and not self._seats.is_taken(service_id)
                is_ours = self._is_of_an_earlier_life(service_id, service)
                if is_orphan and is_ours and not await self._is_awaited(service_id, service):
                    await self._agent.deregister_anyones(service_id, service)
                    self._found.discard(service_id)
                    _LOG.info("orphan deregistered", service=service.get("Service"), id=service_id)
        except CatalogUnavailable as error:
            if self._agent_trouble != str(error):
                _LOG.warning("orphans cannot be looked for, trying again", reason=str(error))
            self._agent_trouble = str(error)
        else:
            self._agent_trouble = ""

    def _is_of_an_earlier_life(self, service_id: str, service: Mapping[str, Any]) -> bool:
        """By the owner's mark; or under another, where a container of ours stands: the host was called otherwise then.

        Only what was there when we came, and once: a second registrator of the same engine writes its own again.
        """
        owner = (service.get("Meta") or {}).get(OWNER)
        if owner is None or owner == self._policy.owner:
            return owner is not None
        own = (endpoint(one) for known in self._known.values() for one in known.services)
        return service_id in (self._found or ()) and place_of(service) in own

    async def _is_awaited(self, service_id: str, service: Mapping[str, Any]) -> bool:
        """Whether a container stands here under an id of before that has another now, which does not serve yet."""
        place = (service.get("Address"), service.get("Port"))
        now = (one.id for known in self._known.values() for one in known.services if (one.address, one.port) == place)
        heir = next(now, None)
        return heir is not None and not await can_follow(self._agent, service_id, heir)


def _other_id(held: _Held, among: Mapping[str, _Held]) -> str:
    """The id under which the same stands there; empty where it stands nowhere, or under the same id."""
    found = (service_id for service_id, one in among.items() if one.is_of(held))
    other = next(found, "")
    return "" if other == held.service.id else other


def _asks_to_stop(event: ContainerEvent, container: Container) -> bool:
    return find_signal(event.signal) in _STOP_SIGNALS | {container.stop_signal}


async def _listen(told: AsyncIterable[ContainerEvent], hints: asyncio.Queue[ContainerEvent]) -> None:
    async for event in told:
        # Podman tells of each of its own steps, Docker of each exec of a health check.
        if not event.action.startswith(("exec_", "top", "cleanup", "init", "create")):
            hints.put_nowait(event)


async def _events_within(hints: asyncio.Queue[ContainerEvent], pause: float) -> tuple[ContainerEvent, ...]:
    """Wait for events, and return all there are."""
    try:
        async with asyncio.timeout(pause):
            first = await hints.get()
    except TimeoutError:
        return ()
    events = [first]
    while not hints.empty():
        events.append(hints.get_nowait())
    return tuple(events)
