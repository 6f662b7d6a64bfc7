"""A service as nginx serves it, with what the newest plan has in store for it while that is not live.

What nginx serves comes first: its shares, its instances. What is asked for stands beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TypeVar

from proxygen.proxy.admin.service_report import (
    WAITING,
    Change,
    InstanceReport,
    InstanceState,
    ServiceDetail,
    ServiceReport,
    ServiceSummary,
    VariantReport,
    VariantSummary,
)

_Reported = TypeVar("_Reported", ServiceReport, ServiceSummary, ServiceDetail)
_Key = tuple[str, str, str]


def by_name(
    served: Iterable[_Reported], newest: Iterable[_Reported]
) -> Iterable[tuple[_Reported | None, _Reported | None]]:
    """Pair what is served with what is planned, by name."""
    before, after = ({service.name: service for service in services} for services in (served, newest))
    return ((before.get(name), after.get(name)) for name in sorted(before.keys() | after.keys()))


def report_beside(served: ServiceReport | None, newest: ServiceReport | None) -> ServiceReport:
    """One of the two may be None."""
    if served is None:
        assert newest is not None
        return replace(newest, state=WAITING, waiting=Change.ADDED, variants=_variants((), newest.variants))
    if newest is None:
        return replace(served, waiting=Change.REMOVED, variants=_variants(served.variants, ()))
    waiting = None if _without_health(served) == _without_health(newest) else Change.CHANGED
    return replace(served, waiting=waiting, variants=_variants(served.variants, newest.variants))


def detail_beside(served: ServiceDetail | None, newest: ServiceDetail | None) -> ServiceDetail:
    """As `report_beside`; what is wrong with the service is what is wrong with it now."""
    merged = report_beside(served, newest)
    assert isinstance(merged, ServiceDetail)
    if newest is None:
        return merged
    return replace(merged, quarantine=newest.quarantine, conflicts=newest.conflicts, warnings=newest.warnings)


def summary_beside(served: ServiceSummary | None, newest: ServiceSummary | None) -> ServiceSummary:
    if served is None:
        assert newest is not None
        instances = {InstanceState.WAITING: sum(newest.instances.values())} if newest.instances else {}
        variants = _summaries((), newest.variants)
        return replace(newest, state=WAITING, waiting=Change.ADDED, variants=variants, instances=instances)
    if newest is None:
        return replace(served, waiting=Change.REMOVED, variants=_summaries(served.variants, ()))
    waiting = None if replace(served, kept=newest.kept) == newest else Change.CHANGED
    return replace(served, waiting=waiting, variants=_summaries(served.variants, newest.variants))


def _summaries(served: tuple[VariantSummary, ...], newest: tuple[VariantSummary, ...]) -> tuple[VariantSummary, ...]:
    asked = {variant.name: variant for variant in newest}
    known = {variant.name for variant in served}
    return (
        *(
            replace(one, asked=asked[one.name].asked, waiting=_waiting(one.effective, asked[one.name].effective))
            if one.name in asked
            else replace(one, waiting=0)
            for one in served
        ),
        *(replace(one, effective=0, serving=0, waiting=one.effective) for one in newest if one.name not in known),
    )


def _variants(served: tuple[VariantReport, ...], newest: tuple[VariantReport, ...]) -> tuple[VariantReport, ...]:
    asked = {variant.name: variant for variant in newest}
    known = {variant.name for variant in served}
    registered = {_key(item): item for variant in newest for item in variant.instances}
    return (
        *(_variant(one, asked.get(one.name), registered) for one in served),
        *(
            replace(one, effective=0, waiting=one.effective, instances=tuple(map(_not_yet, one.instances)))
            for one in newest
            if one.name not in known
        ),
    )


def _variant(
    served: VariantReport, newest: VariantReport | None, registered: Mapping[_Key, InstanceReport]
) -> VariantReport:
    keys = {_key(item) for item in served.instances}
    later = newest.instances if newest is not None else ()
    instances = (
        *(_as_served(item, registered.get(_key(item))) for item in served.instances),
        *(_not_yet(item) for item in later if _key(item) not in keys),
    )
    if newest is None:
        return replace(served, waiting=0, instances=instances)
    waiting = _waiting(served.effective, newest.effective)
    return replace(served, asked=newest.asked, waiting=waiting, instances=instances)


def _as_served(item: InstanceReport, now: InstanceReport | None) -> InstanceReport:
    """nginx has it as it was; its health is what Consul says now."""
    if now is None:
        return replace(item, held=True)
    return replace(item, health=now.health, unchecked=now.unchecked)


def _not_yet(item: InstanceReport) -> InstanceReport:
    return replace(item, state=InstanceState.WAITING)


def _waiting(effective: int, planned: int) -> int | None:
    return None if effective == planned else planned


def _key(item: InstanceReport) -> _Key:
    return (item.datacenter, item.node, item.id)


def _without_health(service: ServiceReport) -> object:
    """What of a service its rendering can depend on."""
    return (
        service.state,
        service.routes,
        tuple(
            (
                one.name,
                one.asked,
                one.effective,
                tuple((item.address, item.weight, item.state) for item in one.instances),
            )
            for one in service.variants
        ),
    )
