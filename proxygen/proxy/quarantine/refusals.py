"""The services that a gate or nginx itself refused: what they looked like then, and when they get another chance."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from proxygen.catalog import Catalog, Instance, ServiceName
from proxygen.proxy.plan.types import Plan, Quarantine
from proxygen.proxy.quarantine.restated import as_before

FORGOTTEN: Final = 600.0
"""Seconds after its last early chance from which on a service is like one that had none."""

_SHORTEST: Final = 1.0
_LONGEST: Final = 60.0
"""Seconds between two early chances of a service: the pauses double from the first of these to the other."""

_Look = frozenset[tuple[object, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Refused:
    quarantine: Quarantine
    look: _Look
    until: float
    as_served: bool = False


@dataclass(frozen=True, slots=True)
class _Early:
    """The chances that a service got since it changed, before its time had come."""

    count: int
    last: float

    @property
    def next(self) -> float:
        return self.last + min(_LONGEST, _SHORTEST * (1 << min(self.count - 1, 16)))


class Refusals:
    """Services are left out until something changes that could cure them: never because of their health, which flaps.

    What a gate refused costs a test to try again, what a reload stumbled over costs a reload; so the second waits for
    its time too, also where its instances go and come back. Who changes what it states may have mended it, and is tried
    at once; who goes on to do so is tried ever more rarely.
    """

    def __init__(self, tag_prefix: str) -> None:
        self._prefix: Final = tag_prefix
        self._tag: Final = f"{tag_prefix}."
        self._key: Final = f"{tag_prefix}-"
        self._refused: dict[ServiceName, _Refused] = {}
        self._early: dict[ServiceName, _Early] = {}
        self._setbacks: Counter[ServiceName] = Counter()

    @property
    def quarantines(self) -> Mapping[ServiceName, Quarantine]:
        return {name: refused.quarantine for name, refused in self._refused.items() if not refused.as_served}

    @property
    def as_served(self) -> Mapping[ServiceName, Quarantine]:
        """Those that stay as they were served, with why: their newest state alone is left out."""
        return {name: refused.quarantine for name, refused in self._refused.items() if refused.as_served}

    def refuse(
        self, quarantine: Quarantine, catalog: Catalog, *, until: float = math.inf, as_served: bool = False
    ) -> None:
        """Leave a service out. ``until``: the monotonic time at which what a reload stumbled over is tried again."""
        look = self._look(catalog.services.get(quarantine.service, ()), with_addresses=until == math.inf)
        self._refused[quarantine.service] = _Refused(quarantine=quarantine, look=look, until=until, as_served=as_served)

    @property
    def names(self) -> frozenset[ServiceName]:
        """All of which anything is left out."""
        return frozenset(self._refused)

    def keep_served(self, catalog: Catalog, live: Mapping[ServiceName, tuple[Instance, ...]]) -> Catalog:
        """The catalog in which `as_served` state what they do in the one that is live."""
        kept = {
            name: as_before(catalog.services[name], live[name], self._prefix)
            for name in self.as_served
            if catalog.services.get(name) and name in live
        }
        return replace(catalog, services=MappingProxyType({**catalog.services, **kept})) if kept else catalog

    def states_anew(
        self, name: ServiceName, catalog: Catalog, live: Mapping[ServiceName, tuple[Instance, ...]]
    ) -> bool:
        """Whether a service of the live catalog would be planned otherwise if it were kept as it is there."""
        now = catalog.services.get(name, ())
        if not now or name not in live:
            return False
        kept = as_before(now, live[name], self._prefix)
        return self._look(kept, with_addresses=True) != self._look(now, with_addresses=True)

    def tell(self, plan: Plan) -> Plan:
        """The plan in which `as_served` have a warning of it."""
        waiting = self.as_served
        if not waiting:
            return plan
        return replace(
            plan,
            services=tuple(
                replace(each, warnings=(*each.warnings, f"served as before: {waiting[each.name].reason}"))
                if each.name in waiting
                else each
                for each in plan.services
            ),
        )

    def convict(self, quarantine: Quarantine, until: float) -> None:
        """Leave out for a reason that is known now what only waited, whatever the catalog at hand shows."""
        waited = self._refused[quarantine.service]
        self._refused[quarantine.service] = replace(waited, quarantine=quarantine, until=until)

    def release(self, names: Iterable[ServiceName]) -> None:
        """Give these another chance at once."""
        for name in names:
            self._refused.pop(name, None)

    def count_setback(self, name: ServiceName) -> int:
        """Count one more reload that stumbled over a service; return how many there were before."""
        self._setbacks[name] += 1
        return self._setbacks[name] - 1

    def review(self, catalog: Catalog, now: float) -> float | None:
        """Give those another chance whose time has come or whose cause may be gone; return the seconds until the next
        of those that changed gets one."""
        self._early = {name: early for name, early in self._early.items() if now - early.last < FORGOTTEN}
        waiting = []
        for name, refused in tuple(self._refused.items()):
            early = self._early.get(name)
            if now >= refused.until:
                del self._refused[name]
            elif not self._may_be_cured(refused, catalog.services.get(name, ())):
                continue
            elif early is None or now >= early.next:
                del self._refused[name]
                self._early[name] = _Early(early.count + 1 if early else 1, now)
            else:
                waiting.append(min(early.next, refused.until) - now)
        self.forgive(self._setbacks.keys() - catalog.services.keys())
        return min(waiting, default=None)

    def forgive(self, names: Iterable[ServiceName]) -> None:
        """Forget the setbacks of services that went live, or are gone. Those `as_served` did not: their newest state
        waits."""
        for name in set(names) - self.as_served.keys():
            self._setbacks.pop(name, None)

    def clear(self) -> None:
        """Give all of them another chance: nginx or a file of the operator's is another one."""
        self._refused.clear()

    def _may_be_cured(self, refused: _Refused, instances: tuple[Instance, ...]) -> bool:
        if refused.until < math.inf and not instances:
            return False
        return self._look(instances, with_addresses=refused.until == math.inf) != refused.look

    def _look(self, instances: tuple[Instance, ...], *, with_addresses: bool) -> _Look:
        """What of a registration can be why it was refused: what is read of it, however many there are of the same."""
        return frozenset(
            (
                *(tag for tag in instance.tags if tag.startswith(self._tag)),
                *(pair for pair in instance.meta if pair[0].startswith(self._key)),
                *((instance.address, instance.port) if with_addresses else ()),
            )
            for instance in instances
        )
