"""The watch of other datacenters: the instances of the services that name them for their failover.

A datacenter that cannot be asked keeps its last known instances and holds nobody else up; each has a ledger and a
back-off of its own. All of them together use at most a quarter of ``consul.max_connections``: services have a standing
question each while that lasts, and beyond it they are read in turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final, NoReturn

from proxygen.catalog import Instance, ServiceName
from proxygen.consul.client import ConsulClient
from proxygen.consul.ledger import Ledger
from proxygen.consul.reads import read_datacenters
from proxygen.consul.remote import Pair, Remote
from proxygen.consul.view import ObservedView
from proxygen.kit.aio import Pace, retrying, start_eternal
from proxygen.kit.errors import CatalogUnavailable, stay_away
from proxygen.tags import Datacenter, parse_failover

PATIENCE: Final = 5.0
"""Seconds that the first catalog waits for what other datacenters have to say of a service."""

_SETTLE: Final = 0.1
"""Seconds from a change of what is named to the assignment of questions, which looks at all services."""
_LIST: Final = "list of datacenters"
_LOOK_AGAIN: Final = 30.0
"""Seconds until the list is read again while somebody names a datacenter that is not in it."""
_LONGEST_PAUSE: Final = 30.0

Known = Mapping[str, Mapping[ServiceName, tuple[Instance, ...]]]
"""As `Catalog.elsewhere`."""


def datacenters_named(instances: Iterable[Instance], tag_prefix: str) -> tuple[Datacenter, ...]:
    """Return the datacenters that any of the instances names for its failover; what does not parse names none."""
    named: dict[Datacenter, None] = {}
    start, key = f"{tag_prefix}.failover=", f"{tag_prefix}-failover"
    for instance in instances:
        texts = [tag.removeprefix(start) for tag in instance.tags if tag.startswith(start)]
        texts += (value for name, value in instance.meta if name == key)
        for text in texts:
            with suppress(ValueError):
                named.update(dict.fromkeys(parse_failover(text)))
    return tuple(named)


def share_of(max_connections: int) -> int:
    """Return how many sockets other datacenters may use."""
    return max(1, max_connections // 4)


class Elsewhere:
    """Which services name which datacenters, and what is known of them there."""

    def __init__(self, client: ConsulClient, *, tag_prefix: str, known: Known, observed: Callable[[], None]) -> None:
        """``known`` is what an earlier run knew, for datacenters that cannot be asked; ``observed`` is called when
        nothing is waited for any more, see `is_observed`."""
        self._client = client
        self._tag_prefix = tag_prefix
        self._known = {datacenter: dict(services) for datacenter, services in known.items()}
        self._observed = observed
        self._ledger = Ledger()
        self._named: dict[str, tuple[Datacenter, ...]] = {}
        self._listed: frozenset[str] | None = None
        """Every datacenter that Consul has ever listed to us; one that is gone from the list keeps its instances."""
        self._awaited: set[Pair] = set()
        self._datacenters: dict[Datacenter, Remote] = {}
        self._turns = asyncio.Semaphore(share_of(client.settings.max_connections))
        self._changed = asyncio.Event()
        self._strange = asyncio.Event()

    @property
    def sockets(self) -> int:
        """How many sockets of ``consul.max_connections`` are ours; none while nobody names a datacenter."""
        return share_of(self._client.settings.max_connections) if self._named else 0

    @property
    def is_observed(self) -> bool:
        """Whether every datacenter was heard, failed or kept silent for too long on every service that names it."""
        return not self._awaited

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong elsewhere, a line for each datacenter."""
        lines = [] if self._ledger.problem is None else [self._ledger.problem]
        for name in sorted(self._strangers()):
            service = next(service for service, named in sorted(self._named.items()) if name in named)
            lines.append(f"datacenter {name}: Consul lists no such datacenter, and failover of {service!r} names it")
        for name, datacenter in sorted(self._datacenters.items()):
            if datacenter.problem is not None:
                lines.append(f"{datacenter.problem}; the last known instances in {name} stay")
        return tuple(lines)

    def follow(self, name: str, instances: Sequence[Instance]) -> None:
        """Take in what the local instances of a service look like now."""
        here = {instance.datacenter for instance in instances}
        named = tuple(one for one in datacenters_named(instances, self._tag_prefix) if one not in here)
        before = self._named.get(name, ())
        if named == before:
            return
        if named:
            self._named[name] = named
        else:
            del self._named[name]
        self._await((datacenter, name) for datacenter in named if datacenter not in before)
        self._awaited -= {(datacenter, name) for datacenter in before if datacenter not in named}
        self._changed.set()
        if not self._listed or not self._listed.issuperset(named):
            self._strange.set()

    async def run(self, view: ObservedView) -> None:
        """Watch until cancelled."""
        async with asyncio.TaskGroup() as group:
            start_eternal(group, self._learn_names(), name="reading of the list of datacenters")
            while True:
                await self._changed.wait()
                # Many services come at once.
                await asyncio.sleep(_SETTLE)
                self._changed.clear()
                self._assign(view, group)

    # What the first catalog waits for.

    def _await(self, pairs: Iterable[Pair]) -> None:
        for pair in pairs:
            self._awaited.add(pair)
            asyncio.get_running_loop().call_later(PATIENCE, self._answered, pair)

    def _answered(self, pair: Pair) -> None:
        if pair in self._awaited:
            self._awaited.discard(pair)
            if not self._awaited:
                self._observed()

    # Which datacenters there are: what a tag names is not asked before Consul lists it.

    def _strangers(self) -> set[Datacenter]:
        if self._listed is None:
            return set()
        return {one for named in self._named.values() for one in named if one not in self._listed}

    async def _learn_names(self) -> NoReturn:
        pace = Pace(burst=3, rate=1 / PATIENCE)
        while True:
            await self._strange.wait()
            self._strange.clear()
            caller = retrying(CatalogUnavailable, longest=_LONGEST_PAUSE, at_least=stay_away, sleep=self._ledger.pause)
            await caller(self._read_names)
            if self._strangers():
                asyncio.get_running_loop().call_later(_LOOK_AGAIN, self._strange.set)
            await pace.step()

    async def _read_names(self) -> None:
        try:
            names = await read_datacenters(self._client)
        except CatalogUnavailable as error:
            self._ledger.failed(_LIST, error)
            raise
        self._ledger.believed(_LIST)
        self._listed = (self._listed or frozenset()).union(names)
        self._changed.set()

    # Who is asked how.

    def _assign(self, view: ObservedView, group: asyncio.TaskGroup) -> None:
        """Give each service that names a datacenter a standing question there, or a turn."""
        named = [(one, name) for name, datacenters in self._named.items() for one in datacenters]
        self._recall(view, named)
        if self._listed is None:
            return
        for pair in named:
            if pair[0] not in self._listed:
                self._answered(pair)
        pairs = [pair for pair in named if pair[0] in self._listed]
        share = share_of(self._client.settings.max_connections)
        most = share - 1
        if len(pairs) > most:
            most = max(0, share - len({datacenter for datacenter, _ in pairs}))
        # Those that have a question keep it, or one that comes would take it from another.
        polled = set(sorted(pairs, key=lambda pair: not self._is_polled(pair))[:most])
        for name in {datacenter for datacenter, _ in pairs} - self._datacenters.keys():
            self._datacenters[name] = Remote(name, self._client, view, self._answered, self._turns, group)
        for name, datacenter in tuple(self._datacenters.items()):
            services = {service for one, service in pairs if one == name}
            datacenter.take({service for service in services if (name, service) in polled}, services)
            if not services:
                datacenter.stop()
                del self._datacenters[name]

    def _recall(self, view: ObservedView, pairs: Iterable[Pair]) -> None:
        """Start from what was known, once, until the datacenter itself says what is."""
        for datacenter, name in pairs:
            known = self._known.get(datacenter, {}).pop(ServiceName(name), None)
            if known is not None and view.instances_elsewhere(datacenter, name) is None:
                view.observe_elsewhere(datacenter, name, known)

    def _is_polled(self, pair: Pair) -> bool:
        name, service = pair
        return name in self._datacenters and service in self._datacenters[name].polls
