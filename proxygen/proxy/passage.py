"""One pass: a catalog through all stages to nginx.

With the operator's files as they are now, else with those before; who is refused is left out, and the rest goes on.
What a pass learns is kept for the next one: refusals, an outage that a candidate caused, what is held.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from proxygen.catalog import Catalog, ServiceName
from proxygen.kit.aio import Alarm
from proxygen.kit.errors import (
    BadInput,
    CheckRefused,
    NginxUnavailable,
    OutputUnusable,
    ProxygenError,
    RefusedWithoutName,
)
from proxygen.kit.files import state_of
from proxygen.kit.log import get_logger
from proxygen.proxy.accepted import Accepted
from proxygen.proxy.apply.apply import Applied, Outcome
from proxygen.proxy.apply.publish import Output
from proxygen.proxy.check.blame import blame_log
from proxygen.proxy.check.structure import Refusal
from proxygen.proxy.delivery import Delivery
from proxygen.proxy.guard.losses import Held
from proxygen.proxy.pipeline import MAX_ROUNDS, Drafted, Pipeline, Timings, open_pipeline, quarantines
from proxygen.proxy.plan.types import Plan, Quarantine, Service
from proxygen.proxy.quarantine.culprits import find_culprits
from proxygen.proxy.quarantine.refusals import Refusals
from proxygen.proxy.quarantine.suspects import Deduction, Suspects, is_familiar
from proxygen.proxy.record.expiry import CertificateWatch
from proxygen.settings import Settings

_log = get_logger(__name__)

_NAMED: Final = 3
_LEAST_PAUSE: Final = 5.0
"""Seconds before what is kept is looked at again: that may last for as long as Consul cannot be asked."""

MAX_DOUBLINGS: Final = 5
"""Of the pause before a service that a reload stumbled over is tried again: 30 s becomes 16 minutes at most."""

_JUST_AFTER: Final = 0.01
"""Seconds by which a pause is surely over."""

_LONGEST_WAIT: Final = 3_600.0
"""Seconds for which a service waits for others' reloads at most."""


@dataclass(frozen=True, slots=True)
class _Outage:
    """A candidate ended every worker; the next one is kept back until then, or until it is another one by what the
    operator's files say."""

    until: float
    reason: str
    rendered: str
    """The candidate's digest."""
    have_files_changed: bool = False


class _NewlyRefused(CheckRefused):
    """A service that nothing spoke against is refused with the operator's changed files."""

    def __init__(self, quarantine: Quarantine) -> None:
        super().__init__(str(quarantine))
        self.service: Final = quarantine.service


class _ReloadRefused(CheckRefused):
    """nginx took no reload with the operator's changed files, and no service that was refused before is the cause."""


