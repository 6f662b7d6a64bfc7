"""What the sidecar says about itself: the bodies of the admin API, as types.

Times are ISO 8601 in UTC, durations are seconds, shares are basis points (10000 is everything).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from proxygen.events import EventLog

if TYPE_CHECKING:
    # The commands that ask a sidecar read these types too, and need no metrics library.
    from proxygen.admin.meter import Meter


class State(StrEnum):
    """How the sidecar is."""

    STARTING = "starting"
    """No generation of this run is live yet; nginx serves what an earlier run left."""
    READY = "ready"
    DEGRADED = "degraded"
    """Serving, but not all that Consul asks for, or not from fresh data; the reasons say why."""


class InstanceState(StrEnum):
    """Why an instance gets requests or not."""

    SERVING = "serving"
    STANDBY = "standby"
    """In another datacenter: its turn comes when the local instances fail."""
    DRAINED = "drained"
    """Weight 0."""
    UNHEALTHY = "unhealthy"
    """Critical or in maintenance."""
    REFUSED = "refused"
    """Its address or port cannot be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationReport:
    """One generation on disk."""

    number: int
    digest: str
    created: str
    live: bool
    outcome: str = ""
    """``live``, ``proven`` (nginx was seen to serve it) or ``not proven``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveReport:
    """The generation that nginx is proven to serve."""

    number: int
    digest: str
    since: str
    outcome: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyReport:
    """One attempt to make a plan live."""

    outcome: str
    """applied, unchanged, held, rejected or rolled back."""
    generation: int | None = None
    reason: str = ""
    at: str = ""
    durations: Mapping[str, float] = field(default_factory=dict)
    """Seconds by step: plan, render, check, stage, test, drain, publish, reload, prove, restore."""
    propagation: float | None = None
    """Seconds from the change in Consul until nginx was proven to serve it; None where nothing went live."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsulReport:
    """The sidecar's view of Consul."""

    address: str
    datacenter: str = ""
    freshness: float | None = None
    """Seconds since the last answer that was believed; None before the first."""
    problem: str = ""
    """The last failure in one line; "" while all is well."""
    requests: int = 0
    failures: int = 0
    limited: int = 0
    """Of the failures, those that Consul answered with 429."""
    received: int = 0
    """Bytes of all bodies as they came over the wire."""
    sockets: int = 0
    fresh: float = 0.0
    """Seconds up to which the data counts as fresh: ``admin.fresh``."""
    max_sockets: int = 0
    """``consul.max_connections``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceReport:
    """One registration and what became of it."""

    id: str
    node: str
    address: str
    """``ADDRESS:PORT``."""
    weight: int
    """As nginx has it inside the variant's upstream."""
    health: str
    state: InstanceState
    datacenter: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficReport:
    """Requests over the last half minute, scaled back to all where nginx tells of a sample."""

    seconds: float
    """How long that was."""
    requests: float
    errors: float
    """Those answered with 5xx."""
    classes: Mapping[str, float]
    """Requests by class of status: 1xx, 2xx, 3xx, 4xx, 5xx, other."""
    retried: float
    """Requests for which more than one instance was asked."""
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
class TrafficTotals:
    """What was counted of one service and variant since the sidecar started."""

    service: str
    variant: str
    """"" for requests that went to no instance."""
    classes: Mapping[str, float]
    cumulative: tuple[float, ...]
    """Requests by response time, up to each of `bounds`, then all."""
    bounds: tuple[float, ...]
    seconds: float
    retried: float


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


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantReport:
    """One variant of a service, its share asked for and its share after dead variants gave theirs up."""

    name: str
    asked: int
    effective: int
    instances: tuple[InstanceReport, ...] = ()
    traffic: TrafficReport | None = None
    """None where nothing was heard of it, here and in all that follows."""
    history: HistoryReport | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceReport:
    """One routed service."""

    name: str
    state: str = ""
    """served, nobody (its routes answer 503) or quarantined."""
    routes: tuple[str, ...] = ()
    variants: tuple[VariantReport, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceDetail(ServiceReport):
    """One routed service with all that is said about it elsewhere in the status."""

    quarantine: QuarantineReport | None = None
    conflicts: tuple[ConflictReport, ...] = ()
    """Those that it won and those that it lost."""
    warnings: tuple[str, ...] = ()
    kept: int = 0
    """Instances that a hold keeps in nginx, though Consul no longer shows them as serving."""
    unserved: TrafficReport | None = None
    """Requests that nginx answered by itself: refused, limited, redirected, nobody there."""
    unserved_history: HistoryReport | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantSummary:
    """One variant in numbers."""

    name: str
    asked: int
    effective: int
    serving: int
    registered: int
    traffic: TrafficReport | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSummary:
    """One routed service in a list of many."""

    name: str
    state: str
    routes: tuple[str, ...]
    variants: tuple[VariantSummary, ...]
    instances: Mapping[InstanceState, int]
    """How many there are in each state; a state without any is left out."""
    kept: int = 0
    """As in `ServiceDetail`."""
    unserved: TrafficReport | None = None
    """As in `ServiceDetail`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantineReport:
    """One service left out, and why."""

    service: str
    place: str
    """The tag, or the generated file and line."""
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConflictReport:
    """A route that two services claim."""

    route: str
    holder: str
    loser: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldReport:
    """A plan kept back because it is suspicious."""

    reason: str
    since: str
    pinned: int | None = None
    """The generation to which the operator went back."""
    services: Mapping[str, int] = field(default_factory=dict)
    """How many instances each service keeps that Consul no longer shows as serving."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NginxReport:
    """nginx as the process table shows it; None where it cannot be seen."""

    version: str = ""
    visible: bool = False
    """Whether nginx runs where its processes can be seen from here: ``nginx.reload = signal``."""
    master: int | None = None
    accepting: int | None = None
    draining: int | None = None
    max_draining: int = 0
    """``reload.max_draining``: a reload waits while more are draining."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusReport:
    """Everything an operator asks first."""

    version: str
    state: State
    reasons: tuple[str, ...] = ()
    live: LiveReport | None = None
    last_apply: ApplyReport | None = None
    consul: ConsulReport
    services: tuple[ServiceReport, ...] = ()
    quarantined: tuple[QuarantineReport, ...] = ()
    conflicts: tuple[ConflictReport, ...] = ()
    warnings: tuple[str, ...] = ()
    hold: HoldReport | None = None
    nginx: NginxReport = field(default_factory=NginxReport)
    traffic: ListenerReport = field(default_factory=ListenerReport)


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """Whether a load balancer may send requests here; without reasons it may."""

    reasons: tuple[str, ...] = ()

    @property
    def ready(self) -> bool:
        return not self.reasons


class Sidecar(Protocol):
    """What the admin API needs from the running sidecar.

    Every method may raise a ProxygenError, whose text the caller gets.
    """

    @property
    def events(self) -> EventLog: ...

    @property
    def meter(self) -> Meter:
        """What was measured as it happened; the rest is read at the scrape."""
        ...

    def status(self) -> StatusReport: ...

    def readiness(self) -> Readiness: ...

    def overview(self) -> StatusReport:
        """Return the status without its services, which is cheap however many there are."""
        ...

    def services(self) -> tuple[ServiceSummary, ...]:
        """Return all routed services by name; any thread may call it."""
        ...

    def service(self, name: str) -> ServiceDetail | None:
        """Return one routed service; None where there is none of that name."""
        ...

    def traffic(self) -> tuple[TrafficTotals, ...]:
        """Return what was counted of each service and variant that is still planned; any thread may call it."""
        ...

    def generations(self) -> tuple[GenerationReport, ...]:
        """Return the generations on disk, newest first."""
        ...

    async def rollback(self, number: int | None) -> ApplyReport:
        """Make ``number`` live again, the generation before the live one for None."""
        ...

    async def release_hold(self) -> ApplyReport:
        """Let the held plan through and return what became of it."""
        ...
