"""The running sidecar as the admin API sees it: the reconciler's and the watch's state, as reports."""

from __future__ import annotations

import math
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from typing import Final, TypeVar

import msgspec

from proxygen import __version__
from proxygen.catalog import Catalog, Instance, ServiceName
from proxygen.consul.client import ConsulClient
from proxygen.consul.watch import CatalogWatch
from proxygen.kit.errors import CatalogUnavailable
from proxygen.proxy.admin.contract import Readiness
from proxygen.proxy.admin.history import attempts, generation_difference, generation_report
from proxygen.proxy.admin.meter import Meter
from proxygen.proxy.admin.planned import (
    conflict_report,
    gone,
    lost_routes,
    quarantine_report,
    service_detail,
    service_report,
    service_summary,
)
from proxygen.proxy.admin.report import (
    ApplyReport,
    CertificateReport,
    ConditionReport,
    ConsulReport,
    DiffReport,
    GenerationReport,
    HoldReport,
    KeptInstanceReport,
    LiveReport,
    NginxReport,
    State,
    StatusReport,
    Told,
)
from proxygen.proxy.admin.service_report import InstanceState, ServiceDetail, ServiceReport, ServiceSummary
from proxygen.proxy.admin.traffic import Recent, listener_report
from proxygen.proxy.admin.traffic_report import ListenerReport
from proxygen.proxy.admin.waiting import by_name, detail_beside, report_beside, summary_beside
from proxygen.proxy.apply.outcome import Outcome, WayToNginx
from proxygen.proxy.apply.publish import Generation, generations, read_generation
from proxygen.proxy.loop import Reconciler
from proxygen.proxy.nginx.master import find_master, workers
from proxygen.proxy.plan.types import Plan, ServiceState
from proxygen.proxy.record.events import LASTING, EventLog, Topic
from proxygen.proxy.record.expiry import labelled
from proxygen.proxy.record.journal import Journal
from proxygen.proxy.record.live_plans import LivePlans
from proxygen.proxy.record.steps import Step
from proxygen.proxy.rollout.steering import Lever, Shares, Steering
from proxygen.proxy.traffic.listener import Listener
from proxygen.proxy.traffic.tally import Figures, Name, Tally, Target
from proxygen.settings import Settings

_PATIENCE: Final = 5.0
"""Seconds that Consul may take for an operator's read, and for a write: a person waits."""

_MOST_KEPT: Final = 100
"""Instances that are told by name of all that a hold keeps."""

_MOST_CONDITIONS: Final = 100
"""Of a topic, in the status."""

_CONDITIONS: Final = tuple(topic for topic in Topic if LASTING[topic].field == "conditions")

_MOST_NOTES: Final = 10
"""Of a topic, in the answer to a load balancer."""

_NO_PLAN: Final = "no catalog has been planned since the start"
_NOT_TAKEN: Final = "a changed file is not taken, and the files before stay in force: "


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorders:
    """What writes down what happens while the sidecar runs."""

    events: EventLog
    journal: Journal
    meter: Meter
    tally: Tally
    listener: Listener | None
    """None where nginx does not tell of its requests."""


