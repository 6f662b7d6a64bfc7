"""A sidecar that only remembers: what it was asked, and what it was told to answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

from proxygen.kit.errors import BadInput, ConflictingWrite, Refused, UnknownGeneration
from proxygen.proxy.admin.contract import Readiness
from proxygen.proxy.admin.meter import Meter
from proxygen.proxy.admin.report import (
    ApplyReport,
    CertificateReport,
    ConsulReport,
    DiffReport,
    FileChange,
    GenerationReport,
    LiveReport,
    NginxReport,
    State,
    StatusReport,
)
from proxygen.proxy.admin.service_report import (
    InstanceReport,
    InstanceState,
    QuarantineReport,
    ServiceDetail,
    ServiceReport,
    ServiceSummary,
    VariantReport,
    VariantSummary,
)
from proxygen.proxy.admin.traffic_report import ListenerReport
from proxygen.proxy.record.events import EventLog
from proxygen.proxy.rollout.steering import Lever, Shares
from proxygen.proxy.traffic.tally import BOUNDS, CLASSES, Figures, Name
from proxygen.tags.shares import Share

CANARY = InstanceReport(
    id="web-9", node="n1", address="10.0.0.9:80", weight=1, health="passing", state=InstanceState.SERVING
)
STATUS = StatusReport(
    version="1.2.3",
    state=State.READY,
    live=LiveReport(number=42, digest="abc", since="2026-01-01T00:00:00+00:00", outcome="applied"),
    last_apply=ApplyReport(outcome="applied", generation=42, durations={"check": 0.25, "prove": 0.25}),
    consul=ConsulReport(address="127.0.0.1:8500", datacenter="dc1", freshness=0.5, requests=7, sockets=3),
    services=(
        ServiceReport(
            name="web",
            routes=("app.example.com/",),
            variants=(
                VariantReport(name="canary", asked=1000, effective=0, instances=(CANARY,)),
                VariantReport(name="stable", asked=9000, effective=10000),
            ),
        ),
    ),
    certificates=(CertificateReport(name="web", hosts=("web.example.com",), expires="2026-01-01T00:00:00+00:00"),),
    quarantined=(QuarantineReport(service="evil\nname", place="proxygen.route=;", reason="no host"),),
    nginx=NginxReport(version="1.22.1", master=77, accepting=2, draining=1),
    traffic=ListenerReport(sample=25.0, counted=70, thinned=5, unknown=2, malformed=1, full=3, lost=4),
)

WEB = ServiceSummary(
    name="web",
    state="served",
    routes=("app.example.com/",),
    variants=(
        VariantSummary(name="canary", asked=1000, effective=0, serving=0, registered=1),
        VariantSummary(name="stable", asked=9000, effective=10000, serving=2, registered=3),
    ),
    instances={InstanceState.SERVING: 2, InstanceState.UNHEALTHY: 2},
    unusable=1,
)

LEVER = Lever(
    service="web",
    key="proxygen/canary/web",
    index=0,
    in_tags={"canary": Share(1000)},
    healthy=frozenset({"canary", "stable"}),
)

_CLASSES = {"2xx": 36.0, "5xx": 4.0}
_BUCKETS = {1.0: 36.0, 2.5: 4.0}
_SECONDS, _RETRIED, _BACKED_UP = 12.5, 8.0, 5.0
WEB_TRAFFIC = Figures(
    (
        *(_CLASSES.get(name, 0.0) for name in CLASSES),
        *(_BUCKETS.get(bound, 0.0) for bound in (*BOUNDS, math.inf)),
        *(_SECONDS, _RETRIED, _BACKED_UP),
    )
)
"""Of a sample of a quarter."""


class RememberingSidecar:
    """Implements `proxygen.proxy.admin.contract.Sidecar`."""

    def __init__(self) -> None:
        self.report = STATUS
        self.reasons: tuple[str, ...] = ()
        self.notes: tuple[str, ...] = ()
        self.rollbacks: list[int | None] = []
        self.held = False
        self.index = 17
        self.levers = {"web": LEVER}
        self.events = EventLog()
        self.meter = Meter()
        self.meter.watch_connections("tcp", lambda: 1, ["refused"])
        self.listed: tuple[ServiceSummary, ...] = (WEB,)
        self.details = {name: ServiceDetail(name=name, state="served", kept=1) for name in ("web", "a/b c")}
        self.told: Mapping[Name, Figures] = {("web", "canary"): WEB_TRAFFIC, ("web", ""): WEB_TRAFFIC}

    def overview(self) -> StatusReport:
        return replace(self.report, services=())

    def services(self) -> tuple[ServiceSummary, ...]:
        return self.listed

    def service(self, name: str) -> ServiceDetail | None:
        return self.details.get(name)

    def traffic(self) -> Mapping[Name, Figures]:
        return self.told

    def status(self) -> StatusReport:
        return self.report

    def readiness(self) -> Readiness:
        return Readiness(reasons=self.reasons, notes=self.notes)

    def generations(self) -> tuple[GenerationReport, ...]:
        return (GenerationReport(number=42, digest="abc", created="2026-01-01T00:00:00+00:00", live=True),)

    def applies(self) -> tuple[ApplyReport, ...]:
        return (ApplyReport(outcome="applied", generation=42, cause="web: new"),)

    def difference(self, number: int, against: int | None) -> DiffReport:
        if number != 42:
            raise UnknownGeneration(f"there is no generation {number} on disk; there are 42 to 42")
        files = (FileChange(path="http.d/web.conf", added=1, removed=0),)
        return DiffReport(
            generation=42, against=against, summary="1 file", files=files, diff="+server\n", truncated=False
        )

    async def read_lever(self, service: str) -> Lever:
        lever = self.levers.get(service)
        return lever or Lever(service=service, key=f"proxygen/canary/{service}", index=0, is_registered=False)

    async def move_lever(self, lever: Lever, shares: Shares | None) -> Lever:
        if lever != await self.read_lever(lever.service):
            raise ConflictingWrite(f"{lever.key} was written by somebody else meanwhile; read it again")
        wanted = {} if shares is None else {**lever.in_kv, **shares}
        if wanted == lever.in_kv:
            return lever
        self.index += 1
        self.levers[lever.service] = replace(lever, in_kv=wanted, index=self.index if wanted else 0)
        return self.levers[lever.service]

    async def rollback(self, number: int | None, *, confirm: Callable[[], None]) -> ApplyReport:
        confirm()
        if number == 13:
            raise BadInput("there is no generation 13")
        if number == 99:
            raise RuntimeError("a secret detail")
        self.rollbacks.append(number)
        return ApplyReport(outcome="applied", generation=number or 41)

    async def release_hold(self, *, confirm: Callable[[], None]) -> ApplyReport:
        confirm()
        if not self.held:
            raise Refused("nothing is held")
        self.held = False
        return ApplyReport(outcome="applied", generation=43)
