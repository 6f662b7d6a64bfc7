"""What is wrong, worst first, each with its reason and what it is about."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from proxygen.proxy.admin.page import words
from proxygen.proxy.admin.page.views import Level, PageLink, service_link
from proxygen.proxy.admin.report import ConditionReport, ConsulReport, HoldReport, StatusReport
from proxygen.proxy.admin.service_report import ConflictReport, QuarantineReport, ServiceSummary
from proxygen.proxy.apply.outcome import FAILED
from proxygen.proxy.plan.types import ServiceState

MOST: Final = 40
"""Of each kind: one cause often has hundreds of victims, and the list below tells of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that an operator should know."""

    kind: str
    level: Level
    text: str
    service: PageLink | None = None
    offender: str = ""
    """The tag or the generated line, as it stands there."""
    said: tuple[str, ...] = ()
    """nginx's own words, line by line."""
    release: bool = False
    """A hold, which an operator may let through."""

    @property
    def id(self) -> str:
        return f"problem-{words.digest((self.kind, self.service, self.offender))}"


def problems(status: StatusReport, services: Iterable[ServiceSummary], now: datetime) -> tuple[Problem, ...]:
    nobody = [service for service in services if service.state == ServiceState.NOBODY]
    found = [
        *_consul(status.consul),
        *_apply(status),
        *_nginx(status),
        *_hold(status.hold, now),
        *_conditions(status.conditions),
        *_shortened([_quarantine(item) for item in status.quarantined[: MOST + 1]], len(status.quarantined)),
        *_shortened([conflict(item) for item in status.conflicts[: MOST + 1]], len(status.conflicts)),
        *_shortened([_nobody(item) for item in nobody[: MOST + 1]], len(nobody)),
    ]
    order = [Level.BAD, Level.WARN]
    return tuple(sorted(found, key=lambda problem: order.index(problem.level)))


def conflict(item: ConflictReport) -> Problem:
    won = f"service {item.holder} has it" if item.holder else "the operator's policy refuses it"
    return Problem(
        kind="Conflict",
        level=Level.WARN,
        text=f"{item.loser} claims {item.route}, but {won}.",
        service=service_link(item.loser),
        offender=item.route,
    )


def _consul(consul: ConsulReport) -> Iterator[Problem]:
    if consul.freshness is None:
        text = "Consul has not been read since the start; nginx keeps what it has."
    elif consul.freshness > consul.fresh:
        text = f"Consul's data is {words.span(consul.freshness)} old; nginx keeps the last that was believed."
    elif consul.problem:
        yield Problem(kind="Consul", level=Level.WARN, text="Consul fails at times.", said=(consul.problem,))
        return
    else:
        return
    yield Problem(kind="Consul lost", level=Level.BAD, text=text, said=(consul.problem,) if consul.problem else ())


def _apply(status: StatusReport) -> Iterator[Problem]:
    last = status.last_apply
    if last is None or last.outcome not in FAILED:
        return
    kept = f"Generation {status.live.number} stays live." if status.live else "No generation is live."
    reason, *said = last.reason.split(" | ")
    yield Problem(
        kind=last.outcome.capitalize(),
        level=Level.BAD,
        text=f"The newest plan did not go live: {reason}. {kept}",
        said=tuple(said),
    )


def _nginx(status: StatusReport) -> Iterator[Problem]:
    nginx = status.nginx
    if nginx.visible and nginx.master is None:
        yield Problem(kind="nginx", level=Level.BAD, text="No nginx master process is seen.")
    if nginx.max_draining and (nginx.draining or 0) >= nginx.max_draining:
        text = f"{words.count(nginx.draining or 0, 'old worker')} drain; the next reload waits for one to end."
        yield Problem(kind="nginx", level=Level.WARN, text=text)


def _hold(hold: HoldReport | None, now: datetime) -> Iterator[Problem]:
    if hold is None:
        return
    since = f" Since {words.clock(hold.since, now)}." if hold.since else ""
    kept = sum(hold.services.values())
    keeps = f" nginx keeps {words.count(kept, 'instance')} that Consul no longer shows as serving." if kept else ""
    yield Problem(kind="Held", level=Level.WARN, text=f"{hold.reason}.{keeps}{since}", release=True)


def _conditions(conditions: Iterable[ConditionReport]) -> Iterator[Problem]:
    for condition in conditions:
        service = service_link(condition.services[0]) if condition.services else None
        yield Problem(kind=condition.topic.capitalize(), level=Level.WARN, text=condition.text, service=service)


def _quarantine(item: QuarantineReport) -> Problem:
    return Problem(
        kind="Quarantined",
        level=Level.BAD,
        text=item.reason,
        service=service_link(item.service),
        offender=item.place,
    )


def _nobody(service: ServiceSummary) -> Problem:
    there = sum(service.instances.values())
    text = f"None of {words.count(there, 'instance')} can take a request: its routes answer 503."
    return Problem(kind="Nobody serves", level=Level.WARN, text=text, service=service_link(service.name))


def _shortened(found: Sequence[Problem], total: int) -> Iterator[Problem]:
    yield from found[:MOST]
    if total > MOST:
        first = found[0]
        yield Problem(kind=first.kind, level=first.level, text=f"… and {total - MOST:,} more of this kind.")
