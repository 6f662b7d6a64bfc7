"""Instances whose agent has just started keep the health that nginx serves them with until it has checked them. Pure:
who calls says what time it is.

A Consul agent that starts calls what it checks itself critical until the first run of the check, which may be a whole
interval away. It says nothing about the instance, and by itself it would take everything on that host out of service at
every restart or update of the agent. So an instance keeps its place while

- nginx serves it, by a catalog that was live before, at the same address, and it was not registered anew meanwhile;
- its agent told the outputs of its checks before, so that one without is known not to have run;
- for ``guard.hold`` at most since this run saw it so, or for longer while Consul cannot be asked: an agent tells Consul
  late of a first run that failed, since the status is the same.

An instance that is new, or that failed a check before, gets no benefit of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from proxygen.catalog import Catalog, Health, Instance, ServiceName

_SERVED: Final = (Health.PASSING, Health.WARNING)

_Key = tuple[str, ServiceName, str, str]
"""Datacenter, service, node and id."""
_Services = Mapping[ServiceName, tuple[Instance, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A catalog in which unchecked instances are as healthy as they were."""

    catalog: Catalog
    begun: tuple[Instance, ...] = ()
    """Those that are so from now on."""
    due: float | None = None
    """Seconds until the first of them is no longer; below 0 while Consul cannot be asked; None where there is none."""


class Unchecked:
    """Knows the catalog that is live, and what of the next one is only unchecked."""

    def __init__(self, limit: float) -> None:
        """``limit`` is how many seconds an instance keeps its place; 0: it does not."""
        self._limit: Final = limit
        self._live: Mapping[_Key, Instance] = {}
        self._since: dict[_Key, float] = {}
        """When each instance was seen unchecked for the first time."""
        self._failed: frozenset[_Key] = frozenset()
        """Instances that failed a check, and were not seen healthy since."""

    def accept(self, catalog: Catalog) -> None:
        """Take note that nginx serves what this catalog says."""
        self._live = {_key(instance): instance for instance in _everywhere(catalog) if instance.health in _SERVED}

    def keep(self, catalog: Catalog, now: float, *, fresh: bool = True) -> Kept:
        """Return the catalog in which such instances are as healthy as they were.

        ``now`` is in seconds of any clock that does not go back. ``fresh`` says whether Consul can be asked.
        """
        ailing = {_key(one): one for one in _everywhere(catalog) if one.health not in _SERVED}
        unchecked = {key: one for key, one in ailing.items() if one.unchecked}
        self._failed = frozenset(key for key in ailing if key not in unchecked or key in self._failed)
        before, self._since = self._since, {key: self._since.get(key, now) for key in unchecked}
        kept = {key for key, one in unchecked.items() if self._is_kept(key, one, now, fresh=fresh)}
        if not kept:
            return Kept(catalog=catalog)

        def served(services: _Services) -> _Services:
            names = {name for _, name, _, _ in kept}
            return MappingProxyType(
                {
                    name: tuple(self._as_before(one) if _key(one) in kept else one for one in instances)
                    if name in names
                    else instances
                    for name, instances in services.items()
                }
            )

        return Kept(
            catalog=replace(
                catalog,
                services=served(catalog.services),
                elsewhere=MappingProxyType({name: served(there) for name, there in catalog.elsewhere.items()}),
            ),
            begun=tuple(unchecked[key] for key in sorted(kept - before.keys())),
            due=min(self._since[key] for key in kept) + self._limit - now,
        )

    def _is_kept(self, key: _Key, instance: Instance, now: float, *, fresh: bool) -> bool:
        before = self._live.get(key)
        if before is None or key in self._failed or not before.speaks or not _is_the_same(before, instance):
            return False
        return self._limit > 0 and (not fresh or now - self._since[key] < self._limit)

    def _as_before(self, instance: Instance) -> Instance:
        before = self._live[_key(instance)]
        return replace(instance, health=before.health, speaks=before.speaks)


def _everywhere(catalog: Catalog) -> Iterator[Instance]:
    for services in (catalog.services, *catalog.elsewhere.values()):
        for instances in services.values():
            yield from instances


def _key(instance: Instance) -> _Key:
    return (instance.datacenter, instance.service, instance.node, instance.id)


def _is_the_same(before: Instance, after: Instance) -> bool:
    """Whether it is still that registration: an agent that restarts leaves what Consul stores of it as it is."""
    return (before.address, before.port, before.create_index) == (after.address, after.port, after.create_index)
