"""The first page: healthy or not and why, what is wrong, and every service in a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from proxygen.proxy.admin.page import words
from proxygen.proxy.admin.page.problems import Problem, problems
from proxygen.proxy.admin.page.views import (
    SERIES,
    BarPart,
    Form,
    Level,
    PageLink,
    Together,
    bar,
    served_as,
    service_link,
)
from proxygen.proxy.admin.report import ConsulReport, NginxReport, State, StatusReport
from proxygen.proxy.admin.service_report import Change, InstanceState, ServiceSummary, VariantSummary
from proxygen.proxy.admin.standing import beside
from proxygen.proxy.admin.summary import by_push
from proxygen.proxy.admin.traffic_report import ListenerReport
from proxygen.proxy.plan.types import ServiceState

MOST_ROWS: Final = 1500
"""More are found by the search: a page of ten thousand rows is nothing that anybody reads."""

_ROUTES: Final = 2
_NAMES: Final = 50
"""Routes by which the browser finds a row at once; the server looks at all."""

_LEVELS: Final[Mapping[str, Level]] = {ServiceState.QUARANTINED: Level.BAD, ServiceState.NOBODY: Level.BAD}
_ORDER: Final = [Level.BAD, Level.WARN, Level.GOOD]


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthVerdict:
    """Healthy or not, and why."""

    level: Level
    title: str
    text: str
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One figure of the first look."""

    name: str
    value: str
    note: str = ""
    level: str = ""
    href: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareView:
    """One variant in a row."""

    name: str
    series: int
    asked: str
    effective: str
    waiting: str
    """What the newest plan gives it, where that is not live; "" where it is."""
    measured: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One service in the list."""

    service: PageLink
    find: str
    """What the search looks at, in small letters."""
    state: str
    level: Level
    routes: tuple[str, ...]
    more_routes: int
    shares: tuple[ShareView, ...]
    """Empty where there is one variant, which gets all."""
    bar: tuple[BarPart, ...]
    instances: str
    instances_level: str
    rate: str
    errors: str
    errors_level: str
    p95: str
    """Of the slowest variant: quantiles do not add up."""

    @property
    def id(self) -> str:
        return f"row-{words.digest(self.service.text)}"

    @property
    def rev(self) -> str:
        return words.digest(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """The first page."""

    verdict: HealthVerdict
    facts: tuple[Fact, ...]
    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]
    warnings_title: str
    release: Form | None
    """Lets the hold through; None where nothing is held."""
    notice: str
    """What the rows are where nginx serves something else; "" where it serves them."""
    rows: tuple[Row, ...]
    total: int
    """Services that there are, found or not."""
    found: int
    query: str


def overview(
    status: StatusReport, services: Sequence[ServiceSummary], now: datetime, *, etag: str, query: str = ""
) -> Overview:
    """``etag`` stands for what is live and held, as `status` has it."""
    wrong = problems(status, services, now)
    wanted = query.strip().lower()
    found = [service for service in services if not wanted or _matches(service, wanted)]
    found.sort(key=_urgency)
    return Overview(
        verdict=_verdict(status, services, wrong),
        facts=_facts(status, services, now),
        problems=wrong,
        warnings=status.warnings,
        warnings_title=words.count(len(status.warnings), "warning"),
        release=_release(etag) if status.hold else None,
        notice=beside(status),
        rows=tuple(_row(service) for service in found[:MOST_ROWS]),
        total=len(services),
        found=len(found),
        query=query,
    )


def _release(etag: str) -> Form:
    return Form(
        method="POST",
        action="/api/v1/release-hold",
        etag=etag,
        button="Let it through",
        confirm="Let the held plan through? nginx then serves what Consul says now.",
        done="The held plan went through.",
    )


def _verdict(status: StatusReport, services: Sequence[ServiceSummary], wrong: Sequence[Problem]) -> HealthVerdict:
    serving = f"generation {status.live.number}" if status.live else ""
    if not beside(status):
        serving = f"{words.count(len(services), 'service')} from {serving}"
    if status.state is State.STARTING:
        level, title, text = Level.WARN, "Starting", "nginx serves what an earlier run left."
    elif status.state is State.DEGRADED:
        level, title, text = Level.BAD, "Degraded", f"nginx serves {serving}, but not all is well:"
    elif wrong:
        level, title = Level.WARN, f"Serving, with {words.count(len(wrong), 'problem')}"
        text = f"nginx serves {serving}; what is wrong stands below."
    else:
        level, title, text = Level.GOOD, "Healthy", f"nginx serves {serving}."
    return HealthVerdict(level=level, title=title, text=text, reasons=status.reasons)


def _facts(status: StatusReport, services: Sequence[ServiceSummary], now: datetime) -> tuple[Fact, ...]:
    live = status.live
    serving = sum(service.instances.get(InstanceState.SERVING, 0) for service in services)
    there = sum(sum(service.instances.values()) for service in services)
    return (
        Fact(
            name="Generation",
            value=str(live.number) if live else words.NOTHING,
            note=f"live{by_push(live.by)} for {words.span((now - since).total_seconds())}"
            if live and (since := words.moment(live.since))
            else "",
            href=f"/generations#generation-{live.number}" if live else "/generations",
        ),
        Fact(
            name="Services", value=f"{len(services):,}", note=f"{serving:,} of {words.count(there, 'instance')} serving"
        ),
        _traffic(services, status.traffic),
        _consul(status.consul),
        _nginx(status.nginx),
    )


def _traffic(services: Sequence[ServiceSummary], listener: ListenerReport) -> Fact:
    heard = [variant.traffic for service in services for variant in service.variants if variant.traffic]
    heard += [service.unserved for service in services if service.unserved]
    together = Together.of(heard)
    if together.errors == words.NOTHING:
        return Fact(name="Requests", value=together.rate, note=listener.problem or "none in the last half minute")
    return Fact(name="Requests", value=together.rate, note=f"{together.errors} errors", level=together.level)


def _consul(consul: ConsulReport) -> Fact:
    if consul.freshness is None:
        return Fact(name="Consul", value="not read", note=consul.address, level=Level.BAD)
    stale = consul.freshness > consul.fresh
    return Fact(
        name="Consul",
        value="stale" if stale else "failing" if consul.problem else "fresh",
        note=f"read {words.span(consul.freshness)} ago" + (f" · {consul.datacenter}" if consul.datacenter else ""),
        level=Level.BAD if stale else Level.WARN if consul.problem else "",
    )


def _nginx(nginx: NginxReport) -> Fact:
    version = nginx.version or words.NOTHING
    if nginx.master is None:
        return Fact(
            name="nginx",
            value=version,
            note="no master seen" if nginx.visible else "",
            level=Level.BAD if nginx.visible else "",
        )
    draining = f" · {nginx.draining} draining" if nginx.draining else ""
    push = " · pushed to" if nginx.push else " · not pushed to" if nginx.push_problem else ""
    note = words.count(nginx.accepting or 0, "worker") + draining + push
    return Fact(name="nginx", value=version, note=note)


def _matches(service: ServiceSummary, wanted: str) -> bool:
    return wanted in service.name.lower() or any(wanted in route.lower() for route in service.routes)


def _row(service: ServiceSummary) -> Row:
    instances = service.instances
    serving, there = instances.get(InstanceState.SERVING, 0), sum(instances.values())
    failing = instances.get(InstanceState.UNHEALTHY, 0) + instances.get(InstanceState.REFUSED, 0)
    several = len(service.variants) > 1
    heard = [variant.traffic for variant in service.variants if variant.traffic]
    together = Together.of([*heard, service.unserved] if service.unserved else heard)
    return Row(
        service=service_link(service.name),
        find=" ".join((service.name, *service.routes[:_NAMES])).lower(),
        state=_state(service),
        level=_level(service),
        routes=service.routes[:_ROUTES],
        more_routes=max(0, len(service.routes) - _ROUTES),
        shares=tuple(_share(place, variant) for place, variant in enumerate(service.variants)) if several else (),
        bar=bar([variant.effective for variant in service.variants]) if several else (),
        instances=f"{serving:,} of {there:,}",
        instances_level="" if not failing else Level.WARN if serving else Level.BAD,
        rate=together.rate,
        errors=together.errors,
        errors_level=together.level,
        p95=words.milliseconds(max((each.p95 for each in heard if each.p95 is not None), default=None)),
    )


def _state(service: ServiceSummary) -> str:
    if service.waiting is Change.REMOVED or (service.kept and not _is_seen(service)):
        return "held, gone from Consul"
    if service.kept:
        return f"{service.state}, {service.kept} held"
    state = served_as(service.state, routes=len(service.routes), lost=len(service.lost))
    return f"{state}, change waits" if service.waiting is Change.CHANGED else state


def _is_seen(service: ServiceSummary) -> bool:
    """Whether Consul still shows an instance beside those that are kept."""
    return sum(service.instances.values()) > service.kept


def _level(service: ServiceSummary) -> Level:
    known = _LEVELS.get(service.state)
    return known or (Level.WARN if service.kept or service.lost or service.waiting else Level.GOOD)


def _urgency(service: ServiceSummary) -> tuple[int, bool, bool, str]:
    """What is wrong first, then what fails in part, then what is on trial; nothing that moves with the traffic."""
    failing = InstanceState.UNHEALTHY in service.instances or InstanceState.REFUSED in service.instances
    return _ORDER.index(_level(service)), not failing, len(service.variants) < 2, service.name


def _share(place: int, variant: VariantSummary) -> ShareView:
    return ShareView(
        name=variant.name,
        series=place % SERIES,
        asked=words.percent(variant.asked),
        effective=words.percent(variant.effective),
        waiting="" if variant.waiting is None else words.percent(variant.waiting),
        measured=words.percent(variant.traffic.share if variant.traffic else None),
    )
