"""Services, their variants and instances, as bodies of the admin API.

Shares are basis points (10000 is everything).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from proxygen.proxy.admin.traffic_report import HistoryReport, TrafficReport

WAITING: Final = "waiting"
"""The state of a service that nginx does not serve yet; while it serves it, its state is one of the plan's
`ServiceState`."""


class Change(StrEnum):
    """What a plan that is not live would do to a service."""

    ADDED = "added"
    CHANGED = "changed"
    REMOVED = "removed"


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
    """Its tags, address or port cannot be used; the service's warnings say why."""
    QUARANTINED = "quarantined"
    """Its service is left out."""
    WAITING = "waiting"
    """nginx does not have it yet: the plan with it is held back or was refused."""


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
    unchecked: bool = False
    """Whether its agent has not checked it since it started. An instance that served before keeps the health that it
    had then, for ``guard.hold`` at most; a new one is critical."""
    datacenter: str = ""
    held: bool = False
    """Whether nginx has it although Consul does not any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantReport:
    """One variant of a service."""

    name: str
    asked: int
    """The share that tags or the operator ask for, live or not."""
    effective: int
    """The share that nginx gives it; dead variants gave theirs up."""
    waiting: int | None = None
    """The share by the newest plan where that is another one and not live: it is held, or was refused."""
    instances: tuple[InstanceReport, ...] = ()
    traffic: TrafficReport | None = None
    """None where nothing was heard of it, here and in all that follows."""
    history: HistoryReport | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceReport:
    """One routed service."""

    name: str
    state: str = ""
    """A `ServiceState` of the plan: served, nobody (its routes answer 503), quarantined; or `WAITING`."""
    routes: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    """Of its routes those that another service has, or the operator's policy refuses it."""
    variants: tuple[VariantReport, ...] = ()
    waiting: Change | None = None
    """What the newest plan, which is not live, does to it; None where nothing."""


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
    """As in `VariantReport`, like the next two."""
    effective: int
    waiting: int | None = None
    serving: int
    registered: int
    traffic: TrafficReport | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSummary:
    """One routed service in a list of many."""

    name: str
    state: str
    routes: tuple[str, ...]
    lost: tuple[str, ...] = ()
    """As in `ServiceReport`."""
    variants: tuple[VariantSummary, ...]
    waiting: Change | None = None
    """As in `ServiceReport`."""
    instances: Mapping[InstanceState, int]
    """How many there are in each state; a state without any is left out."""
    unusable: int = 0
    """Instances whose registration cannot be used: left out, or served with the tags that they had before."""
    kept: int = 0
    """As in `ServiceDetail`."""
    unserved: TrafficReport | None = None
    """As in `ServiceDetail`."""