class RunningSidecar:
    """Implements `proxygen.proxy.admin.contract.Sidecar`."""

    def __init__(
        self,
        settings: Settings,
        reconciler: Reconciler,
        watch: CatalogWatch,
        client: ConsulClient,
        recorders: Recorders,
    ) -> None:
        self._settings: Final = settings
        self._reconciler: Final = reconciler
        self._watch: Final = watch
        self._client: Final = client
        self._steering: Final = Steering(client, patience=_PATIENCE)
        self.events: Final = recorders.events
        self._journal: Final = recorders.journal
        self.meter: Final = recorders.meter
        self._tally: Final = recorders.tally
        self._listener: Final = recorders.listener
        self._live_plans: Final = LivePlans(settings.output.directory)
        reconciler.subscribe(self._note)

    def status(self) -> StatusReport:
        """Gather what is known; nothing is asked of Consul or nginx beyond the process table."""
        return replace(self.overview(), services=self._plans().told(_reports, report_beside))

    def overview(self) -> StatusReport:
        reasons = self.readiness().reasons
        plan = self._reconciler.state.plan
        live = self._live_report()
        if live is None:
            state = State.STARTING
        elif reasons:
            state = State.DEGRADED
        else:
            state = State.READY
        return StatusReport(
            version=__version__,
            host=socket.gethostname(),
            state=state,
            reasons=reasons,
            live=live,
            last_apply=self._last_apply(),
            consul=self._consul(),
            quarantined=tuple(quarantine_report(item) for item in (plan.quarantined if plan else ())),
            conflicts=tuple(conflict_report(item) for item in (plan.conflicts if plan else ())),
            warnings=tuple(self._warnings(plan)),
            hold=self._hold(),
            conditions=tuple(self._conditions()),
            told=self._told(),
            nginx=self._nginx(),
            traffic=self._heard(),
            certificates=tuple(self._certificates()),
        )

    def readiness(self) -> Readiness:
        """Ready once a generation is live, Consul's data is fresh, and there is a plan made of it."""
        return Readiness(reasons=tuple(self._reasons()), notes=tuple(self._notes()))

    def services(self) -> tuple[ServiceSummary, ...]:
        recent, plans, catalog = Recent.of(self._tally), self._plans(), self._reconciler.catalog
        found = (recent.summarised(each) for each in plans.told(_summaries, summary_beside))
        return tuple(_counted(each, catalog) if each.state == ServiceState.QUARANTINED else each for each in found)

    def service(self, name: str) -> ServiceDetail | None:
        """None where no plan knows it. Raise CatalogUnavailable before the first plan."""
        plans = self._plans()
        found = plans.told(lambda plan, kept: _details(plan, kept, name), detail_beside)
        detail = next(iter(found), None)
        if detail is None and plans.newest is None:
            raise CatalogUnavailable(f"{_NO_PLAN}, so nobody knows whether there is such a service")
        return None if detail is None else Recent.of(self._tally).detailed(detail, self._tally)

    def traffic(self) -> Mapping[Name, Figures]:
        """By service, since the sidecar's start."""
        return self._tally.totals()

    def generations(self) -> tuple[GenerationReport, ...]:
        """Those on disk, the newest first."""
        made = attempts(self._journal.steps)
        live = self._reconciler.state.live
        return tuple(
            generation_report(replace(generation, live=generation.number == live), made.get(generation.number))
            for generation in reversed(generations(self._settings.output.directory))
        )

    def applies(self) -> tuple[ApplyReport, ...]:
        """What passes came to, the newest first."""
        return tuple(apply_report(step) for step in reversed(self._journal.steps))

    def difference(self, number: int, against: int | None) -> DiffReport:
        """Between two generations; None compares with the one before. Raise UnknownGeneration."""
        return generation_difference(self._settings.output.directory, number, against)

    async def read_lever(self, service: str) -> Lever:
        return await self._steering.read(service, self._reconciler.pipeline.ground.policy)

    async def move_lever(self, lever: Lever, shares: Shares | None) -> Lever:
        return await self._steering.move(lever, shares)

    async def rollback(self, number: int | None, *, confirm: Callable[[], None]) -> ApplyReport:
        return apply_report(await self._reconciler.roll_back(number, confirm=confirm))

    async def release_hold(self, *, confirm: Callable[[], None]) -> ApplyReport:
        return apply_report(await self._reconciler.release_hold(confirm=confirm))

    def _conditions(self) -> Iterator[ConditionReport]:
        for topic in _CONDITIONS:
            for condition in islice(tuple(self.events.standing[topic].values()), _MOST_CONDITIONS):
                yield ConditionReport(topic=topic.value, text=condition.text, services=condition.services)

    def _notes(self) -> Iterator[str]:
        """What lasts and keeps nobody from being served by us."""
        for topic in (Topic.QUARANTINE, Topic.CONFLICT, *_CONDITIONS):
            for condition in islice(tuple(self.events.standing[topic].values()), _MOST_NOTES):
                yield condition.text

    def _plans(self) -> _Plans:
        newest, live = self._reconciler.state.plan, self._reconciler.state.live
        served = self._live_plans.plan_of(live) if live is not None else None
        return _Plans(served, newest, self._kept())

    def _told(self) -> Told:
        plans = self._plans()
        if plans.served is None:
            return Told.NEWEST
        return Told.LIVE if plans.newest in (None, plans.served) else Told.LIVE_AND_WAITING

    def _note(self, step: Step) -> None:
        self._live_plans.note(step, self._reconciler.state.plan, pinned=self._reconciler.state.pinned is not None)

    def _reasons(self) -> Iterator[str]:
        step = self._reconciler.state.last
        if self._reconciler.state.live is None:
            yield "no generation is live yet"
        if step is not None and step.failed:
            yield f"the last apply was {step.outcome}: {step.reason}"
        if self._reconciler.state.files_problem:
            yield _NOT_TAKEN + self._reconciler.state.files_problem
        yield from self._reconciler.state.holds
        if self._settings.nginx.reload == "signal" and self._nginx().master is None:
            yield "no nginx master process is seen"
        freshness = self._watch.freshness()
        if freshness > self._settings.admin.fresh:
            problem = f": {self._watch.problem}" if self._watch.problem else ""
            stale_since = self._reconciler.state.stale_since
            if stale_since is not None:
                yield f"Consul has not been read since the start; the catalog is of {_time(stale_since)}{problem}"
            elif math.isinf(freshness):
                yield f"Consul has not been read in whole since the start{problem}"
            else:
                yield f"Consul's data is {freshness:.0f}s old{problem}"
        elif self._reconciler.state.live is not None and self._reconciler.state.plan is None:
            # After a restart an earlier run's generation is live before this run knows any of its services.
            yield _NO_PLAN

    def _last_apply(self) -> ApplyReport | None:
        step = self._reconciler.state.last
        if step is None:
            return None
        newest = self._journal.steps[-1] if self._journal.steps else None
        if newest is not None and newest.at == step.at:
            step = msgspec.structs.replace(step, cause=newest.cause)
        return apply_report(step)

    def _live(self) -> Generation | None:
        """The generation on disk that nginx serves; where that was pushed and taken back, the one before it."""
        directory, number = self._settings.output.directory, self._reconciler.state.live
        if number is None:
            return None
        if (seen := read_generation(directory, number)) is not None:
            return seen
        return next((each for each in reversed(generations(directory)) if each.proven), None)

    def _live_report(self) -> LiveReport | None:
        since = self._reconciler.state.live_since
        pushed = self._reconciler.state.pushed
        if pushed is not None and pushed.generation == self._reconciler.state.live and since is not None:
            applied = Outcome.APPLIED.value
            return LiveReport(
                number=pushed.generation,
                digest=pushed.digest,
                since=_time(since),
                outcome=applied,
                by=WayToNginx.PUSH.value,
            )
        live = self._live()
        if live is None or since is None:
            return None
        outcome = Outcome.APPLIED.value if live.proven else ""
        return LiveReport(number=live.number, digest=live.stamp.digest, since=_time(since), outcome=outcome)

    def _consul(self) -> ConsulReport:
        statistics = self._client.statistics
        freshness = self._watch.freshness()
        return ConsulReport(
            address=self._settings.consul.address,
            datacenter=self._settings.consul.datacenter or "",
            freshness=None if freshness == float("inf") else freshness,
            problem=self._watch.problem or "",
            requests=statistics.requests,
            failures=statistics.failures,
            limited=statistics.refused,
            received=statistics.received,
            sockets=statistics.sockets,
            fresh=self._settings.admin.fresh,
            max_sockets=self._settings.consul.max_connections,
        )

    def _warnings(self, plan: Plan | None) -> Iterator[str]:
        for service in plan.services if plan else ():
            for warning in service.warnings:
                yield f"service {service.name}: {warning}"
        yield from self._watch.warnings
        if self._reconciler.state.files_problem:
            yield _NOT_TAKEN + self._reconciler.state.files_problem
        yield from self._reconciler.pipeline.ground.problems
        yield from self._reconciler.pipeline.ground.copied
        yield from (f"nginx remarks: {remark}" for remark in self._reconciler.state.remarks)
        if problem := self._heard().problem:
            yield problem
        conf = self._reconciler.pipeline.conf
        if conf is not None and conf.worker_shutdown_timeout is None:
            yield "nginx.conf sets no worker_shutdown_timeout: an old worker with an open WebSocket stays for ever"

    def _certificates(self) -> Iterator[CertificateReport]:
        for label, one in labelled(self._reconciler.pipeline.ground.certificates.usable).items():
            yield CertificateReport(
                name=label, hosts=one.hosts, expires=datetime.fromtimestamp(one.expires, UTC).isoformat()
            )

    def _heard(self) -> ListenerReport:
        problem = self._reconciler.pipeline.ground.traffic_problem
        return listener_report(self._listener, self._tally, sample=self._settings.traffic.sample, problem=problem)

    def _hold(self) -> HoldReport | None:
        holds, step = self._reconciler.state.holds, self._reconciler.state.last
        if not holds:
            return None
        held_since = self._reconciler.state.held_since
        return HoldReport(
            reason="; ".join(holds),
            since=_time(held_since) if held_since else step.at if step else "",
            pinned=self._reconciler.state.pinned,
            services=self._kept(),
            instances=tuple(map(_kept_report, self._kept_instances()[:_MOST_KEPT])),
        )

    def _kept_instances(self) -> tuple[Instance, ...]:
        held = self._reconciler.state.held
        return held.instances if held else ()

    def _kept(self) -> Mapping[str, int]:
        held = self._reconciler.state.held
        return {str(name): count for name, count in held.services.items()} if held else {}

    def _nginx(self) -> NginxReport:
        pipeline, reload = self._reconciler.pipeline, self._settings.reload
        binary, conf = pipeline.binary, pipeline.conf
        if binary is None or conf is None:
            return NginxReport(max_draining=reload.max_draining)
        report = NginxReport(
            version=".".join(map(str, binary.version)),
            visible=self._settings.nginx.reload == "signal",
            max_draining=reload.max_draining,
            push=pipeline.pushing.document is not None,
            push_problem=pipeline.pushing.problem,
        )
        master = find_master(conf, binary)
        seen = workers(master) if master else None
        if master is None or seen is None:
            return report
        return replace(report, master=master.pid, accepting=len(seen.accepting), draining=len(seen.draining))


