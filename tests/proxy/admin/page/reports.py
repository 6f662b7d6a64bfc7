"""Reports in which there is something of everything."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final, TypeVar

from proxygen.proxy.admin.report import (
    ApplyReport,
    ConsulReport,
    DiffReport,
    FileChange,
    GenerationReport,
    HoldReport,
    LiveReport,
    NginxReport,
    State,
    StatusReport,
)
from proxygen.proxy.admin.service_report import (
    ConflictReport,
    InstanceReport,
    InstanceState,
    QuarantineReport,
    ServiceDetail,
    ServiceSummary,
    VariantReport,
    VariantSummary,
)
from proxygen.proxy.admin.shares_report import ShareReport, SharesReport
from proxygen.proxy.admin.traffic_report import HistoryReport, ListenerReport, TrafficReport
from proxygen.proxy.record.events import Event, Kind

T = TypeVar("T")

NOW: Final = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)

HEALTHY: Final = StatusReport(
    version="1.2.3",
    state=State.READY,
    live=LiveReport(number=42, digest="abc", since="2026-03-01T09:30:00+00:00", outcome="applied"),
    last_apply=ApplyReport(outcome="applied", generation=42, durations={"check": 0.25, "prove": 0.75}),
    consul=ConsulReport(address="127.0.0.1:8500", datacenter="dc1", freshness=0.5, fresh=30.0),
    nginx=NginxReport(version="1.22.1", visible=True, master=77, accepting=2, draining=1, max_draining=4),
    traffic=ListenerReport(sample=100.0),
)

TROUBLED: Final = replace(
    HEALTHY,
    state=State.DEGRADED,
    reasons=("the last apply was rejected: no",),
    last_apply=ApplyReport(
        outcome="rejected",
        generation=43,
        reason="nginx refused it | nginx: [emerg] unexpected } | nginx: test failed",
        durations={"check": 0.5, "test": 0.5},
    ),
    consul=replace(HEALTHY.consul, freshness=90.0, problem="no leader"),
    quarantined=(QuarantineReport(service="billing", place="proxygen.route=;", reason="no host"),),
    conflicts=(
        ConflictReport(route="a.example.com/", holder="web", loser="shop"),
        ConflictReport(route="b.example.com/", holder="", loser="shop"),
    ),
    warnings=("no worker_shutdown_timeout",),
    hold=HoldReport(reason="half of all went", since="2026-03-01T11:59:00+00:00", services={"api": 3}),
)


def traffic(requests: float, errors: float = 0, *, share: int | None = None) -> TrafficReport:
    return TrafficReport(
        seconds=25.0,
        requests=requests,
        errors=errors,
        classes={"2xx": requests - errors, "5xx": errors},
        retried=errors,
        backed_up=2 * errors,
        share=share,
        p50=0.004,
        p95=0.08,
        p99=1.25,
    )


def history(steps: int = 3) -> HistoryReport:
    return HistoryReport(
        step=5, requests=(10.0, *(20.0,) * (steps - 1)), errors=(1.0,) * steps, p95=(None, *(0.02,) * (steps - 1))
    )


def instance(number: int, state: InstanceState = InstanceState.SERVING, *, weight: int = 10) -> InstanceReport:
    return InstanceReport(
        id=f"web-{number}", node="n1", address=f"10.0.0.{number}:80", weight=weight, health="passing", state=state
    )


def summary(name: str, state: str = "served", *, variants: int = 1) -> ServiceSummary:
    names = ["stable", "canary", "blue", "green", "red"][:variants]
    return ServiceSummary(
        name=name,
        state=state,
        routes=(f"{name}.example.com/", "b/", "c/"),
        variants=tuple(
            VariantSummary(
                name=variant,
                asked=1000,
                effective=10_000 // variants,
                serving=1,
                registered=2,
                traffic=traffic(100, 1, share=900),
            )
            for variant in names
        ),
        instances={InstanceState.SERVING: variants},
        unserved=traffic(1),
    )


WEB: Final = ServiceDetail(
    name="web",
    state="served",
    routes=("app.example.com/", "www.example.com/"),
    variants=(
        VariantReport(
            name="canary",
            asked=1000,
            effective=1000,
            instances=(instance(1),),
            traffic=traffic(250, 10, share=1004),
            history=history(),
        ),
        VariantReport(
            name="stable",
            asked=9000,
            effective=9000,
            instances=(
                *(instance(number) for number in range(2, 9)),
                instance(9, InstanceState.UNHEALTHY),
                instance(10, InstanceState.DRAINED, weight=0),
            ),
            traffic=traffic(2250, share=8996),
            history=history(),
        ),
    ),
    quarantine=QuarantineReport(service="web", place="proxygen.rate=often", reason="'often' is not a rate"),
    conflicts=(
        ConflictReport(route="app.example.com/", holder="web", loser="shop"),
        ConflictReport(route="x.example.com/", holder="shop", loser="web"),
    ),
    warnings=("its instances disagree",),
    kept=2,
    unserved=traffic(5, 5),
    unserved_history=history(),
)

SHARES: Final = SharesReport(
    service="web",
    variants=(
        ShareReport(name="stable", asked=8750, in_kv=None, in_tags=None, effective=9000),
        ShareReport(name="canary", asked=1250, in_kv=1250, in_tags=1000, effective=1000),
    ),
    key="proxygen/canary/web",
    index=17,
    problem="it is not JSON",
    warnings=("no instance belongs to blue",),
)

GENERATIONS: Final = (
    GenerationReport(
        number=43,
        digest="cd",
        created="2026-03-01T11:59:00+00:00",
        live=False,
        outcome="not proven",
        reason="no proof | worker process exited",
        durations={"check": 0.25, "prove": 0.75},
    ),
    GenerationReport(
        number=42,
        digest="ab",
        created="2026-03-01T09:30:00+00:00",
        live=True,
        outcome="live",
        cause="services: 1 added",
        durations={"check": 0.25, "prove": 0.75},
        propagation=1.2,
    ),
    GenerationReport(number=41, digest="12", created="2026-02-01T09:30:00+00:00", live=False, outcome="proven"),
)

DIFFERENCE: Final = DiffReport(
    generation=42,
    against=41,
    summary="1 file, 1 line added",
    files=(FileChange(path="http.d/web.conf", added=1, removed=0),),
    diff="--- 41/http.d/web.conf\n+++ 42/http.d/web.conf\n@@ -1,2 +1,3 @@\n server {\n+    listen 80;\n }\n",
    truncated=True,
)

EVENTS: Final = tuple(
    Event(
        id=number, at="2026-03-01T11:58:00+00:00", kind=kind, text="so it was", generation=42, services=("web", "shop")
    )
    for number, kind in enumerate(Kind)
)


def with_texts(value: T, text: str) -> T:
    """Return the same report with ``text`` in every place where a text can stand."""
    found: Any = value
    if isinstance(value, Enum):
        return value
    if isinstance(value, str):
        found = text
    elif isinstance(value, tuple):
        found = tuple(with_texts(each, text) for each in value)
    elif isinstance(value, dict):
        found = {with_texts(key, text): with_texts(each, text) for key, each in value.items()}
    elif is_dataclass(value) and not isinstance(value, type):
        changed = {field.name: with_texts(getattr(value, field.name), text) for field in fields(value)}
        found = replace(value, **changed)
    return found  # type: ignore[no-any-return]
