"""The running sidecar as the admin API sees it: the reconciler's and the watch's state, as reports."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import datetime
from typing import Final

from proxygen import __version__
from proxygen.admin.report import (
    ApplyReport,
    ConflictReport,
    ConsulReport,
    GenerationReport,
    HoldReport,
    InstanceReport,
    InstanceState,
    LiveReport,
    NginxReport,
    QuarantineReport,
    Readiness,
    ServiceReport,
    State,
    StatusReport,
    VariantReport,
)
from proxygen.consul.client import ConsulClient
from proxygen.consul.watch import CatalogWatch
from proxygen.nginx.apply import Outcome
from proxygen.nginx.master import find_master, workers
from proxygen.nginx.publish import Generation, current, generations, read_generation
from proxygen.plan.types import InstanceState as PlannedState
from proxygen.plan.types import Plan, Service
from proxygen.reconcile import Reconciler
from proxygen.settings import Settings
from proxygen.steps import Step

_STATES: Final = {
    PlannedState.SERVING: InstanceState.SERVING,
    PlannedState.STANDBY: InstanceState.STANDBY,
    PlannedState.DRAINED: InstanceState.DRAINED,
    PlannedState.UNHEALTHY: InstanceState.UNHEALTHY,
    PlannedState.NO_PORT: InstanceState.REFUSED,
}


_NOT_TAKEN: Final = "a changed file is not taken, and the files before stay in force: "


class RunningSidecar:
    """Implements `proxygen.admin.report.Sidecar`."""

    def __init__(self, settings: Settings, reconciler: Reconciler, watch: CatalogWatch, client: ConsulClient) -> None:
        self._settings: Final = settings
        self._reconciler: Final = reconciler
        self._watch: Final = watch
        self._client: Final = client

    def status(self) -> StatusReport:
        """Gather what is known; nothing is asked of Consul or nginx beyond the process table."""
        reasons = self.readiness().reasons
        plan = self._reconciler.plan
        live = self._live()
        if live is None or self._reconciler.live_since is None:
            state = State.STARTING
        else:
            state = State.DEGRADED if reasons else State.READY
        return StatusReport(
            version=__version__,
            state=state,
            reasons=reasons,
            live=self._live_report(live),
            last_apply=_apply_report(self._reconciler.last) if self._reconciler.last else None,
            consul=self._consul(),
            services=tuple(_service(service) for service in plan.services) if plan else (),
            quarantined=tuple(
                QuarantineReport(service=item.service, place=item.place, reason=item.reason)
                for item in (plan.quarantined if plan else ())
            ),
            conflicts=tuple(
                ConflictReport(route=str(item.claim), holder=item.holder or "", loser=item.loser)
                for item in (plan.conflicts if plan else ())
            ),
            warnings=tuple(self._warnings(plan)),
            hold=self._hold(),
            nginx=self._nginx(),
        )

    def readiness(self) -> Readiness:
        """Ready once a generation is live and Consul's data is fresh."""
        return Readiness(reasons=tuple(self._reasons()))

    def generations(self) -> tuple[GenerationReport, ...]:
        found = reversed(generations(self._settings.output.directory))
        return tuple(_generation(generation) for generation in found)

    async def rollback(self, number: int | None) -> ApplyReport:
        return _apply_report(await self._reconciler.roll_back(number))

    async def release_hold(self) -> ApplyReport:
        return _apply_report(await self._reconciler.release_hold())

    def _reasons(self) -> Iterator[str]:
        step = self._reconciler.last
        if self._reconciler.live_since is None:
            yield "no generation is live yet"
        if step is not None and step.outcome in (Outcome.REJECTED, Outcome.ROLLED_BACK):
            yield f"the last apply was {step.outcome}: {step.reason}"
        if self._reconciler.files_problem:
            yield _NOT_TAKEN + self._reconciler.files_problem
        yield from self._reconciler.holds
        if self._settings.nginx.reload == "signal" and self._nginx().master is None:
            yield "no nginx master process is seen"
        freshness = self._watch.freshness()
        if freshness > self._settings.admin.fresh:
            problem = f": {self._watch.problem}" if self._watch.problem else ""
            stale_since = self._reconciler.stale_since
            if stale_since is not None:
                yield f"Consul has not been read since the start; the catalog is of {_time(stale_since)}{problem}"
            elif math.isinf(freshness):
                yield f"Consul has not been read in whole since the start{problem}"
            else:
                yield f"Consul's data is {freshness:.0f}s old{problem}"

    def _live(self) -> Generation | None:
        directory = self._settings.output.directory
        number = current(directory)
        return read_generation(directory, number) if number is not None else None

    def _live_report(self, live: Generation | None) -> LiveReport | None:
        since = self._reconciler.live_since
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
            sockets=statistics.sockets,
        )

    def _warnings(self, plan: Plan | None) -> Iterator[str]:
        for service in plan.services if plan else ():
            for warning in service.warnings:
                yield f"service {service.name}: {warning}"
        if self._reconciler.files_problem:
            yield _NOT_TAKEN + self._reconciler.files_problem
        yield from self._reconciler.pipeline.problems
        conf = self._reconciler.pipeline.conf
        if conf is not None and conf.worker_shutdown_timeout is None:
            yield "nginx.conf sets no worker_shutdown_timeout: an old worker with an open WebSocket stays for ever"

    def _hold(self) -> HoldReport | None:
        holds, step = self._reconciler.holds, self._reconciler.last
        if not holds:
            return None
        since = self._reconciler.held_since or (step.at if step else None)
        return HoldReport(reason="; ".join(holds), since=_time(since) if since else "")

    def _nginx(self) -> NginxReport:
        pipeline = self._reconciler.pipeline
        binary, conf = pipeline.binary, pipeline.conf
        if binary is None or conf is None:
            return NginxReport()
        version = ".".join(map(str, binary.version))
        master = find_master(conf, binary)
        seen = workers(master) if master else None
        if master is None or seen is None:
            return NginxReport(version=version)
        return NginxReport(
            version=version, master=master.pid, accepting=len(seen.accepting), draining=len(seen.draining)
        )


def _service(service: Service) -> ServiceReport:
    return ServiceReport(
        name=service.name,
        routes=tuple(str(claim) for claim in service.claims),
        variants=tuple(
            VariantReport(
                name=variant.name,
                asked=variant.asked,
                effective=variant.effective,
                instances=tuple(
                    InstanceReport(
                        id=instance.id,
                        node=instance.node,
                        datacenter=instance.datacenter,
                        address=f"{instance.address}:{instance.port}",
                        weight=instance.weight,
                        health=instance.health.value,
                        state=_STATES[instance.state],
                    )
                    for instance in (*service.instances, *service.elsewhere)
                    if instance.variant == variant.name
                ),
            )
            for variant in service.variants
        ),
    )


def _generation(generation: Generation) -> GenerationReport:
    return GenerationReport(
        number=generation.number,
        digest=generation.stamp.digest,
        created=generation.published_at,
        live=generation.live,
        outcome="live" if generation.live and generation.proven else "proven" if generation.proven else "not proven",
    )


def _apply_report(step: Step) -> ApplyReport:
    return ApplyReport(
        outcome=step.outcome.value,
        generation=step.generation,
        reason=step.reason,
        at=_time(step.at),
        durations=step.durations,
    )


def _time(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds")