_Reported = TypeVar("_Reported", ServiceReport, ServiceSummary, ServiceDetail)


@dataclass(frozen=True, slots=True)
class _Plans:
    """What nginx serves, and what it would serve if all went through; the same object where it does."""

    served: Plan | None
    """None where nobody can tell."""
    newest: Plan | None
    kept: Mapping[str, int]
    """See `HoldReport.services`."""

    def told(
        self,
        tell: Callable[[Plan, Mapping[str, int]], tuple[_Reported, ...]],
        beside: Callable[[_Reported | None, _Reported | None], _Reported],
    ) -> tuple[_Reported, ...]:
        """Tell what is served, with what waits beside it."""
        served, newest = self.served or self.newest, self.newest or self.served
        if served is None or newest is None:
            return ()
        if served is newest:
            return tell(served, self.kept)
        before = tell(served, gone(served, newest))
        return tuple(beside(*pair) for pair in by_name(before, tell(newest, {})))


def _reports(plan: Plan, _kept: Mapping[str, int]) -> tuple[ServiceReport, ...]:
    lost = lost_routes(plan)
    return tuple(service_report(service, lost=lost.get(service.name, ())) for service in plan.services)


def _summaries(plan: Plan, kept: Mapping[str, int]) -> tuple[ServiceSummary, ...]:
    lost = lost_routes(plan)
    return tuple(service_summary(each, kept=kept, lost=lost.get(each.name, ())) for each in plan.services)


