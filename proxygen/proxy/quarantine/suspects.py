"""Who is at fault where nginx does not take a reload and no reason can be read: what came since the last one it took.

A part of that waits, new ports first, until nginx takes the rest; then what waited gets its turn, part by part. Each
one at fault costs about three times the binary logarithm in reloads, and nobody is left out for another's fault.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from proxygen.catalog import ServiceName
from proxygen.proxy.plan.types import Plan, PortClaim, Service

_Names = tuple[ServiceName, ...]


def is_familiar(service: Service, served: Mapping[ServiceName, Service]) -> bool:
    """Whether nginx serves it as it is now, other instances aside."""
    before = served.get(service.name)
    return before is not None and (before.claims, before.options) == (service.claims, service.options)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deduction:
    """What follows from a reload."""

    guilty: ServiceName | None = None
    """Alone it made the difference."""
    waiting: _Names = ()
    """To be left out from now on, until it is their turn."""
    tried: _Names = ()
    """Their turn is next."""


class Suspects:
    """The services that wait since nginx refused a reload with them."""

    def __init__(self) -> None:
        self._waiting: list[_Names] = []
        """The most suspicious first in each part; the last part gets its turn first."""
        self._beside: frozenset[ServiceName] | None = None
        """nginx took no reload with the last part and these: if it takes these, that part is at fault."""

    def refused(self, plan: Plan, served: Mapping[ServiceName, Service]) -> Deduction:
        """Take note that nginx took no reload with a plan. Nothing follows where all of it was served before."""
        new = [each for each in plan.services if each.quarantine is None and not is_familiar(each, served)]
        new.sort(key=lambda each: (not _new_ports(each, served), -each.registered, each.name))
        self._beside = None
        if len(new) < 2:
            return Deduction(guilty=new[0].name if new else None)
        ports = sum(_new_ports(each, served) for each in new)
        return self._part(tuple(each.name for each in new), first=ports if 0 < ports < len(new) else len(new) // 2)

    def took(self, served: Collection[ServiceName], left_out: Collection[ServiceName]) -> Deduction:
        """Take note that nginx serves what it was given: ``served``, and without ``left_out``."""
        guilty = None
        while self._waiting:
            part = self._waiting.pop()
            names = tuple(name for name in part if name in left_out)
            is_at_fault = names == part and self._beside is not None and self._beside <= set(served)
            self._beside = None
            if is_at_fault and len(names) == 1:
                guilty = names[0]
            elif is_at_fault:
                return self._part(names, first=len(names) // 2)
            elif names:
                return Deduction(guilty=guilty, tried=names)
        return Deduction(guilty=guilty)

    def _part(self, names: _Names, *, first: int) -> Deduction:
        waiting, tried = names[:first], names[first:]
        self._waiting.append(waiting)
        self._beside = frozenset(tried)
        return Deduction(waiting=waiting, tried=tried)


def _new_ports(service: Service, served: Mapping[ServiceName, Service]) -> bool:
    before = served[service.name].claims if service.name in served else ()
    return any(isinstance(claim, PortClaim) and claim not in before for claim in service.claims)
