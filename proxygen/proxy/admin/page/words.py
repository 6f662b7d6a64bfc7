"""Figures and moments as people read them."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Final

from proxygen.proxy.admin.traffic_report import TrafficReport

NOTHING: Final = "–"
"""What stands where there is no figure."""


def percent(share: int | None) -> str:
    """Basis points: ``12.5 %``."""
    return NOTHING if share is None else f"{share / 100:.2f}".rstrip("0").rstrip(".") + " %"


def percent_of(part: float, whole: float) -> str:
    """A ratio with as many digits as mean something; what is there is never shown as 0."""
    if not whole:
        return NOTHING
    value = 100 * part / whole
    if not value:
        return "0 %"
    return "< 0.1 %" if value < 0.1 else f"{value:.1f} %" if value < 10 else f"{value:.0f} %"


def rate(traffic: TrafficReport | None) -> str:
    """Requests in a second."""
    if traffic is None or not traffic.seconds:
        return NOTHING
    return per_second(traffic.requests / traffic.seconds)


def per_second(value: float) -> str:
    """Two digits below ten, whole numbers above."""
    if not value:
        return "0/s"
    return f"{value:.2g}/s" if value < 10 else f"{value:,.0f}/s"


def errors(traffic: TrafficReport | None) -> str:
    """The share of requests that failed; a dash where nothing is counted."""
    return NOTHING if traffic is None else percent_of(traffic.errors, traffic.requests)


def error_level(errors: float, requests: float) -> str:
    """``bad`` from one request in a hundred, ``warn`` from the first; a class of the style sheet."""
    if not errors:
        return ""
    return "bad" if errors * 100 >= requests else "warn"


def milliseconds(seconds: float | None) -> str:
    """From seconds; a dash for None."""
    if seconds is None:
        return NOTHING
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1000:.0f} ms" if seconds >= 0.01 else f"{seconds * 1000:.1f} ms"


def count(number: int, one: str, many: str = "") -> str:
    """``3 instances``: the plural is ``many``, or ``one`` with an s."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def moment(iso: str) -> datetime | None:
    """Read a time of the API, in UTC where it names no zone; None where it is none."""
    try:
        found = datetime.fromisoformat(iso)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def clock(iso: str, now: datetime) -> str:
    """The time in UTC, with the day where it is another one."""
    found = moment(iso)
    if found is None:
        return NOTHING
    found = found.astimezone(UTC)
    return f"{found:%H:%M:%S}" if found.date() == now.astimezone(UTC).date() else f"{found:%Y-%m-%d %H:%M:%S}"


def age(iso: str, now: datetime) -> str:
    """How long ago a time of the API was; a dash where it is none."""
    found = moment(iso)
    return NOTHING if found is None else f"{span((now - found).total_seconds())} ago"


def span(seconds: float) -> str:
    """A duration in its two largest units, so that it changes rarely."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def digest(value: object) -> str:
    """The same for equal views, as an id or a revision."""
    return hashlib.blake2b(repr(value).encode(errors="surrogatepass"), digest_size=8).hexdigest()
