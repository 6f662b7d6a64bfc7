"""Services that change again and again wait alone: others need some of the reloads. Pure: who calls says what time it
is.

A service flaps while another change of it went live within `WINDOW`. Of the reloads that may follow each other at once,
one is never spent on those that flap. And each reload leaves old workers behind, which finish their requests, and there
may be so many of them and no more: while nginx is crowded with them, those that flap get their newest state only every
so often. Until then they are served as they are live; an operator's override of their shares counts at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from proxygen.catalog import Catalog, Instance, ServiceName
from proxygen.proxy.plan.types import Plan, Service

WINDOW: Final = 30.0
"""Seconds for which a change that went live is remembered."""

_LOOK_AGAIN: Final = 1.0
"""Seconds after which a crowded nginx is looked at again: nobody tells when an old worker ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calm:
    """A catalog in which those that flap are as they are live."""

    catalog: Catalog
    waiting: frozenset[ServiceName] = frozenset()
    due: float | None = None
    """Seconds until their newest state may be taken; None where nobody waits."""


class Flapping:
    """Knows what is live, and which services changed lately."""

    def __init__(self, *, burst: int, interval: float, crowded_pause: float) -> None:
        """``burst`` and ``interval`` as in the settings for reloads; ``crowded_pause``: the least time between two
        changes of those that flap while nginx is crowded."""
        self._burst: Final = max(1, burst - 1)
        self._interval: Final = interval
        self._crowded_pause: Final = crowded_pause
        self._live: Mapping[ServiceName, tuple[Instance, ...]] | None = None
        self._services: Mapping[ServiceName, Service] = {}
        self._changed_at: dict[ServiceName, float] = {}
        """When a change of a service went live last, within the window."""
        self._waited: set[ServiceName] = set()
        """Those of them that had to wait."""
        self._taken_at = -math.inf
        """When one of a service that flaps did."""
        self._free_at = -math.inf
        """When all of the burst is there again."""

    def is_watchful(self, now: float) -> bool:
        """Whether any service changed lately."""
        return bool(self._lately(now))

    def services(self, now: float) -> frozenset[ServiceName]:
        """Return those that flap: they had to wait, and go on changing."""
        return frozenset(self._waited & self._lately(now))

    def _lately(self, now: float) -> set[ServiceName]:
        return {name for name, at in self._changed_at.items() if now - at < WINDOW}

    def accept(self, plan: Plan, catalog: Catalog, now: float) -> None:
        """Take note that nginx serves this plan, which was made from this catalog."""
        services = {service.name: service for service in plan.services}
        if self._live is not None:
            names = services.keys() | self._services.keys()
            changed = {name for name in names if _differs(self._services.get(name), services.get(name))}
            self._changed_at = {name: at for name, at in self._changed_at.items() if now - at < WINDOW}
            if changed & self._changed_at.keys():
                self._taken_at = now
                self._free_at = max(self._free_at, now) + self._interval
            self._changed_at.update(dict.fromkeys(changed, now))
        self._live, self._services = catalog.services, services

    def keep(self, catalog: Catalog, now: float, *, crowded: bool) -> Calm:
        """Return the catalog in which those that flap are as they are live, until their time has come."""
        if self._live is None:
            return Calm(catalog=catalog)
        lately = self._lately(now)
        self._waited &= lately
        waiting = {name for name in lately if self._live.get(name, ()) != catalog.services.get(name, ())}
        left = self._free_at - (self._burst - 1) * self._interval - now
        if crowded:
            left = max(left, min(_LOOK_AGAIN, self._taken_at + self._crowded_pause - now))
        if not waiting or left <= 0:
            return Calm(catalog=catalog)
        self._waited |= waiting
        services = {**catalog.services, **{name: self._live.get(name, ()) for name in waiting}}
        return Calm(catalog=replace(catalog, services=MappingProxyType(services)), waiting=frozenset(waiting), due=left)


def _differs(before: Service | None, after: Service | None) -> bool:
    if before is None or after is None or before is after:
        return before is not after
    return _given(before) != _given(after)


def _given(service: Service) -> tuple[object, ...]:
    """What of a service nginx is given."""
    return (service.state, service.options, service.claims, service.upstreams, service.split, service.quarantine)
