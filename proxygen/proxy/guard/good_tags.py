"""The tags with which instances were served, for those whose next ones cannot be used. Pure.

They are those of the catalog that is live. An instance that is gone keeps its own for some time: in a rolling deploy an
application deregisters, and comes back by the same name with a mistyped tag.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from proxygen.catalog import Catalog, Instance, ServiceName
from proxygen.proxy.plan.types import GoodTags, Plan, PlannedState, Service

MAX_GONE: Final = 20
"""Instances of one service that are remembered after they went."""
MAX_GONE_IN_ALL: Final = 1_000


def as_planned(plan: Plan, catalog: Catalog) -> Catalog:
    """The catalog in which instances have the tags that they were planned with."""
    kept = {service.name: {one.key: one for one in service.kept} for service in plan.services if service.kept}
    if not kept:
        return catalog
    services = {
        name: tuple(kept[name].get(one.key, one) for one in instances) if name in kept else instances
        for name, instances in catalog.services.items()
    }
    return replace(catalog, services=MappingProxyType(services))


def note_served(before: Mapping[ServiceName, GoodTags], plan: Plan, live: Catalog) -> Mapping[ServiceName, GoodTags]:
    """Take note that nginx serves a plan, ``live`` being the catalog as it was planned."""
    # A service in quarantine keeps what it had: that may be what cures it.
    services = {service.name: service for service in plan.services if service.quarantine is None}
    left = {name: _next(served, ()) for name, served in before.items() if name not in services}
    left |= {one.service: before[one.service] for one in plan.quarantined if one.service in before}
    now = {name: _next(before.get(name, GoodTags()), _served(service, live)) for name, service in services.items()}
    changed = {name for name, served in now.items() if served is not before.get(name)}
    in_order = sorted({**left, **now}.items(), key=lambda item: item[0] in changed)
    return MappingProxyType(dict(_bounded(in_order)))


def gone(served: Mapping[ServiceName, GoodTags]) -> tuple[Instance, ...]:
    """What is remembered of instances that are in no catalog."""
    return tuple(one for known in served.values() for one in known.gone)


def with_gone(instances: tuple[Instance, ...]) -> Mapping[ServiceName, GoodTags]:
    """Remember again what `gone` returned."""
    found: dict[ServiceName, GoodTags] = {}
    for one in instances:
        found[one.service] = GoodTags((), (*found.get(one.service, GoodTags()).gone, one))
    return MappingProxyType(found)


def _served(service: Service, live: Catalog) -> tuple[Instance, ...]:
    there = live.services.get(service.name, ())
    served = {(one.node, one.id) for one in service.instances if one.state is not PlannedState.LEFT_OUT}
    return there if len(served) == len(there) else tuple(one for one in there if one.key in served)


def _next(known: GoodTags, there: tuple[Instance, ...]) -> GoodTags:
    if there is known.there:
        return known
    keys = {one.key for one in there}
    went = {one.key: one for one in (*known.gone, *known.there) if one.key not in keys}
    return GoodTags(there, tuple(went.values())[-MAX_GONE:])


def _bounded(served: Sequence[tuple[ServiceName, GoodTags]]) -> Iterator[tuple[ServiceName, GoodTags]]:
    """Where too many are gone, forget those of services that changed longest ago, which stand first."""
    surplus = sum(len(known.gone) for _, known in served) - MAX_GONE_IN_ALL
    for name, known in served:
        forgotten = min(max(0, surplus), len(known.gone))
        surplus -= forgotten
        if known.there or forgotten < len(known.gone):
            yield name, GoodTags(known.there, known.gone[forgotten:]) if forgotten else known
