"""From what the sidecar says to what stands on the screen. Every text from outside is one printable line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from proxygen.kit.errors import printable
from proxygen.proxy.admin.page import words
from proxygen.proxy.admin.report import GenerationReport, State, StatusReport
from proxygen.proxy.admin.service_report import ServiceDetail, ServiceSummary, VariantReport, VariantSummary
from proxygen.proxy.admin.summary import by_push, facts, listings, named, share_text
from proxygen.proxy.admin.traffic_report import HistoryReport, TrafficReport
from proxygen.proxy.plan.types import ServiceState
from proxygen.proxy.record.events import Event
from proxygen.tags.shares import STABLE, WHOLE, Share, format_share

COLUMNS = ("SERVICE", "STATE", "INSTANCES", "REQUESTS", "ERRORS", "P95", "SHARES", "ROUTES")
INSTANCE_COLUMNS = ("VARIANT", "STATE", "HEALTH", "ADDRESS", "WEIGHT", "NODE", "ID")
GENERATION_COLUMNS = ("GENERATION", "STATE", "CREATED", "TOOK", "CAUSE")

_BARS = " ▁▂▃▄▅▆▇█"


class Order(Enum):
    """By what services are sorted."""

    TROUBLE = "trouble"
    NAME = "name"
    REQUESTS = "requests"
    ERRORS = "errors"

    @property
    def next(self) -> Order:
        """The one that the same key leads to next."""
        orders = list(Order)
        return orders[(orders.index(self) + 1) % len(orders)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """How it is, in one look."""

    healthy: bool
    title: str
    lines: tuple[str, ...]
    problems: tuple[str, ...]


def headline(status: StatusReport) -> Headline:
    titles = {State.READY: "healthy", State.DEGRADED: "degraded", State.STARTING: "starting"}
    _, *known = facts(status)
    problems = (f"{fact.label}: {fact.text}" for fact in known if fact.problem)
    listed = (line for listing in listings(status) for line in listing.lines)
    return Headline(
        healthy=status.state is State.READY,
        title=titles[status.state],
        lines=tuple(printable(f"{fact.label} {fact.text}") for fact in known if not fact.problem),
        problems=tuple(printable(problem) for problem in (*problems, *listed)),
    )


# --- services


def arrange(services: Iterable[ServiceSummary], *, query: str, order: Order) -> tuple[ServiceSummary, ...]:
    """Return those whose name or a route of theirs holds ``query``, sorted."""
    words_of_query = query.casefold().split()
    found = [
        service
        for service in services
        if all(word in " ".join((service.name, *service.routes)).casefold() for word in words_of_query)
    ]
    keys = {
        Order.TROUBLE: lambda service: (service.state == ServiceState.SERVED, -_error_ratio(service), service.name),
        Order.NAME: lambda service: (service.name,),
        Order.REQUESTS: lambda service: (-_requests(service), service.name),
        Order.ERRORS: lambda service: (-_error_ratio(service), service.name),
    }
    return tuple(sorted(found, key=keys[order]))


def service_cells(service: ServiceSummary) -> tuple[str, ...]:
    """One cell for each of `COLUMNS`."""
    seconds = max((report.seconds for report in _reports(service)), default=0.0)
    requests, errors = _requests(service), sum(report.errors for report in _reports(service))
    slowest = max((report.p95 for report in _reports(service) if report.p95 is not None), default=None)
    cells = (
        named(service),
        service.state,
        f"{sum(each.serving for each in service.variants)}/{sum(each.registered for each in service.variants)}",
        words.per_second(requests / seconds) if seconds else words.NOTHING,
        words.percent_of(errors, requests) if seconds else words.NOTHING,
        words.milliseconds(slowest),
        ", ".join(_share(variant) for variant in service.variants),
        " ".join(service.routes),
    )
    return tuple(printable(cell) for cell in cells)


def _share(variant: VariantSummary | VariantReport) -> str:
    """What it gets, what waits or is asked for where that is another, and what was measured."""
    if variant.name == STABLE and variant.waiting is None and variant.asked == variant.effective == WHOLE:
        return STABLE
    measured = variant.traffic.share if variant.traffic is not None else None
    seen = f" (measured {format_share(Share(measured))})" if measured is not None else ""
    return f"{variant.name} {share_text(variant)}{seen}"


def _reports(service: ServiceSummary) -> tuple[TrafficReport, ...]:
    reports = (*(variant.traffic for variant in service.variants), service.unserved)
    return tuple(report for report in reports if report is not None)


def _requests(service: ServiceSummary) -> float:
    return sum(report.requests for report in _reports(service))


def _error_ratio(service: ServiceSummary) -> float:
    requests = _requests(service)
    return sum(report.errors for report in _reports(service)) / requests if requests else 0.0


# --- one service


def variant_lines(detail: ServiceDetail) -> tuple[str, ...]:
    """Each variant in two lines: its share, and the last minutes."""
    return tuple(printable(line) for variant in detail.variants for line in _variant(variant))


def _variant(variant: VariantReport) -> Iterator[str]:
    traffic = variant.traffic
    yield f"{_share(variant)}: " + ", ".join(
        (
            words.rate(traffic),
            f"{words.errors(traffic)} errors",
            f"p50 {words.milliseconds(traffic.p50 if traffic else None)}",
            f"p95 {words.milliseconds(traffic.p95 if traffic else None)}",
            f"p99 {words.milliseconds(traffic.p99 if traffic else None)}",
        )
    )
    if variant.history is not None:
        requests, errors = bars(variant.history.requests), bars(variant.history.errors)
        yield f"  requests {requests}  errors {errors}  {_span(variant.history)}"


def bars(values: Sequence[float]) -> str:
    """A bar of eight heights for each value; what is there is never shown as nothing."""
    most = max(values, default=0.0)
    return "".join(_BARS[0 if not value else max(1, round(8 * value / most))] for value in values)


def _span(history: HistoryReport) -> str:
    return f"last {len(history.requests) * history.step} s"


def instance_cells(detail: ServiceDetail) -> tuple[tuple[str, ...], ...]:
    """One row for each instance, one cell for each of `INSTANCE_COLUMNS`."""
    return tuple(
        tuple(
            printable(cell)
            for cell in (
                variant.name,
                instance.state.value,
                instance.health,
                instance.address,
                instance.weight,
                f"{instance.node} {instance.datacenter}".strip(),
                instance.id,
            )
        )
        for variant in detail.variants
        for instance in variant.instances
    )


def detail_problems(detail: ServiceDetail) -> tuple[str, ...]:
    """What is wrong with one service, a line each."""
    found: list[str] = []
    if detail.quarantine is not None:
        found.append(f"quarantined: {detail.quarantine.place}: {detail.quarantine.reason}")
    found.extend(f"conflict: {each.route}: {each.holder or 'nobody'} has it" for each in detail.conflicts)
    found.extend(detail.warnings)
    if detail.waiting:
        found.append(f"waiting to be {detail.waiting.value}: the newest plan is not live")
    if detail.kept:
        found.append(f"{words.count(detail.kept, 'instance')} kept by a hold though Consul shows none")
    return tuple(printable(problem) for problem in found)


# --- generations and events


def generation_cells(generation: GenerationReport) -> tuple[str, ...]:
    """One cell for each of `GENERATION_COLUMNS`."""
    took = words.milliseconds(sum(generation.durations.values())) if generation.durations else words.NOTHING
    cells = (
        generation.number,
        generation.outcome + by_push(generation.by),
        f"{generation.created[:19]}Z",
        took,
        generation.cause,
    )
    return tuple(printable(cell) for cell in cells)


def event_line(event: Event) -> str:
    """One line for the terminal, without the date."""
    return printable(f"{event.at[11:19]}  {event.kind}  {event.text}")
