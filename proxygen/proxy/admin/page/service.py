"""One service: its variants and their shares, its instances, its traffic, and what may be done about it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import zip_longest
from typing import Final

from proxygen.proxy.admin.page import words
from proxygen.proxy.admin.page.problems import Problem, conflict
from proxygen.proxy.admin.page.steering import SteeringForms
from proxygen.proxy.admin.page.views import (
    SERIES,
    BarPart,
    EventView,
    Level,
    TrafficWords,
    bar,
    event_views,
    figures,
    served_as,
    service_link,
)
from proxygen.proxy.admin.page.way import Way, way
from proxygen.proxy.admin.service_report import Change, InstanceReport, InstanceState, ServiceDetail, VariantReport
from proxygen.proxy.admin.traffic_report import HistoryReport
from proxygen.proxy.plan.types import ServiceState
from proxygen.proxy.record.events import Event
from proxygen.tags.shares import WHOLE

MOST_INSTANCES: Final = 200
"""Of one variant: the API has them all."""

_LEVELS: Final = {
    InstanceState.SERVING: Level.GOOD,
    InstanceState.STANDBY: Level.INFO,
    InstanceState.DRAINED: Level.INFO,
    InstanceState.UNHEALTHY: Level.BAD,
    InstanceState.REFUSED: Level.BAD,
    InstanceState.QUARANTINED: Level.BAD,
    InstanceState.WAITING: Level.WARN,
}
_STATES: Final[Mapping[str, Level]] = {
    ServiceState.SERVED: Level.GOOD,
    ServiceState.NOBODY: Level.BAD,
    ServiceState.QUARANTINED: Level.BAD,
}
_WAITING: Final = {
    Change.ADDED: "nginx does not serve it yet; the plan that adds it is not live.",
    Change.CHANGED: "nginx serves it as shown; what is asked for since is not live.",
    Change.REMOVED: "It is gone from Consul; nginx serves it still, as the plan without it is not live.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareBar:
    """One share as a number, a word and a bar."""

    name: str
    text: str
    value: float
    """Percent; 0 where nothing is known, which the text says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceView:
    """One instance in a table."""

    key: str
    """The same as long as it is the same instance."""
    id: str
    node: str
    address: str
    datacenter: str
    health: str
    failure: str
    """What Consul's failing checks of it say; "" where none fails or it cannot be read."""
    state: str
    level: Level
    weight: int
    part: str
    """Of the variant's requests, by weight."""

    @property
    def rev(self) -> str:
        return words.digest(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantView:
    """One variant with its instances."""

    name: str
    series: int
    shares: tuple[ShareBar, ...]
    """In effect, waiting to be so, asked for, measured."""
    figures: TrafficWords
    serving: str
    instances: tuple[InstanceView, ...]
    more: int
    """Instances that are not shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """The last minutes: as data for the browser to draw, and as a table."""

    data: str
    label: str
    names: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    """How long ago, then requests, errors and p95 of each series; newest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServicePage:
    """The page of one service."""

    name: str
    state: str
    level: Level
    routes: tuple[str, ...]
    notice: str
    """As in `Overview`."""
    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]
    bar: tuple[BarPart, ...]
    way: Way
    variants: tuple[VariantView, ...]
    unserved: TrafficWords | None
    """Requests that nginx answered by itself; None where there were none."""
    chart: Chart | None
    steering: SteeringForms
    events: tuple[EventView, ...] = field(default=())


def service_view(
    service: ServiceDetail, events: Iterable[Event], now: datetime, *, steering: SteeringForms, notice: str
) -> ServicePage:
    state = served_as(service.state, routes=len(service.routes), lost=len(service.lost))
    return ServicePage(
        name=service.name,
        state=state,
        level=_STATES.get(service.state, Level.INFO) if state == service.state else Level.WARN,
        routes=service.routes,
        notice=notice,
        problems=tuple(_problems(service)),
        warnings=service.warnings,
        bar=bar([variant.effective for variant in service.variants]),
        way=way(service),
        variants=tuple(_variant(place, variant, steering.failures) for place, variant in enumerate(service.variants)),
        unserved=figures(service.unserved) if service.unserved else None,
        chart=_chart(service),
        steering=steering,
        events=event_views(events, now, most=20, service=service.name),
    )


