"""What a generation serves, beside its files: services, shares and instances, for those who ask while newer plans wait.

``services.json`` is written with the generation and goes with it. It decides nothing: where it cannot be read, nobody
can tell what of a plan an old generation stands for, and that is all.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from proxygen.catalog import ServiceName
from proxygen.proxy.apply.outcome import Outcome
from proxygen.proxy.plan.types import (
    Claim,
    Conflict,
    Ident,
    Plan,
    PlannedInstance,
    PortClaim,
    Quarantine,
    RouteClaim,
    Service,
    ServiceState,
    Variant,
)
from proxygen.proxy.record.steps import Step

FILE: Final = "services.json"


class _Quarantine(msgspec.Struct, frozen=True):
    place: str
    reason: str


class _Service(msgspec.Struct, frozen=True):
    name: str
    state: ServiceState
    routes: tuple[RouteClaim, ...]
    ports: tuple[PortClaim, ...]
    variants: tuple[Variant, ...]
    instances: tuple[PlannedInstance, ...]
    elsewhere: tuple[PlannedInstance, ...] = ()
    quarantine: _Quarantine | None = None
    lost_routes: tuple[RouteClaim, ...] = ()
    lost_ports: tuple[PortClaim, ...] = ()


_DECODER: Final = msgspec.json.Decoder(tuple[_Service, ...])


def encode_services(plan: Plan) -> bytes:
    """Write down who gets which traffic by a plan."""
    lost: dict[ServiceName, list[Claim]] = {}
    for conflict in plan.conflicts:
        lost.setdefault(conflict.loser, []).append(conflict.claim)
    return msgspec.json.encode(tuple(_written(service, lost.get(service.name, [])) for service in plan.services))


def decode_services(text: bytes) -> Plan:
    """Read back what `encode_services` wrote: a plan to tell of, not to render. Raise ValueError for anything else."""
    try:
        written = _DECODER.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    lost: list[tuple[str, Claim]] = [(one.name, claim) for one in written for claim in one.lost_routes]
    lost += [(one.name, claim) for one in written for claim in one.lost_ports]
    return Plan(
        services=tuple(_read(one) for one in written),
        servers=(),
        streams=(),
        conflicts=tuple(Conflict(claim=claim, holder=None, loser=ServiceName(name)) for name, claim in lost),
    )


def holders_of(plan: Plan) -> Mapping[Claim, ServiceName]:
    """Return who holds what by a plan that `decode_services` read."""
    lost = {(conflict.loser, conflict.claim) for conflict in plan.conflicts}
    return {
        claim: service.name
        for service in plan.services
        for claim in service.claims
        if (service.name, claim) not in lost
    }


def _written(service: Service, lost: list[Claim]) -> _Service:
    quarantine = service.quarantine
    return _Service(
        name=service.name,
        state=service.state,
        routes=tuple(claim for claim in service.claims if isinstance(claim, RouteClaim)),
        ports=tuple(claim for claim in service.claims if isinstance(claim, PortClaim)),
        variants=service.variants,
        instances=service.instances,
        elsewhere=service.elsewhere,
        quarantine=_Quarantine(quarantine.place, quarantine.reason) if quarantine is not None else None,
        lost_routes=tuple(claim for claim in lost if isinstance(claim, RouteClaim)),
        lost_ports=tuple(claim for claim in lost if isinstance(claim, PortClaim)),
    )


def _read(written: _Service) -> Service:
    name, quarantine = ServiceName(written.name), written.quarantine
    return Service(
        name=name,
        ident=Ident(""),
        state=written.state,
        claims=(*written.routes, *written.ports),
        variants=written.variants,
        instances=written.instances,
        elsewhere=written.elsewhere,
        quarantine=Quarantine(service=name, place=quarantine.place, reason=quarantine.reason) if quarantine else None,
    )


class LivePlans:
    """Knows which plan a live generation stands for."""

    def __init__(self, output: Path) -> None:
        self._output: Final = output
        self._newest: tuple[int | None, Plan] | None = None
        """What this run saw go live last."""
        self._older: tuple[int, Plan | None] | None = None
        """What was read from disk last."""

    def note(self, step: Step, plan: Plan | None, *, pinned: bool) -> None:
        """Take in how a pass ended that was about ``plan``."""
        # An unchanged pass with a reason is a way back that led nowhere; a held one with a pin went nowhere either.
        is_live = step.outcome in (Outcome.APPLIED, Outcome.HELD) or (
            step.outcome is Outcome.UNCHANGED and not step.reason
        )
        if is_live and not pinned and plan is not None:
            self._newest = (step.generation, plan)

    def plan_of(self, generation: int) -> Plan | None:
        """Return the plan that a generation was made from; None where nobody can tell."""
        if self._newest is not None and self._newest[0] == generation:
            return self._newest[1]
        if self._older is None or self._older[0] != generation:
            self._older = (generation, self._stored(generation))
        return self._older[1]

    def _stored(self, generation: int) -> Plan | None:
        try:
            return decode_services((self._output / f"generations/{generation:06d}" / FILE).read_bytes())
        except (OSError, ValueError):
            return None