class Passage:
    """Carries catalogs to nginx, one at a time."""

    def __init__(
        self,
        settings: Settings,
        output: Output,
        pipeline: Pipeline,
        accepted: Accepted,
        *,
        again: Callable[[], None],
        tell: Callable[[Applied], None],
    ) -> None:
        """``again`` has the newest catalog gone over once more; ``tell`` is told of what a pass went through that did
        not end it."""
        self._settings: Final = settings
        self._output: Final = output
        self._accepted: Final = accepted
        self._again: Final = again
        self._tell: Final = tell
        self._delivery = Delivery(settings, output, pipeline)
        self._certificates: Final = CertificateWatch(self.files_changed)
        self._refusals: Final = Refusals(settings.proxy.tag_prefix)
        self._suspects: Final = Suspects()
        self._observed = Catalog(datacenter="", services={})
        """The newest catalog, before anything in it is kept as it was."""
        self._untried: frozenset[ServiceName] = frozenset()
        """Those that wait for the next pass, since the search in this one ran out."""
        self._passed: Mapping[ServiceName, Service] | None = None
        """What a search that ran out had kept; None where the last one came to its end."""
        self._served: Mapping[ServiceName, Service] | None = None
        """The services as this run last saw nginx serve them."""
        self._outage: _Outage | None = None
        self._outages = 0
        self._file_setbacks = 0
        """Reloads in a row that nginx did not take with changed files."""
        self._files = state_of(pipeline.files)
        self._files_changed = False
        self._excused: frozenset[ServiceName] | None = None
        """While changed files are on trial: the services that were refused before. Any other speaks against the files,
        not against itself: a directive that is misspelt in a template stands in every service's lines."""
        self._one_draft = threading.Lock()
        self.plan: Plan | None = None
        """The newest plan, live or not."""
        self.held: Held | None = None
        """What is kept back of the newest plan, by the guard."""
        self.held_since: datetime | None = None
        self._held_until: asyncio.TimerHandle | None = None
        self._unchecked_until: asyncio.TimerHandle | None = None
        self._flapping_until: Final = Alarm(again)
        self._refused_until: Final = Alarm(again)
        self.files_problem = ""
        """Why the operator's files are not used as they are now, and those before stay in force; "" where they are."""

    @property
    def pipeline(self) -> Pipeline:
        return self._delivery.pipeline

    @property
    def flapping(self) -> frozenset[ServiceName]:
        """Services that change too often, so that their newest state has to wait."""
        return self._accepted.flapping

    @property
    def remarks(self) -> tuple[str, ...]:
        """See `Delivery.remarks`."""
        return self._delivery.remarks

    def live_number(self) -> int | None:
        return self._delivery.live_number()

    def rejected(self, reason: str) -> Applied:
        return Applied(outcome=Outcome.REJECTED, generation=self.live_number(), reason=reason)

    def files_touched(self) -> None:
        """Look whether a file of the operator's is another one by now: logs often lie beside nginx.conf, and each
        ``nginx -t`` touches them."""
        state = state_of(self.pipeline.files)
        if state != self._files:
            self._files = state
            self.files_changed()

    def files_changed(self) -> None:
        """Read the operator's files anew and go over the newest catalog again."""
        self._files_changed = True
        self._again()

    # --- one pass

    async def finish_pending(self) -> Applied:
        """Finish what a crash or an absent nginx left undone: a reload, or the operator's way back."""
        pinned = self._accepted.pinned
        if pinned is not None and not self._delivery.has(pinned):
            _log.error("hold released, its generation is gone", generation=pinned)
            self._accepted.pin(None)
        elif pinned is not None and pinned != self.live_number():
            return await self._delivery.roll_back(pinned)
        return await self._delivery.finish_pending()

    async def carry(self, catalog: Catalog, timings: Timings) -> Applied:
        """Carry a catalog through all stages: with the operator's files as they are now, else with those before."""
        self._accepted.write_again()
        before, outage, refused = self._delivery, self._outage, self._refusals.names
        self._refusals.release(self._untried)
        self._untried = frozenset()
        if not await self._refresh_pipeline():
            return await self._carry(catalog, timings)
        self._excused = refused
        try:
            return await self._carry(catalog, timings)
        except (BadInput, CheckRefused) as error:
            self._delivery, self._outage, self._excused = before, outage, None
            return await self._carry_as_before(catalog, timings, error)
        finally:
            self._excused = None
            if self._delivery is not before:
                self.files_problem = ""

    async def _carry_as_before(self, catalog: Catalog, timings: Timings, error: ProxygenError) -> Applied:
        """Carry a catalog with the files before, since ``error`` speaks against the changed ones: also to see whether
        it is theirs."""
        known = self._refusals.names
        try:
            applied = await self._carry(catalog, timings)
        except (BadInput, CheckRefused):
            # Not the files' fault, or not theirs alone: both are tried again.
            self._files_changed = True
            raise error from None
        except Exception:
            self._keep_files(error)
            raise
        refused = self._refusals.names
        if (isinstance(error, _NewlyRefused) and error.service in refused) or (
            isinstance(error, _ReloadRefused) and refused - known
        ):
            # It is refused with the files before just as well, which are no better then.
            self.files_changed()
        else:
            self._keep_files(error)
        return applied

    async def _carry(self, catalog: Catalog, timings: Timings) -> Applied:
        self._certificates.note(self.pipeline.certificates)
        await self._delivery.narrow_copies()
        drafted = await self._draft(catalog, timings)
        if self._accepted.pinned is not None:
            return await self._stay_pinned()
        for _ in range(MAX_ROUNDS):
            applied = await self._make_live(drafted, timings)
            if applied is not None:
                if drafted.held is not None and applied.outcome is Outcome.UNCHANGED:
                    return replace(applied, outcome=Outcome.HELD, reason=drafted.held.reason)
                return applied
            drafted = await self._draft(catalog, timings)
        raise CheckRefused(f"nginx refused {MAX_ROUNDS} candidates in a row")

    async def _stay_pinned(self) -> Applied:
        """Hold every plan while the operator keeps nginx at an older generation."""
        pending = await self.finish_pending()
        if pending.outcome is not Outcome.UNCHANGED:
            return pending
        return replace(pending, outcome=Outcome.HELD, reason=pinned_reason(self._accepted.pinned))

    async def _draft(self, catalog: Catalog, timings: Timings) -> Drafted:
        self._observed = catalog
        due = self._refusals.review(catalog, time.monotonic())
        self._refused_until.set(None if due is None else due + _JUST_AFTER)
        catalog = self._refusals.keep_served(catalog, self._accepted.live)
        is_crowded = self._accepted.is_flapping_possible and await self._delivery.is_crowded()
        catalog = self._keep_flapping(self._keep_unchecked(catalog), crowded=is_crowded)
        # In a thread: at thousands of services a cold start takes seconds, and others share this loop.
        drafted = await asyncio.to_thread(self._draft_here, self.pipeline, catalog, timings)
        for quarantine in drafted.left_out.values():
            self._refuse(quarantine)
        drafted = replace(drafted, plan=self._refusals.tell(drafted.plan))
        self.plan = drafted.plan
        self._note_hold(drafted.held)
        return drafted

    def _keep_unchecked(self, catalog: Catalog) -> Catalog:
        """Let what is only unchecked keep its health, say so once, and come back when it must not any more."""
        kept = self._accepted.keep_unchecked(catalog)
        if self._unchecked_until is not None:
            self._unchecked_until.cancel()
            self._unchecked_until = None
        if kept.due is not None:
            pause = kept.due if kept.due > 0 else _LEAST_PAUSE
            self._unchecked_until = asyncio.get_running_loop().call_later(pause + 0.1, self._again)
        if kept.begun:
            named = [f"{instance.service}/{instance.id} on {instance.node}" for instance in kept.begun[:_NAMED]]
            _log.warning("unchecked instances served as before", count=len(kept.begun), instances=", ".join(named))
        return kept.catalog

    def _keep_flapping(self, catalog: Catalog, *, crowded: bool) -> Catalog:
        """Let services that change too often wait, and come back when they need not."""
        calm = self._accepted.keep_flapping(catalog, crowded=crowded)
        self._flapping_until.set(None if calm.due is None else calm.due + _JUST_AFTER)
        return calm.catalog

    def _note_hold(self, held: Held | None) -> None:
        """Tell when a hold begins, changes and ends, and come back when it may be over."""
        before, self.held = self.held, held
        if self._held_until is not None:
            self._held_until.cancel()
            self._held_until = None
        if held is None:
            self.held_since = None
            if before is not None:
                _log.info("hold over")
            return
        if before is None:
            self.held_since = datetime.now(UTC)
        if held.due is not None:
            pause = held.due if held.due > 0 else max(self._settings.guard.hold, _LEAST_PAUSE)
            self._held_until = asyncio.get_running_loop().call_later(pause + 0.1, self._look_at_hold)
        if before is None or before.services.keys() != held.services.keys():
            _log.warning("servers held", reason=held.reason, services=len(held.services))

    def _look_at_hold(self) -> None:
        """Go over the newest catalog again; what is held then, since Consul cannot be asked, is looked at once more."""
        self._held_until = None
        self._again()

    def _draft_here(self, pipeline: Pipeline, catalog: Catalog, timings: Timings) -> Drafted:
        # A pass that was cancelled leaves its thread behind, and a pipeline remembers what it rendered last.
        with self._one_draft:
            drafted = pipeline.draft(
                catalog, self._accepted.memory, self._refusals.quarantines, timings, judge=self._accepted.judge
            )
            with timings.of("render"):
                # Kept in the rendering; at thousands of services it takes its time too.
                _ = drafted.rendered.digest
            return drafted

    def _refuse(self, quarantine: Quarantine) -> None:
        if self._excused is not None and quarantine.service not in self._excused:
            raise _NewlyRefused(quarantine)
        self._refusals.refuse(quarantine, self._observed)

    def _postpone(self, quarantine: Quarantine, drafted: Drafted) -> None:
        """Leave out for some time what a reload stumbled over; the pauses double."""
        self._leave_out_until(self._setback(quarantine.service), quarantine, drafted)

    def _leave_out_until(self, until: float, quarantine: Quarantine, drafted: Drafted) -> None:
        """Who is served stays as he is served, and only what he states anew is left out: he may be innocent. Where he
        states nothing anew, or is not served, he is quarantined."""
        name = quarantine.service
        is_served = self._served is None or name in self._served
        as_served = is_served and self._refusals.states_anew(name, drafted.catalog, self._accepted.live)
        self._refusals.refuse(quarantine, self._observed, until=until, as_served=as_served)

    def _setback(self, name: ServiceName) -> float:
        return self._pause(self._refusals.count_setback(name))

    def _let_wait(self, waiting: Collection[Quarantine], drafted: Drafted, reason: str) -> None:
        """Leave out for now services of which nobody knows anything bad."""
        until = time.monotonic() + _LONGEST_WAIT
        for quarantine in waiting:
            self._leave_out_until(until, quarantine, drafted)
        if waiting:
            some = ", ".join(sorted(quarantine.service for quarantine in waiting)[:_NAMED])
            _log.info("services wait", count=len(waiting), services=some, reason=reason)

    async def _make_live(self, drafted: Drafted, timings: Timings) -> Applied | None:
        """Carry a draft through the second gate and to nginx; None where a service was left out and a new draft
        is needed."""
        try:
            applied = await self._judge_and_deliver(drafted, timings)
        except RefusedWithoutName as error:
            if self._untried:
                # The search ran out in this pass, and what it had kept does not go with what was served.
                raise
            await self._leave_out_culprits(drafted, error, timings)
            return None
        if not isinstance(applied, Applied):
            for quarantine in quarantines(applied, self._refusals.quarantines).values():
                self._refuse(quarantine)
            return None
        if applied.outcome is Outcome.UNCHANGED and not applied.failed:
            await self._note_served(drafted, applied)
        elif applied.outcome is Outcome.APPLIED:
            self._refusals.forgive(service.name for service in drafted.plan.services if service.quarantine is None)
            self._outage, self._outages = None, 0
            if self._excused is not None:
                self._file_setbacks = 0
            await self._note_served(drafted, applied)
        elif applied.ended_workers:
            self._outage = _Outage(self._pause(self._outages), applied.reason, drafted.rendered.digest)
            self._outages += 1
        elif applied.outcome is Outcome.ROLLED_BACK:
            blamed = blame_log((applied.reason, *applied.log), drafted.rendered)
            known = self._refusals.quarantines.keys()
            new = [refusal for refusal in blamed if not set(refusal.services) <= known]
            if new:
                self._tell(applied)
                for quarantine in quarantines(tuple(new), {}).values():
                    self._postpone(quarantine, drafted)
                return None
            if applied.refused_reload and self._leave_out_suspects(drafted, applied):
                return None
        return applied

    async def _judge_and_deliver(self, drafted: Drafted, timings: Timings) -> Applied | tuple[Refusal, ...]:
        if self._delivery.is_live(drafted.rendered):
            return await self._delivery.try_live(drafted, timings) or await self._delivery.finish_pending()
        outage = self._outage
        if outage is not None and time.monotonic() < outage.until:
            # A file that is written twice, or again as it was, makes no other candidate.
            if not outage.have_files_changed or outage.rendered == drafted.rendered.digest:
                raise CheckRefused(f"kept back, since the last candidate took nginx down: {outage.reason}")
        return await self._delivery.deliver(drafted, timings)

    async def _note_served(self, drafted: Drafted, applied: Applied) -> None:
        self._served = {service.name: service for service in drafted.plan.services if service.quarantine is None}
        found = self._suspects.took(self._served, {*self._refusals.quarantines, *self._refusals.as_served})
        if found.guilty is not None:
            reason = "nginx did not take a reload with this service, and took one without it; no cause can be read"
            self._refusals.convict(_suspicion(found.guilty, reason), self._setback(found.guilty))
        self._refusals.release(found.tried)
        if found != Deduction():
            self._again()
        await self._accepted.take(drafted, applied.generation)

    def _served_before(self, plan: Plan) -> Mapping[ServiceName, Service]:
        """The services as nginx serves them; of an earlier run only the claims are remembered."""
        if self._served is not None:
            return self._served
        holders = self._accepted.memory.holders
        return {
            service.name: service
            for service in plan.services
            if service.claims and all(holders.get(claim) == service.name for claim in service.claims)
        }

    async def _leave_out_culprits(self, drafted: Drafted, error: RefusedWithoutName, timings: Timings) -> None:
        """Find out who is at fault for a refusal that names no service, and leave those out for some time: it may be
        others that it does not go together with."""
        pipeline, known = self.pipeline, dict(self._refusals.quarantines)

        def draft(left_out: Mapping[ServiceName, Quarantine]) -> Drafted:
            with self._one_draft:
                return pipeline.draft(drafted.catalog, self._accepted.memory, {**known, **left_out})

        async def accepts(left_out: Mapping[ServiceName, Quarantine]) -> bool:
            return await pipeline.accepts(await asyncio.to_thread(draft, left_out))

        _log.warning("looking for the service that nginx refuses", reason=error.reason)
        served = self._served_before(drafted.plan)
        with timings.of("test"):
            found = await find_culprits(drafted.plan, error, accepts, known=known, served=served, passed=self._passed)
        self._passed = found.kept if found.untried else None
        for quarantine in found.guilty.values():
            if self._excused is not None and quarantine.service not in self._excused:
                raise _NewlyRefused(quarantine)
            self._postpone(quarantine, drafted)
        if found.untried:
            self._hold_untried(found.untried, drafted, error)

    def _hold_untried(
        self, untried: Mapping[ServiceName, Quarantine], drafted: Drafted, error: RefusedWithoutName
    ) -> None:
        """Have those that the search did not come to wait for the next pass.

        Raise CheckRefused where some are served as they are, or the operator's changed files may be at fault: nothing
        is changed then.
        """
        services = [each for each in drafted.plan.services if each.name in untried]
        served = self._served_before(drafted.plan)
        if self._excused is not None or any(is_familiar(each, served) for each in services):
            raise CheckRefused(
                f"{error}; the search for the service at fault goes on in the next pass, {len(services)} are not tried"
                " yet and nothing is changed until then"
            )
        self._let_wait(untried.values(), drafted, error.reason)
        self._untried = frozenset(untried)
        self._again()

    def _leave_out_suspects(self, drafted: Drafted, applied: Applied) -> bool:
        """Leave out what may be why nginx did not take a reload; return whether there is such a service.

        Raise _ReloadRefused where the operator's changed files are more likely the cause.
        """
        plan, on_trial = drafted.plan, self._excused
        if on_trial is not None:
            plan = replace(plan, services=tuple(each for each in plan.services if each.name in on_trial))
        found = self._suspects.refused(plan, self._served_before(plan))
        if found.guilty is None and not found.waiting:
            if on_trial is None:
                return False
            self._tell(applied)
            raise _ReloadRefused(f"nginx did not take a reload with the changed files: {applied.reason}")
        self._tell(applied)
        if found.guilty is not None:
            reason = (
                f"nginx did not take a reload with this service, which is new, and names no cause: {applied.reason}"
            )
            self._postpone(_suspicion(found.guilty, reason), drafted)
        reason = f"waits, since nginx did not take a reload with it and others and names no cause: {applied.reason}"
        self._let_wait([_suspicion(name, reason) for name in found.waiting], drafted, applied.reason)
        return True

    def _pause(self, doublings: int) -> float:
        """Return the end of a pause, after which the newest catalog is gone over again."""
        pause = self._length(doublings)
        asyncio.get_running_loop().call_later(pause + 0.1, self._again)
        return time.monotonic() + pause

    def _length(self, doublings: int) -> float:
        return self._settings.reload.retry_max * (1 << min(doublings, MAX_DOUBLINGS))

    # --- nginx's files

    async def _refresh_pipeline(self) -> bool:
        """Build the pipeline anew where nginx's binary, its configuration, a file of the operator's or this host's
        addresses changed.

        Return whether the one before may stand in for it: not where nginx itself reads something else by now.
        """
        is_outdated = self.pipeline.is_outdated(await self._delivery.conf())
        has_moved = await asyncio.to_thread(self.pipeline.has_moved)
        if not self._files_changed and not is_outdated and not has_moved:
            return False
        files_changed, self._files_changed = self._files_changed, False
        try:
            pipeline = await open_pipeline(self._settings)
        except BadInput as error:
            if is_outdated:
                raise
            if files_changed or str(error) != self.files_problem:
                self._keep_files(error)
            return False
        except Exception:
            self._files_changed = True
            raise
        if files_changed or is_outdated:
            # Other addresses of this host excuse nothing that nginx refused.
            self._refusals.clear()
            self._passed = None
            if is_outdated:
                self._outage, self._outages = None, 0
            elif self._outage is not None:
                self._outage = replace(self._outage, have_files_changed=True)
        self._delivery = Delivery(self._settings, self._output, pipeline)
        if is_outdated:
            self.files_problem = ""
        return not is_outdated

    def _keep_files(self, error: ProxygenError) -> None:
        """Go on with the files as they were read before, until one of them changes again; where no cause is known, for
        some time: the machine may have been too busy."""
        if isinstance(error, _ReloadRefused):
            asyncio.get_running_loop().call_later(self._length(self._file_setbacks), self.files_changed)
            self._file_setbacks += 1
        self.files_problem = str(error)
        _log.error("files refused, the ones before stay", reason=self.files_problem)

    # --- what the operator asks for

    async def go_back(self, number: int | None) -> Applied:
        """Go back to an older generation, and stay there. Raise OutputUnusable where there is none of that number, or
        where that cannot be written down."""
        live, pinned = self.live_number(), self._accepted.pinned
        target = number if number is not None else self._delivery.served_before()
        # Before the switch: killed in between, the next run must not undo what the operator asked for.
        if target not in (None, live) and not self._accepted.pin(target):
            self._accepted.pin(pinned)
            directory = self._settings.output.directory
            raise OutputUnusable(f"{directory} takes no note of the hold, so nothing was changed; see the log")
        try:
            return await self._delivery.roll_back(target)
        except NginxUnavailable as error:
            return self.rejected(str(error))
        finally:
            if self.live_number() != target:
                self._accepted.pin(pinned)


def _suspicion(name: ServiceName, reason: str) -> Quarantine:
    return Quarantine(service=name, place="the reload", reason=reason, withdrawn=True)


def pinned_reason(number: int | None) -> str:
    return f"the operator went back to generation {number}; `proxygen release-hold` lets new plans through"
