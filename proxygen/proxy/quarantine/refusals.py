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

_Look = frozenset[tuple[object, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Refused:
    quarantine: Quarantine
    look: _Look
    until: float
    as_served: bool = False


class Refusals:
    """Services are left out until something changes that could cure them: never because of their health, which flaps.

    What a gate refused costs a test to try again, what a reload stumbled over costs a reload; so the second waits for
    its time too, also where its instances go and come back.
    """

    def __init__(self, tag_prefix: str) -> None:
        self._tag: Final = f"{tag_prefix}."
        self._key: Final = f"{tag_prefix}-"
        self._refused: dict[ServiceName, _Refused] = {}
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
        """The catalog in which `as_served` are registered as in the one that is live."""
        kept = {
            name: _as_before(catalog.services[name], live[name])
            for name in self.as_served
            if catalog.services.get(name) and name in live
        }
        return replace(catalog, services=MappingProxyType({**catalog.services, **kept})) if kept else catalog

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

    def review(self, catalog: Catalog, now: float) -> None:
        """Give those another chance whose time has come or whose cause may be gone."""
        self._refused = {
            name: refused
            for name, refused in self._refused.items()
            if now < refused.until and not self._may_be_cured(refused, catalog.services.get(name, ()))
        }
        self.forgive(self._setbacks.keys() - catalog.services.keys())

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


def states_anew(name: ServiceName, catalog: Catalog, live: Mapping[ServiceName, tuple[Instance, ...]]) -> bool:
    """Whether a service of the live catalog would be planned otherwise if it were kept as it is there."""
    now = catalog.services.get(name, ())
    return bool(now) and name in live and _as_before(now, live[name]) != now


def _as_before(now: tuple[Instance, ...], before: tuple[Instance, ...]) -> tuple[Instance, ...]:
    """Those that were served then, with what they stated then; all as they were where none of them is there now."""
    known = {one.key: one for one in before}
    return (
        tuple(replace(one, tags=known[one.key].tags, meta=known[one.key].meta) for one in now if one.key in known)
        or before
    )
