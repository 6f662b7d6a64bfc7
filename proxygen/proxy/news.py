"""From what the loop and the watch come to, to events: the one place that knows what is news."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final, NoReturn

import msgspec

from proxygen.catalog import ServiceName
from proxygen.consul.watch import CatalogWatch
from proxygen.kit.log import get_logger
from proxygen.proxy.apply.outcome import Outcome, WayToNginx
from proxygen.proxy.loop import Reconciler
from proxygen.proxy.plan.difference import difference
from proxygen.proxy.plan.types import Conflict, Plan, PlannedInstance, Quarantine, Service
from proxygen.proxy.plan.unusable import NAMED, describe, describe_more, kept_as_before, left_out
from proxygen.proxy.record.events import Condition, EventLog, Kind, Topic
from proxygen.proxy.record.expiry import expiring
from proxygen.proxy.record.journal import Journal
from proxygen.proxy.record.steps import Step

_log = get_logger(__name__)

LOOK: Final = 1.0
"""Seconds between two looks at what comes and goes between passes."""


class Reporter:
    """Listens to the loop and looks at the watch, and keeps the log of events and the journal."""

    def __init__(
        self,
        events: EventLog,
        journal: Journal,
        reconciler: Reconciler,
        watch: CatalogWatch,
        *,
        certificate_warning: float,
    ) -> None:
        self._certificate_warning: Final = certificate_warning
        self._events: Final = events
        self._journal: Final = journal
        self._reconciler: Final = reconciler
        self._watch: Final = watch
        self._live: Mapping[ServiceName, Service] | None = None
        """What is live; None before this reporter saw it."""
        self._failure: tuple[Outcome, str] | None = None

    async def run(self) -> NoReturn:
        """Look at what comes and goes between passes, until cancelled."""
        while True:
            self._events.note(Topic.CONSUL, dict(self._losses()))
            self._events.note(
                Topic.FLAPPING, {name: _flapping(name) for name in sorted(self._reconciler.state.flapping)}
            )
            certificates = self._reconciler.pipeline.ground.certificates.usable
            self._events.note(Topic.CERTIFICATE, expiring(certificates, time.time(), self._certificate_warning))
            await asyncio.sleep(LOOK)

    def heed(self, step: Step) -> None:
        """Take in how one pass ended, and what is so after it."""
        plan = self._reconciler.state.plan
        if step.outcome is not Outcome.UNCHANGED:
            self._journal.add(_entry(step, self._cause(plan)))
        if step.outcome is Outcome.APPLIED:
            self._say_applied(step, plan)
        elif step.failed and (step.outcome, step.reason) != self._failure:
            kind = Kind.REJECTED if step.outcome is Outcome.REJECTED else Kind.ROLLED_BACK
            self._events.append(kind, step.reason, generation=step.generation)
        elif step.outcome is Outcome.UNCHANGED and plan is not None and self._reconciler.state.pinned is None:
            self._live = _by_name(plan)
        # A failure is tried again and again; it is news once, until something else comes of it.
        self._failure = (step.outcome, step.reason) if step.failed else None
        self._events.note(Topic.HOLD, dict(self._holds()))
        self._events.note(Topic.FILES, dict(self._files()))
        if plan is not None:
            self._events.note(Topic.INSTANCE, dict(_unusable(plan, left_out)))
            self._events.note(Topic.PREVIOUS_TAGS, dict(_unusable(plan, kept_as_before)))
            self._events.note(Topic.WARNING, dict(self._warnings(plan)))
            self._events.note(Topic.QUARANTINE, {item.service: _quarantine(item) for item in plan.quarantined})
            self._events.note(
                Topic.CONFLICT, {f"{item.loser} {item.claim}": _conflict(item) for item in plan.conflicts}
            )

    def _say_applied(self, step: Step, plan: Plan | None) -> None:
        if self._reconciler.state.pinned is not None or plan is None:
            text = f"nginx went to generation {step.generation}"
            self._events.append(Kind.APPLIED, text, generation=step.generation)
            return
        before, self._live = self._live, _by_name(plan)
        late = f", {step.propagation:.2f} s after the change" if step.propagation is not None else ""
        by = " by push" if step.by is WayToNginx.PUSH else ""
        text = f"generation {step.generation} is live{by}{late}"
        self._events.append(Kind.APPLIED, text, generation=step.generation, services=_changed(before, self._live))

    def _cause(self, plan: Plan | None) -> str:
        if self._reconciler.state.pinned is not None:
            return f"the operator went back to generation {self._reconciler.state.pinned}"
        if plan is None or self._live is None:
            return "the first plan since the start"
        return difference(self._live, _by_name(plan)) or "templates, certificates, other files or settings"

    def _losses(self) -> Iterator[tuple[str, Condition]]:
        problem = self._watch.problem
        if problem is not None:
            yield "consul", Condition(text=problem, end="Consul answers again", cause="lost")

    def _files(self) -> Iterator[tuple[str, Condition]]:
        problem = self._reconciler.state.files_problem
        if problem:
            text = f"changed files are refused, and the files before stay in force: {problem}"
            yield "files", Condition(text=text, end="changed files are in force", cause=problem)

    def _warnings(self, plan: Plan) -> Iterator[tuple[str, Condition]]:
        for service in plan.services:
            for warning in service.warnings:
                text = f"service {service.name}: {warning}"
                yield text, Condition(text=text, end=f"no longer: {text}", services=(service.name,), cause="")
        remarks = (f"nginx remarks: {remark}" for remark in self._reconciler.state.remarks)
        pipeline = self._reconciler.pipeline
        for text in (*self._watch.warnings, *pipeline.ground.problems, *pipeline.ground.copied, *remarks):
            yield text, Condition(text=text, end=f"no longer: {text}", cause="")

    def _holds(self) -> Iterator[tuple[str, Condition]]:
        pinned, held = self._reconciler.state.pinned, self._reconciler.state.held
        if pinned is not None:
            text = f"the operator went back to generation {pinned}: new plans are held"
            yield "rollback", Condition(text=text, end="new plans go live again", cause=str(pinned))
        if held is not None:
            services = tuple(sorted(held.services))
            yield (
                "guard",
                Condition(
                    text=held.reason, end="no servers are held any more", cause=" ".join(services), services=services
                ),
            )


def _entry(step: Step, cause: str) -> Step:
    """The step as the journal keeps it."""
    return msgspec.structs.replace(
        step,
        cause=cause,
        durations={stage: round(seconds, 4) for stage, seconds in step.durations.items()},
        propagation=None if step.propagation is None else round(step.propagation, 4),
    )


def _by_name(plan: Plan) -> Mapping[ServiceName, Service]:
    return {service.name: service for service in plan.services}


def _changed(before: Mapping[ServiceName, Service] | None, now: Mapping[ServiceName, Service]) -> tuple[str, ...]:
    if before is None:
        return ()
    return tuple(sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name)))


def _quarantine(quarantine: Quarantine) -> Condition:
    name = quarantine.service
    return Condition(
        text=str(quarantine),
        end=f"service {name} is served again, or gone",
        services=(name,),
        cause=quarantine.reason,
    )


def _unusable(plan: Plan, find: Callable[[Service], list[PlannedInstance]]) -> Iterator[tuple[str, Condition]]:
    """One condition for each instance that is found; of many of a service, for some, and one for the others."""
    for service in plan.services:
        found = find(service)
        for one in found[:NAMED]:
            end = f"instance {one.id!r:.80} of service {service.name} can be used as it is registered, or is gone"
            text = f"service {service.name}: {describe(one)}"
            yield (
                f"{service.name} {one.node} {one.id}",
                Condition(text=text, end=end, services=(service.name,), cause=text),
            )
        if len(found) > NAMED:
            end = f"all but {NAMED} instances of service {service.name} can be used as they are registered, or are gone"
            text = f"service {service.name}: {describe_more(found)}"
            yield service.name, Condition(text=text, end=end, services=(service.name,), cause="")


def _flapping(name: ServiceName) -> Condition:
    return Condition(
        text=f"service {name} changes too often: its newest state has to wait, the others' do not",
        end=f"service {name} no longer changes too often",
        services=(name,),
        cause="",
    )


def _conflict(conflict: Conflict) -> Condition:
    holder = f"which service {conflict.holder} has" if conflict.holder else conflict.reason
    return Condition(
        text=f"service {conflict.loser} claims {conflict.claim}, {holder}",
        end=f"service {conflict.loser} no longer conflicts over {conflict.claim}",
        services=tuple(filter(None, (conflict.loser, conflict.holder))),
        cause=holder,
    )
