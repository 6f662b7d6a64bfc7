"""What a service definition would meet in Consul: planned there as a newcomer, beside the plan without it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from proxygen.catalog import Catalog, Instance, ServiceName
from proxygen.proxy.plan import plan_routes
from proxygen.proxy.plan.types import Memory, Plan, Policy, Service
from proxygen.registration.definition import Definition

_NODE: Final = "\N{BLACK STAR}"
"""And id of the registration that is tried on; no node of Consul's has such a name."""
_LAST: Final = 2**63
"""A CreateIndex that Consul has not reached: between newcomers the older wins."""


def find_clashes(definition: Definition, catalog: Catalog, policy: Policy, memory: Memory) -> tuple[str, ...]:
    """Return what would go wrong for the definition's service, or for others by it; nothing where all would be well."""
    name = ServiceName(definition.name)
    # Certificates and passwords lie beside the sidecar, which need not be here.
    policy = replace(policy, knows_files=False)
    before = plan_routes(catalog, policy, memory)
    after = plan_routes(_with_newcomer(catalog, name, definition), policy, memory)
    alone = plan_routes(_with_newcomer(replace(catalog, services={}), name, definition), policy)
    return (*_lost(name, after), *_taken(name, before, after), *_disagreements(name, (before, alone), after))


def _with_newcomer(catalog: Catalog, name: ServiceName, definition: Definition) -> Catalog:
    newcomer = Instance(
        service=name,
        id=_NODE,
        node=_NODE,
        datacenter=catalog.datacenter,
        # Where it will run is not the question.
        address="127.0.0.1",
        port=1,
        tags=definition.tags,
        meta=definition.meta,
        create_index=_LAST,
        modify_index=_LAST,
    )
    return replace(catalog, services={**catalog.services, name: (*catalog.services.get(name, ()), newcomer)})


def _lost(name: ServiceName, after: Plan) -> Iterator[str]:
    for conflict in after.conflicts:
        if conflict.loser == name:
            why = f"service {conflict.holder} holds it" if conflict.holder is not None else conflict.reason
            yield f"would not get {conflict.claim}: {why}"


def _taken(name: ServiceName, before: Plan, after: Plan) -> Iterator[str]:
    known = set(before.conflicts)
    for conflict in after.conflicts:
        if conflict.holder == name and conflict not in known:
            yield f"would take {conflict.claim} from service {conflict.loser}"


def _disagreements(name: ServiceName, apart: tuple[Plan, Plan], after: Plan) -> Iterator[str]:
    """What neither the other instances nor the newcomer has by itself."""
    (old, alone), new = (_service(plan, name) for plan in apart), _service(after, name)
    if old is None or new is None:
        return
    known = (*old.warnings, *(alone.warnings if alone is not None else ()))
    yield from (f"would be left out: {one.problem}" for one in new.instances if one.node == _NODE and one.problem)
    for warning in new.warnings:
        if warning not in known:
            yield f"would disagree with its other instances: {warning}"


def _service(plan: Plan, name: ServiceName) -> Service | None:
    return next((service for service in plan.services if service.name == name), None)