def _counted(summary: ServiceSummary, catalog: Catalog | None) -> ServiceSummary:
    """Count the instances of a quarantined service, of which the plan knows none."""
    registered = len(catalog.services.get(ServiceName(summary.name), ())) if catalog is not None else 0
    if summary.instances or not registered:
        return summary
    return replace(summary, instances={InstanceState.QUARANTINED: registered})


def _details(plan: Plan, kept: Mapping[str, int], name: str) -> tuple[ServiceDetail, ...]:
    detail = service_detail(plan, name, kept=kept)
    return () if detail is None else (detail,)


class TrafficTargets:
    """What the targets in nginx's lines stand for, by the newest plan."""

    def __init__(self, plan: Callable[[], Plan | None]) -> None:
        self._newest: Final = plan
        self._known: tuple[Plan | None, dict[str, Target]] = (None, {})

    def __call__(self) -> Mapping[str, Target]:
        """Return the same object as long as the plan is."""
        plan = self._newest()
        if plan is not None and plan is not self._known[0]:
            self._known = (plan, dict(_targets(plan)))
        return self._known[1]


def _targets(plan: Plan) -> Iterator[tuple[str, Target]]:
    for service in plan.services:
        yield service.ident, Target((service.name, ""))
        for upstream in service.upstreams:
            backups = frozenset(str(server.endpoint) for server in upstream.servers if server.backup)
            yield upstream.name, Target((service.name, upstream.variant), backups)


def apply_report(step: Step) -> ApplyReport:
    """A pass's step as the API tells it."""
    return ApplyReport(
        outcome=step.outcome.value,
        generation=step.generation,
        reason=step.reason,
        at=step.at,
        durations=step.durations,
        by=step.by.value,
        propagation=step.propagation,
        cause=step.cause,
    )


def _kept_report(one: Instance) -> KeptInstanceReport:
    return KeptInstanceReport(service=one.service, node=one.node, id=one.id, address=f"{one.address}:{one.port}")


def _time(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds")
