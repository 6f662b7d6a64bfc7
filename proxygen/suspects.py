"""Who is at fault where nginx does not take a reload and no reason can be read: what came since the last one it took.

They are left out one by one, new ports first, until nginx takes the rest. The last one left out made the difference;
the others are cleared, and tried again at once.
"""

from __future__ import annotations

from collections.abc import Mapping

from proxygen.model import ServiceName
from proxygen.plan.types import Plan, PortClaim, Service


def is_familiar(service: Service, served: Mapping[ServiceName, Service]) -> bool:
    """Whether nginx serves it as it is now, other instances aside."""
    before = served.get(service.name)
    return before is not None and (before.claims, before.options) == (service.claims, service.options)


class Suspects:
    """The services left out since nginx last took a reload, in that order."""

    def __init__(self) -> None:
        self._left_out: list[ServiceName] = []

    def choose(self, plan: Plan, served: Mapping[ServiceName, Service]) -> Service | None:
        """Return the next to leave out, the newest first; None where all that is left was served before."""
        new = [each for each in plan.services if each.quarantine is None and not is_familiar(each, served)]
        chosen = min(new, key=lambda each: (not _new_ports(each, served), -each.registered, each.name), default=None)
        if chosen is not None:
            self._left_out.append(chosen.name)
        return chosen

    def conclude(self) -> tuple[ServiceName, ...]:
        """Take note that nginx took a reload; return those that are cleared by it."""
        cleared = tuple(self._left_out[:-1])
        self._left_out.clear()
        return cleared


def _new_ports(service: Service, served: Mapping[ServiceName, Service]) -> bool:
    before = served[service.name].claims if service.name in served else ()
    return any(isinstance(claim, PortClaim) and claim not in before for claim in service.claims)
