"""Services that change again and again wait alone: others need some of the reloads. Pure: who calls says what time it
is.

A service flaps when it changes for the third time, each change within `WINDOW` of the one before: who registers and
drains a moment later does not. One that waits still flaps when its wait is over. Of the reloads that may follow each
other at once, one is never spent on those that flap. And each reload leaves old workers behind, which finish their
requests, and there may be so many of them and no more: while nginx is crowded with them, a service that flaps gets its
newest state only every so often, counted from its own last change. Until then it is served as it is live; an operator's
override of its shares counts at once, and so does an instance that is healthy where there was none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from proxygen.catalog import Catalog, Health, Instance, ServiceName
from proxygen.proxy.plan.types import Plan, Service, ServiceState

WINDOW: Final = 30.0
"""Seconds for which a change is remembered after it went live, and a wait after its end."""

_HEALTHY: Final = (Health.PASSING, Health.WARNING)

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
        """When a change of a service went live last."""
        self._waits_until: dict[ServiceName, float] = {}
        """When those that had to wait need not any more: the pause may be longer than the window."""
        self._lately_then: set[ServiceName] = set()
        """Those that had changed lately when the catalog was judged. Its reload may take longer than the window."""
        self._repeated: set[ServiceName] = set()
        """Those of them that had changed within the window before that: their next change has to wait."""
        self._waited: set[ServiceName] = set()
        """Those of them that had to wait."""
        self._free_at = -math.inf
        """When all of the burst is there again."""

    def is_watchful(self, now: float) -> bool:
        """Whether any service changed lately."""
        return bool(self._lately(now))

    def services(self, now: float) -> frozenset[ServiceName]:
        """Return those that flap: they had to wait, and go on changing."""
        return frozenset(self._waited & self._lately(now))

    def _lately(self, now: float) -> set[ServiceName]:
        return {
            name for name, at in self._changed_at.items() if now - max(at, self._waits_until.get(name, at)) < WINDOW
        }

    def accept(self, plan: Plan, catalog: Catalog, now: float, *, reloaded: bool = True) -> None:
        """Take note that nginx serves this plan, which was made from this catalog. What cost no reload counts as no
        change."""
        services = {service.name: service for service in plan.services}
        if self._live is not None and reloaded:
            names = services.keys() | self._services.keys()
            changed = {name for name in names if _differs(self._services.get(name), services.get(name))}
            lately = self._lately(now) | self._lately_then
            self._changed_at = {name: at for name, at in self._changed_at.items() if name in lately}
            self._waits_until = {name: at for name, at in self._waits_until.items() if name in lately}
            self._spend([(self._services.get(name), services.get(name)) for name in changed & lately], now)
            self._repeated = (self._repeated & lately) | (changed & lately)
            self._changed_at.update(dict.fromkeys(changed, now))
        self._live, self._services = catalog.services, services

    def _spend(self, repeated: list[tuple[Service | None, Service | None]], now: float) -> None:
        """Take from the burst what these changes cost. A recovery never waits, so the loss before it costs both."""
        moves = [(_serves(before), _serves(after)) for before, after in repeated]
        costly = [(before, after) for before, after in moves if before or not after]
        # A change that did not have to wait costs nothing once all is spent: else those that wait would never get any.
        if costly and self._left(now) <= 0:
            self._free_at = max(self._free_at, now) + self._interval * (2 if (True, False) in costly else 1)

    def _left(self, now: float) -> float:
        """Return in how many seconds the burst has a reload for those that flap; not above 0 where it has."""
        return self._free_at - (self._burst - 1) * self._interval - now

    def keep(self, catalog: Catalog, now: float, *, crowded: bool) -> Calm:
        """Return the catalog in which those that flap are as they are live, until their time has come."""
        if self._live is None:
            return Calm(catalog=catalog)
        lately = self._lately_then = self._lately(now)
        self._waited &= lately
        waiting = {name for name in lately & self._repeated if self._has_to_wait(name, catalog.services.get(name, ()))}
        if not waiting:
            return Calm(catalog=catalog)
        left = self._left(now)
        if crowded:
            # A reload for one of them costs no more with the others in it.
            first = min(self._changed_at[name] for name in waiting)
            left = max(left, min(_LOOK_AGAIN, first + self._crowded_pause - now))
        if left <= 0:
            return Calm(catalog=catalog)
        self._waited |= waiting
        self._waits_until.update(dict.fromkeys(waiting, now + left))
        services = {**catalog.services, **{name: self._live.get(name, ()) for name in waiting}}
        return Calm(catalog=replace(catalog, services=MappingProxyType(services)), waiting=frozenset(waiting), due=left)

    def _has_to_wait(self, name: ServiceName, newest: tuple[Instance, ...]) -> bool:
        """Whether it is another one than what is live, and nothing is served of it that could be now."""
        live = self._live.get(name, ()) if self._live is not None else ()
        recovers = not _serves(self._services.get(name)) and not _is_healthy(live) and _is_healthy(newest)
        return live != newest and not recovers


def crowds(draining: int, accepting: int, most: int) -> bool:
    """Whether ``draining`` old workers are so many that those that flap should wait with a reload, which adds as many
    as are ``accepting``; ``most`` as in `reload.max_draining`.

    More than half of the room would be taken. Where there is room for the old workers of two reloads, those of one are
    not too many: by the half alone, a machine of 8 cores with room for 16 would be crowded by a single old worker.
    """
    return draining > 0 and draining + accepting > max(most // 2, min(2 * accepting, most))


def _is_healthy(instances: tuple[Instance, ...]) -> bool:
    return any(one.health in _HEALTHY for one in instances)


def _serves(service: Service | None) -> bool:
    return service is not None and service.state is ServiceState.SERVED


def _differs(before: Service | None, after: Service | None) -> bool:
    if before is None or after is None or before is after:
        return before is not after
    return _given(before) != _given(after)


def _given(service: Service) -> tuple[object, ...]:
    """What of a service nginx is given."""
    return (service.state, service.options, service.claims, service.upstreams, service.split, service.quarantine)
