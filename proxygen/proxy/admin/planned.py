"""Planned services as the admin API tells them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from proxygen.proxy.admin.service_report import (
    ConflictReport,
    InstanceReport,
    InstanceState,
    QuarantineReport,
    ServiceDetail,
    ServiceReport,
    ServiceSummary,
    VariantReport,
    VariantSummary,
)
from proxygen.proxy.plan.types import Conflict, Plan, PlannedInstance, PlannedState, Quarantine, Service
from proxygen.proxy.plan.unusable import describe_all

_STATES: Final = {
    PlannedState.SERVING: InstanceState.SERVING,
    PlannedState.STANDBY: InstanceState.STANDBY,
    PlannedState.DRAINED: InstanceState.DRAINED,
    PlannedState.UNHEALTHY: InstanceState.UNHEALTHY,
    PlannedState.NO_PORT: InstanceState.REFUSED,
    PlannedState.LEFT_OUT: InstanceState.REFUSED,
}


def lost_routes(plan: Plan) -> Mapping[str, tuple[str, ...]]:
    """Return the routes that services claim and do not get, by service."""
    found: dict[str, list[str]] = {}
    for conflict in plan.conflicts:
        found.setdefault(conflict.loser, []).append(str(conflict.claim))
    return {name: tuple(routes) for name, routes in found.items()}


def service_report(service: Service, *, lost: tuple[str, ...] = ()) -> ServiceReport:
    """``lost``: see `lost_routes`, here and below."""
    return ServiceReport(
        name=service.name, state=service.state.value, routes=_routes(service), lost=lost, variants=_variants(service)
    )


def service_detail(plan: Plan, name: str, *, kept: Mapping[str, int]) -> ServiceDetail | None:
    """Return None where the plan has no service of that name. ``kept``: see `HoldReport.services`."""
    service = next((service for service in plan.services if service.name == name), None)
    if service is None:
        return None
    return ServiceDetail(
        name=service.name,
        state=service.state.value,
        routes=_routes(service),
        lost=lost_routes(plan).get(name, ()),
        variants=_variants(service),
        quarantine=quarantine_report(service.quarantine) if service.quarantine else None,
        conflicts=tuple(conflict_report(item) for item in plan.conflicts if name in (item.holder, item.loser)),
        warnings=(*describe_all(service), *service.warnings),
        kept=kept.get(name, 0),
    )


def service_summary(service: Service, *, kept: Mapping[str, int], lost: tuple[str, ...] = ()) -> ServiceSummary:
    # Plain dicts: this runs for every service at every scrape, and Counter took twice as long.
    serving: dict[str, int] = {}
    registered: dict[str, int] = {}
    states: dict[InstanceState, int] = {}
    for instance in _everywhere(service):
        name, state = instance.variant, _STATES[instance.state]
        registered[name] = registered.get(name, 0) + 1
        states[state] = states.get(state, 0) + 1
        serving[name] = serving.get(name, 0) + (state is InstanceState.SERVING)
    return ServiceSummary(
        name=service.name,
        state=service.state.value,
        routes=_routes(service),
        lost=lost,
        variants=tuple(
            VariantSummary(
                name=variant.name,
                asked=variant.asked,
                effective=variant.effective,
                serving=serving.get(variant.name, 0),
                registered=registered.get(variant.name, 0),
            )
            for variant in service.variants
        ),
        instances=states,
        unusable=sum(bool(instance.problem) for instance in service.instances),
        kept=kept.get(service.name, 0),
    )


def gone(served: Plan, newest: Plan) -> Mapping[str, int]:
    """Return how many instances each service serves that the newest plan does not know any more."""
    known = {
        (service.name, one.datacenter, one.node, one.id) for service in newest.services for one in _everywhere(service)
    }
    counts = {
        service.name: sum(
            one.state is PlannedState.SERVING and (service.name, one.datacenter, one.node, one.id) not in known
            for one in _everywhere(service)
        )
        for service in served.services
    }
    return {name: count for name, count in counts.items() if count}


def quarantine_report(quarantine: Quarantine) -> QuarantineReport:
    return QuarantineReport(service=quarantine.service, place=quarantine.place, reason=quarantine.reason)


def conflict_report(conflict: Conflict) -> ConflictReport:
    return ConflictReport(route=str(conflict.claim), holder=conflict.holder or "", loser=conflict.loser)


def _routes(service: Service) -> tuple[str, ...]:
    return tuple(str(claim) for claim in service.claims)


def _everywhere(service: Service) -> tuple[PlannedInstance, ...]:
    return (*service.instances, *service.elsewhere) if service.elsewhere else service.instances


def _variants(service: Service) -> tuple[VariantReport, ...]:
    return tuple(
        VariantReport(
            name=variant.name,
            asked=variant.asked,
            effective=variant.effective,
            instances=tuple(_instance(item) for item in _everywhere(service) if item.variant == variant.name),
        )
        for variant in service.variants
    )


def _instance(instance: PlannedInstance) -> InstanceReport:
    return InstanceReport(
        id=instance.id,
        node=instance.node,
        datacenter=instance.datacenter,
        address=f"{instance.address}:{instance.port}",
        weight=instance.weight,
        health=instance.health.value,
        state=_STATES[instance.state],
        unchecked=instance.unchecked,
    )
