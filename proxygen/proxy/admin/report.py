"""What the sidecar says about itself: the bodies of the admin API, as types.

Times are ISO 8601 in UTC, durations are seconds, shares are basis points (10000 is everything).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from proxygen.proxy.admin.service_report import ConflictReport, QuarantineReport, ServiceReport
from proxygen.proxy.admin.traffic_report import ListenerReport
from proxygen.proxy.apply.outcome import WayToNginx


class State(StrEnum):
    """How the sidecar is."""

    STARTING = "starting"
    """No generation of this run is live yet; nginx serves what an earlier run left."""
    READY = "ready"
    DEGRADED = "degraded"
    """Serving, but not all that Consul asks for, or not from fresh data; the reasons say why."""


class Told(StrEnum):
    """Which services are told of."""

    LIVE = "live"
    """Those that nginx serves."""
    LIVE_AND_WAITING = "live and waiting"
    """Those that nginx serves, and beside each what the newest plan would change, which is not live."""
    NEWEST = "newest"
    """Those of the newest plan: nobody can tell what the live generation stands for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationReport:
    """One generation on disk."""

    number: int
    digest: str
    created: str
    live: bool
    outcome: str = ""
    """``live``, ``proven`` (nginx was seen to serve it), ``rolled back`` (nginx did not take it) or ``not proven``."""
    cause: str = ""
    """What was different from what was live before; "" where the journal does not reach back so far, as below."""
    by: str = ""
    """By what nginx was seen to serve it: reload or push; "" where it was not."""
    reason: str = ""
    """Why it was rolled back, with nginx's own words."""
    durations: Mapping[str, float] = field(default_factory=dict)
    """As in `ApplyReport`."""
    propagation: float | None = None
    """As in `ApplyReport`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileChange:
    """One file of a generation that is different in another."""

    path: str
    added: int
    """Lines, as the next."""
    removed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffReport:
    """What one generation changed against another."""

    generation: int
    against: int | None
    """None: there is no older one on disk, and it is compared with nothing."""
    summary: str
    files: tuple[FileChange, ...]
    diff: str
    """Unified."""
    truncated: bool
    """Whether lines are left out of ``diff``, which is bounded; the figures count them all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveReport:
    """The generation that nginx is proven to serve."""

    number: int
    digest: str
    since: str
    outcome: str
    by: str = WayToNginx.RELOAD.value
    """How it reached nginx: reload or push."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyReport:
    """One attempt to make a plan live."""

    outcome: str
    """applied, unchanged, held, rejected or rolled back."""
    generation: int | None = None
    reason: str = ""
    at: str = ""
    durations: Mapping[str, float] = field(default_factory=dict)
    """Seconds by step: plan, render, check, push, stage, test, drain, publish, reload, prove, restore."""
    by: str = WayToNginx.RELOAD.value
    """How what was applied reached nginx: reload or push."""
    propagation: float | None = None
    """Seconds from the change in Consul until nginx was proven to serve it; None where nothing went live."""
    cause: str = ""
    """What was different from what was live before, where that is known."""


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
class KeptInstanceReport:
    """An instance that nginx keeps though Consul no longer shows it as serving."""

    service: str
    node: str
    id: str
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldReport:
    """A plan kept back because it is suspicious."""

    reason: str
    since: str
    pinned: int | None = None
    """The generation to which the operator went back."""
    services: Mapping[str, int] = field(default_factory=dict)
    """How many instances each service keeps that Consul no longer shows as serving."""
    instances: tuple[KeptInstanceReport, ...] = ()
    """These by name, 100 at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionReport:
    """Something that is so for a while, and that no other part of the status tells."""

    topic: str
    text: str
    services: tuple[str, ...] = ()


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
    push: bool = False
    """Whether servers, weights, health and shares reach nginx without a reload."""
    push_problem: str = ""
    """Why not, where ``reload.push = auto``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateReport:
    """A certificate that the tag ``tls`` can name."""

    name: str
    """Its file's name where NAME.crt lies beside NAME.pem."""
    hosts: tuple[str, ...]
    expires: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusReport:
    """Everything an operator asks first."""

    version: str
    host: str = ""
    """The name of the host on which the sidecar runs."""
    state: State
    reasons: tuple[str, ...] = ()
    live: LiveReport | None = None
    last_apply: ApplyReport | None = None
    consul: ConsulReport
    services: tuple[ServiceReport, ...] = ()
    told: Told = Told.LIVE
    """What ``services`` tells."""
    quarantined: tuple[QuarantineReport, ...] = ()
    conflicts: tuple[ConflictReport, ...] = ()
    warnings: tuple[str, ...] = ()
    hold: HoldReport | None = None
    conditions: tuple[ConditionReport, ...] = ()
    """Refused settings, instances left out; of many, the first of each topic."""
    nginx: NginxReport = field(default_factory=NginxReport)
    traffic: ListenerReport = field(default_factory=ListenerReport)
    certificates: tuple[CertificateReport, ...] = ()
