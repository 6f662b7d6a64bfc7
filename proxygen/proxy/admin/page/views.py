"""What the pages share: figures, shares and events, as the templates print them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import quote

from proxygen.proxy.admin.page import words
from proxygen.proxy.admin.traffic_report import TrafficReport
from proxygen.proxy.plan.types import ServiceState
from proxygen.proxy.record.events import TELLINGS, Event, Mark
from proxygen.tags.shares import WHOLE

SERIES: Final = 4
"""Colours for variants; after them they begin anew, and names tell which is which."""


Level = Mark
"""How much something matters: a class of the style sheet, and a word where colour alone would tell."""


@dataclass(frozen=True, slots=True)
class PageLink:
    """A name and the page that tells more of it."""

    text: str
    href: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficWords:
    """The last half minute in words."""

    rate: str
    errors: str
    level: str
    """A `Level` where errors are worth a look, else ""."""
    p50: str
    p95: str
    p99: str
    retried: str
    backed_up: str
    """What one of nginx's backups answered; "" where that is nothing."""
    backed_up_level: str
    classes: tuple[tuple[str, str], ...] = ()
    """Classes of status and how many of all requests they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """The requests of several variants as one."""

    rate: str
    errors: str
    level: str

    @classmethod
    def of(cls, reports: Sequence[TrafficReport]) -> Together:
        requests, errors = sum(each.requests for each in reports), sum(each.errors for each in reports)
        seconds = max((each.seconds for each in reports), default=0.0)
        return cls(
            rate=words.per_second(requests / seconds) if seconds else words.NOTHING,
            errors=words.percent_of(errors, requests) if reports else words.NOTHING,
            level=words.error_level(errors, requests),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BarPart:
    """A part of a bar, in its units of 0 to 100."""

    x: float
    width: float
    series: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One change that the operator may ask for: see docs/decisions/032-status-page.md."""

    method: str
    action: str
    etag: str
    """What the operator saw: it is refused where that is no longer so."""
    button: str
    body: str = ""
    """JSON; "" where there is none, or where inputs make it."""
    confirm: str = ""
    done: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventView:
    """One event in a list."""

    id: int
    kind: str
    level: Level
    at: str
    iso: str
    text: str
    services: tuple[PageLink, ...]
    more: int
    generation: PageLink | None


def served_as(state: str, *, routes: int, lost: int) -> str:
    """Say how a service is, of whose routes others have so many: with instances but no route it is not served."""
    if not lost or state != ServiceState.SERVED:
        return state
    return "no route" if lost >= routes else f"served, {lost} of {words.count(routes, 'route')} lost"


def service_link(name: str) -> PageLink:
    return PageLink(name, f"/services/{quote(name, safe='')}")


def generation_link(number: int) -> PageLink:
    return PageLink(f"generation {number}", f"/generations/{number}")


def figures(traffic: TrafficReport | None) -> TrafficWords:
    classes = traffic.classes.items() if traffic else ()
    return TrafficWords(
        rate=words.rate(traffic),
        errors=words.errors(traffic),
        level=words.error_level(traffic.errors, traffic.requests) if traffic else "",
        p50=words.milliseconds(traffic.p50 if traffic else None),
        p95=words.milliseconds(traffic.p95 if traffic else None),
        p99=words.milliseconds(traffic.p99 if traffic else None),
        retried=words.percent_of(traffic.retried, traffic.requests) if traffic else words.NOTHING,
        backed_up=words.percent_of(traffic.backed_up, traffic.requests) if traffic and traffic.backed_up else "",
        backed_up_level=words.error_level(traffic.backed_up, traffic.requests) if traffic else "",
        classes=tuple((name, words.percent_of(number, traffic.requests)) for name, number in classes if traffic),
    )


def bar(shares: Sequence[int]) -> tuple[BarPart, ...]:
    """Lay shares in basis points side by side, each in its series' colour."""
    slices = []
    start = 0
    for series, share in enumerate(shares):
        if share:
            slices.append(BarPart(x=start * 100 / WHOLE, width=share * 100 / WHOLE, series=series % SERIES))
        start += share
    return tuple(slices)


def event_views(events: Iterable[Event], now: datetime, *, most: int, service: str = "") -> tuple[EventView, ...]:
    """Return the newest first; only those about ``service``, where one is named."""
    wanted = [event for event in events if not service or service in event.services]
    return tuple(_event(event, now) for event in reversed(wanted[-most:]))


def _event(event: Event, now: datetime) -> EventView:
    return EventView(
        id=event.id,
        kind=event.kind.value,
        level=TELLINGS[event.kind].mark,
        at=words.clock(event.at, now),
        iso=event.at,
        text=event.text,
        services=tuple(service_link(name) for name in event.services[:5]),
        more=max(0, len(event.services) - 5),
        generation=None if event.generation is None else generation_link(event.generation),
    )