def _problems(service: ServiceDetail) -> Iterable[Problem]:
    if service.quarantine is not None:
        yield Problem(
            kind="Quarantined", level=Level.BAD, text=service.quarantine.reason, offender=service.quarantine.place
        )
    elif service.state == ServiceState.NOBODY:
        yield Problem(kind="Nobody serves", level=Level.BAD, text="Its routes answer 503.")
    if service.waiting:
        yield Problem(kind="Waiting", level=Level.WARN, text=_WAITING[service.waiting])
    if service.kept:
        text = f"nginx keeps {words.count(service.kept, 'instance')} that Consul no longer shows as serving."
        yield Problem(kind="Held", level=Level.WARN, text=text)
    for item in service.conflicts:
        if item.loser == service.name:
            yield conflict(item)
        else:
            text = f"It keeps {item.route}, which {item.loser} claims too."
            yield Problem(
                kind="Conflict won", level=Level.INFO, text=text, service=service_link(item.loser), offender=item.route
            )


def _variant(place: int, variant: VariantReport, failures: Mapping[tuple[str, str], str]) -> VariantView:
    serving = [item for item in variant.instances if item.state is InstanceState.SERVING]
    total = sum(item.weight for item in serving)
    # Those that fail first: they are what somebody came for.
    ordered = sorted(variant.instances, key=lambda item: (_LEVELS[item.state] is not Level.BAD, item.node, item.id))
    measured = variant.traffic.share if variant.traffic else None
    return VariantView(
        name=variant.name,
        series=place % SERIES,
        shares=(
            _share("in effect", variant.effective),
            *(() if variant.waiting is None else (_share("waiting", variant.waiting),)),
            _share("asked for", variant.asked),
            _share("measured", measured),
        ),
        figures=figures(variant.traffic),
        serving=f"{len(serving):,} of {words.count(len(variant.instances), 'instance')} serving",
        instances=tuple(_instance(item, total, failures) for item in ordered[:MOST_INSTANCES]),
        more=max(0, len(ordered) - MOST_INSTANCES),
    )


def _share(name: str, share: int | None) -> ShareBar:
    text = words.percent(share) if share is not None else "no requests"
    return ShareBar(name=name, text=text, value=(share or 0) * 100 / WHOLE)


def _instance(item: InstanceReport, total: int, failures: Mapping[tuple[str, str], str]) -> InstanceView:
    serves = item.state is InstanceState.SERVING
    return InstanceView(
        key=words.digest((item.datacenter, item.node, item.id)),
        id=item.id,
        node=item.node,
        address=item.address,
        datacenter=item.datacenter,
        health=f"{item.health}, not checked yet" if item.unchecked else item.health,
        failure=failures.get((item.node, item.id), ""),
        state=f"{item.state.value}, gone from Consul" if item.held else item.state.value,
        level=Level.WARN if item.held else _LEVELS[item.state],
        weight=item.weight,
        part=words.percent_of(item.weight, total) if serves else words.NOTHING,
    )


def _figures_as_json(named: list[tuple[str, HistoryReport]], step: float) -> str:
    series = [
        {"name": name, "requests": history.requests, "errors": history.errors, "p95": history.p95}
        for name, history in named
    ]
    return json.dumps({"step": step, "series": series}, separators=(",", ":"))


def _chart(service: ServiceDetail) -> Chart | None:
    named = [(variant.name, variant.history) for variant in service.variants if variant.history]
    if service.unserved_history:
        named.append(("by nginx itself", service.unserved_history))
    if not named:
        return None
    step = named[0][1].step
    names = tuple(name for name, _ in named)
    return Chart(
        data=_figures_as_json(named, step),
        label=f"Requests, errors and response times of {', '.join(names)}, last minutes; the table has the figures.",
        names=names,
        rows=tuple(_steps([history for _, history in named], step)),
    )


def _steps(histories: Sequence[HistoryReport], step: int) -> Iterable[tuple[str, ...]]:
    """Return the rows of the table, newest first."""
    columns = [list(zip(each.requests, each.errors, each.p95, strict=True))[::-1] for each in histories]
    for place, row in enumerate(zip_longest(*columns)):
        cells = [f"{place * step} s ago"]
        for cell in row:
            requests, failed, p95 = cell or (0.0, 0.0, None)
            cells += [f"{requests:,.0f}", f"{failed:,.0f}", words.milliseconds(p95)]
        yield tuple(cells)
