"""Whose lines a gate refused, and what is left of a service that is refused twice."""

from __future__ import annotations

from collections.abc import Mapping

from proxygen.catalog import ServiceName
from proxygen.kit.errors import CheckRefused
from proxygen.proxy.check.structure import Refusal
from proxygen.proxy.plan.types import Quarantine


def quarantines(
    refusals: tuple[Refusal, ...], known: Mapping[ServiceName, Quarantine]
) -> dict[ServiceName, Quarantine]:
    """Turn refusals into quarantines of the services whose lines they are.

    A service that is refused even in quarantine is withdrawn: its routes are not answered at all. Raise CheckRefused
    where a refusal is nobody's, or only about services that are withdrawn already.
    """
    found: dict[ServiceName, Quarantine] = {}
    for refusal in refusals:
        blamed = [name for name in refusal.services if name not in known or not known[name].withdrawn]
        if not blamed:
            raise CheckRefused(str(refusal))
        for name in blamed:
            found[name] = _quarantine(name, refusal, known.get(name), found.get(name))
    return found


def _quarantine(
    name: ServiceName, refusal: Refusal, before: Quarantine | None, so_far: Quarantine | None
) -> Quarantine:
    place = f"{refusal.file}:{refusal.line}" if refusal.line else refusal.file
    lost = (before.lost if before else frozenset()) | (so_far.lost if so_far else frozenset()) | refusal.claims
    is_new = bool(refusal.claims - (before.lost if before else frozenset()))
    return Quarantine(
        service=name,
        place=so_far.place if so_far else place,
        reason=so_far.reason if so_far else f"{refusal.gate}: {refusal.reason}",
        lost=lost,
        withdrawn=before is not None and not is_new,
    )
