"""The status in a few lines: what `proxygen status` and `proxygen top` both print, in the same words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from proxygen.proxy.admin.report import ApplyReport, ConsulReport, NginxReport, StatusReport
from proxygen.proxy.admin.service_report import Change, ServiceReport, ServiceSummary, VariantReport, VariantSummary
from proxygen.proxy.admin.standing import beside
from proxygen.proxy.apply.outcome import WayToNginx
from proxygen.tags.shares import Share, format_share

_WAITING = {None: "", Change.CHANGED: "", Change.ADDED: " (not served yet)", Change.REMOVED: " (gone from Consul)"}


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusFact:
    """One line."""

    label: str
    text: str
    problem: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusListing:
    """Things of one kind of which there may be many: a table where there is room, else one line each."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    line: str
    """One row as a sentence: a format with a place for each of the headings."""

    @property
    def lines(self) -> Iterator[str]:
        return (self.line.format(*row) for row in self.rows)


def facts(status: StatusReport) -> Iterator[StatusFact]:
    """Tell all of it but the services and what `listings` has."""
    yield StatusFact(label="state", text=f"{status.state} (proxygen {status.version})")
    yield from (StatusFact(label="because", text=reason, problem=True) for reason in status.reasons)
    if notice := beside(status):
        yield StatusFact(label="serving", text=notice, problem=True)
    live = status.live
    yield StatusFact(
        label="generation",
        text=f"{live.number} since {live.since} ({live.outcome}{by_push(live.by)})" if live else "none is live",
    )
    if status.last_apply is not None:
        cause = f", {status.last_apply.cause}" if status.last_apply.cause else ""
        yield StatusFact(label="last apply", text=apply_text(status.last_apply) + cause)
    if status.hold is not None:
        text = f"since {status.hold.since}: {status.hold.reason} (proxygen release-hold lets it through)"
        yield StatusFact(label="on hold", text=text, problem=True)
    yield StatusFact(label="consul", text=_consul(status.consul))
    yield StatusFact(label="nginx", text=_nginx(status.nginx))
    yield from (StatusFact(label=each.topic, text=each.text, problem=True) for each in status.conditions)
    yield from (StatusFact(label="warning", text=warning, problem=True) for warning in status.warnings)


def apply_text(report: ApplyReport) -> str:
    """Say how an apply ended."""
    generation = "" if report.generation is None else f" generation {report.generation}"
    reason = f": {report.reason}" if report.reason else ""
    seconds = sum(report.durations.values())
    return f"{report.outcome}{generation}{by_push(report.by)}{reason}" + (f" ({seconds:.2f}s)" if seconds else "")


def by_push(by: str) -> str:
    """What to add to an outcome that was reached without a reload."""
    return " by push" if by == WayToNginx.PUSH else ""


def _consul(consul: ConsulReport) -> str:
    freshness = "never answered" if consul.freshness is None else f"answered {consul.freshness:.1f}s ago"
    return f"{consul.address} {freshness}" + (f"; {consul.problem}" if consul.problem else "")


def _nginx(nginx: NginxReport) -> str:
    workers = f", {nginx.accepting} workers, {nginx.draining} draining" if nginx.accepting is not None else ""
    master = f"master {nginx.master}" if nginx.master is not None else "no master seen"
    push = ", pushed to" if nginx.push else f", not pushed to: {nginx.push_problem}" if nginx.push_problem else ""
    return f"{nginx.version or 'version unknown'}, {master}{workers}{push}"


def listings(status: StatusReport) -> tuple[StatusListing, ...]:
    """Return what is left out, refused or kept; any of them may be empty."""
    kept = status.hold.instances if status.hold is not None else ()
    return (
        StatusListing(
            title="quarantined",
            headings=("SERVICE", "PLACE", "REASON"),
            rows=tuple((each.service, each.place, each.reason) for each in status.quarantined),
            line="quarantined: {}: {}: {}",
        ),
        StatusListing(
            title="conflicts",
            headings=("ROUTE", "HOLDER", "REFUSED"),
            rows=tuple((each.route, each.holder or "nobody", each.loser) for each in status.conflicts),
            line="conflict: {}: {} has it, {} was refused",
        ),
        StatusListing(
            title="kept by the hold",
            headings=("SERVICE", "NODE", "INSTANCE", "ADDRESS"),
            rows=tuple((each.service, each.node, each.id, each.address) for each in kept),
            line="kept by the hold: {} on {}: {}, {}",
        ),
    )


def named(service: ServiceReport | ServiceSummary) -> str:
    """Return its name, and whether it is not served yet or gone."""
    return service.name + _WAITING[service.waiting]


def share_text(variant: VariantReport | VariantSummary) -> str:
    """Return the share that it has, and the one that waits or is asked for where that is another one."""
    share = format_share(Share(variant.effective))
    if variant.waiting is not None:
        return f"{share} (waiting {format_share(Share(variant.waiting))})"
    return share if variant.effective == variant.asked else f"{share} (asked {format_share(Share(variant.asked))})"
