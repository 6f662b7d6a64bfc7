"""What nginx told of its requests, as bodies of the admin API.

Durations are seconds, shares are basis points (10000 is everything).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficReport:
    """Requests over the last half minute, extrapolated to all where nginx tells of a sample."""

    seconds: float
    """How long that was."""
    requests: float
    errors: float
    """Those answered with 5xx."""
    classes: Mapping[str, float]
    """Requests by class of status: 1xx, 2xx, 3xx, 4xx, 5xx, other."""
    retried: float
    """Requests for which more than one instance was asked."""
    backed_up: float
    """Requests that one of nginx's backups answered: an instance of stable in another variant's place, or one of
    another datacenter. nginx asks it where an instance of the variant itself fails, or failed a moment ago."""
    share: int | None = None
    """Of all requests that went to an instance of this service; None where there were none."""
    p50: float | None = None
    """Seconds that instances took, as all three; None where none was asked."""
    p95: float | None = None
    p99: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryReport:
    """The last minutes of a variant, in steps that are over, oldest first."""

    step: int
    """Seconds."""
    requests: tuple[float, ...]
    errors: tuple[float, ...]
    p95: tuple[float | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerReport:
    """How the sidecar hears of nginx's requests."""

    sample: float = 0.0
    """Percent of them that nginx tells of."""
    problem: str = ""
    """Why it tells of none, or not of as many as it should; "" where all is well."""
    counted: int = 0
    """Lines, as all of these."""
    thinned: int = 0
    """Not looked at, since ``traffic.budget`` was used up."""
    unknown: int = 0
    malformed: int = 0
    full: int = 0
    """Reads that found the socket's queue full; nginx may have had to drop lines."""
    lost: int | None = None
    """Lines that nginx dropped, by its error log; None where that does not say."""
