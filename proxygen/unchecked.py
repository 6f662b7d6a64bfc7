"""Instances whose agent has just started keep the health that nginx serves them with until it has checked them. Pure:
who calls says what time it is.

A Consul agent that starts calls what it checks itself critical until the first run of the check, which may be a whole
interval away. It says nothing about the instance, and by itself it would take everything on that host out of service at
every restart or update of the agent. So an instance keeps its place while

- nginx serves it, by a catalog that was live before, at the same address, and it was not registered anew meanwhile;
- for ``guard.hold`` at most, or for longer while Consul cannot be asked: an agent tells Consul late of a first run that
  failed, since the status is the same.

An instance that is new, or that was unhealthy before, gets no benefit of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from proxygen.model import Catalog, Health, Instance, ServiceName

_SERVED: Final = (Health.PASSING, Health.WARNING)

_Key = tuple[ServiceName, str, str]
"""Service, node and id."""


class Unchecked:
    """Knows the catalog that is live, and what of the next one is only unchecked."""

    def __init__(self, limit: float) -> None:
        """``limit`` is how many seconds an instance keeps its place."""
        self._limit: Final = limit
        self._live: Mapping[_Key, Instance] = {}
        self._since: dict[_Key, float] = {}
        """When each instance was seen unchecked for the first time."""

    def accept(self, catalog: Catalog) -> None:
        """Take note that nginx serves what this catalog says."""
        self._live = {
            _key(instance): instance
            for instances in catalog.services.values()
            for instance in instances
            if instance.health in _SERVED
        }

    def keep(self, catalog: Catalog, now: float, *, fresh: bool = True) -> tuple[Catalog, tuple[Instance, ...]]:
        """Return the catalog in which such instances are as healthy as they were, and those that are so from now on.

        ``now`` is in seconds of any clock that does not go back. ``fresh`` says whether Consul can be asked.
        """
        unchecked = [one for instances in catalog.services.values() for one in instances if one.unchecked]
        before, self._since = self._since, {_key(one): self._since.get(_key(one), now) for one in unchecked}
        kept = {_key(one): one for one in unchecked if self._is_kept(one, now, fresh=fresh)}
        if not kept:
            return catalog, ()
        services = dict(catalog.services)
        for name in {name for name, _, _ in kept}:
            services[name] = tuple(
                replace(one, health=self._live[_key(one)].health) if _key(one) in kept else one
                for one in services[name]
            )
        begun = tuple(one for key, one in kept.items() if key not in before)
        return replace(catalog, services=MappingProxyType(services)), begun

    def _is_kept(self, instance: Instance, now: float, *, fresh: bool) -> bool:
        before = self._live.get(_key(instance))
        if before is None or not _is_the_same(before, instance):
            return False
        return not fresh or now - self._since[_key(instance)] < self._limit


def _key(instance: Instance) -> _Key:
    return (instance.service, instance.node, instance.id)


def _is_the_same(before: Instance, after: Instance) -> bool:
    """Whether it is still that registration: an agent that restarts leaves what Consul stores of it as it is."""
    return (before.address, before.port, before.create_index) == (after.address, after.port, after.create_index)
