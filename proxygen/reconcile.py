"""The loop: start reading here.

    catalog -> plan -> guard -> render -> first gate -> second gate -> publish -> reload -> proof -> outcome

One slot holds the newest catalog. One task takes it, carries it through the stages and says how it ended; what
arrives meanwhile coalesces behind it. Nothing that fails here ends the loop: what was live stays live, the reason is
told, and the attempt is repeated with growing pauses. Files of the operator's that cannot be used leave those before
in force.
"""

from __future__ import annotations

import asyncio
import math
import random
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, NoReturn

from proxygen.accepted import Accepted
from proxygen.aio import Latest, Pace
from proxygen.delivery import Delivery
from proxygen.errors import BadInput, CatalogUnavailable, CheckRefused, NginxUnavailable, ProxygenError, Refused
from proxygen.files import state_of
from proxygen.guard import Held
from proxygen.log import get_logger
from proxygen.model import Catalog, ServiceName
from proxygen.nginx.apply import Applied, Outcome
from proxygen.nginx.publish import Output
from proxygen.nginx.trial import blame_log
from proxygen.pipeline import MAX_ROUNDS, Drafted, Pipeline, Timings, open_pipeline, quarantines
from proxygen.plan.types import Plan, Quarantine
from proxygen.refusals import Refusals
from proxygen.settings import Settings
from proxygen.steps import Step, conclude, tell

_log = get_logger(__name__)

MAX_DOUBLINGS: Final = 5
"""Of the pause before a service that a reload stumbled over is tried again: 30 s becomes 16 minutes at most."""

PATIENCE: Final = 5.0
"""Seconds that a start waits for Consul before it goes on with the catalog on disk."""

_Work = Callable[[Timings], Awaitable[Applied]]


@dataclass(frozen=True, slots=True)
class _Outage:
    """A candidate ended every worker; the next one is kept back until then, or until the operator's files change."""

    until: float
    reason: str


class _NewlyRefused(CheckRefused):
    """A service that nothing spoke against is refused with the operator's changed files."""

    def __init__(self, quarantine: Quarantine) -> None:
        super().__init__(str(quarantine))
        self.service: Final = quarantine.service


class Reconciler:
    """Owns the order of things between a catalog and a proven generation."""

    def __init__(
        self,
        settings: Settings,
        output: Output,
        pipeline: Pipeline,
        catalogs: Latest[Catalog],
        *,
        is_fresh: Callable[[], bool] = lambda: True,
    ) -> None:
        """``is_fresh`` says whether Consul answers, so that what the catalog shows can be believed."""
        self._settings: Final = settings
        self._output: Final = output
        self._pipeline = pipeline
        self._catalogs: Final = catalogs
        self._delivery = Delivery(settings, output, pipeline)
        self._accepted: Final = Accepted(settings, is_fresh=is_fresh)
        self._refusals: Final = Refusals(settings.proxy.tag_prefix)
        self._outage: _Outage | None = None
        self._outages = 0
        self._files = state_of(pipeline.files)
        self._files_changed = False
        self._excused: frozenset[ServiceName] | None = None
        """While changed files are on trial: the services that were refused before. Any other speaks against the files,
        not against itself: a directive that is misspelt in a template stands in every service's lines."""
        self._failures = 0
        self._retry: asyncio.TimerHandle | None = None
        self._one_at_a_time = asyncio.Lock()
        self._one_draft = threading.Lock()
        self._due = asyncio.Event()
        self._changed_at: float | None = None
        """The monotonic time of the oldest change that no pass has done with; None where there is none."""
        self._listeners: list[Callable[[Step], None]] = []
        self.plan: Plan | None = None
        """The newest plan, live or not."""
        self.held: Held | None = None
        """What is kept back of the newest plan, by the guard."""
        self.held_since: datetime | None = None
        self.last: Step | None = None
        self.live_since: datetime | None = None
        self.files_problem = ""
        """Why the operator's files are not used as they are now, and those before stay in force; "" where they are."""

    @property
    def pipeline(self) -> Pipeline:
        return self._pipeline

    @property
    def pinned(self) -> int | None:
        return self._accepted.pinned

    @property
    def holds(self) -> tuple[str, ...]:
        """What is kept back of the newest plan, and why."""
        pin = self._pinned_reason() if self.pinned is not None else ""
        return tuple(filter(None, (pin, self.held.reason if self.held else "")))

    def _pinned_reason(self) -> str:
        return f"the operator went back to generation {self.pinned}; `proxygen release-hold` lets new plans through"

    @property
    def stale_since(self) -> datetime | None:
        """When the catalog was saved that stands in for one of Consul's; None where Consul has given one."""
        stored = self._accepted.stored
        return stored.saved_at if stored is not None and self._catalogs.peek() is stored.catalog else None

    def subscribe(self, listener: Callable[[Step], None]) -> None:
        """Have every step told to ``listener`` too, which must not raise."""
        self._listeners.append(listener)

    # --- the loop

    async def run(self) -> NoReturn:
        """Reconcile until cancelled."""
        await asyncio.to_thread(self._accepted.take_up, self._pipeline, self._delivery.live_number())
        await self._finish_until_catalog()
        reload = self._settings.reload
        governor = Pace(burst=reload.burst, rate=1 / reload.interval if reload.interval else math.inf)
        while True:
            catalog = await self._catalogs.settled(reload.settle, reload.settle_max)
            if self._changed_at is None:
                self._changed_at = self._catalogs.taken_since
            step = await self._attempt(lambda timings, catalog=catalog: self._reconcile(catalog, timings))  # type: ignore[misc]
            if step.outcome in (Outcome.APPLIED, Outcome.ROLLED_BACK):
                await asyncio.sleep(self._gap_after(step))
                await governor.step()

    def _gap_after(self, step: Step) -> float:
        """The least time between two reloads: no less than nginx needed to come up, which costs it a second copy of
        everything."""
        reload = self._settings.reload
        needed = step.durations.get("prove", 0.0) - reload.alive_after
        # S311: spreads reloads of many proxies in time; nobody gains by guessing it.
        return max(needed, reload.gap * (1 + reload.jitter * random.random()))

    async def _finish_until_catalog(self) -> None:
        """Finish what is pending, and again where that fails: Consul may be away for longer than nginx.

        Where it stays away, go on with the catalog on disk: the operator's files may be others by now.
        """
        patience = asyncio.get_running_loop().call_later(PATIENCE, self._fall_back)
        first = asyncio.create_task(self._catalogs.take(), name="first catalog")
        try:
            while not first.done():
                self._due.clear()
                await self._attempt(self._finish_pending)
                due = asyncio.create_task(self._due.wait(), name="retry without a catalog")
                await asyncio.wait({first, due}, return_when=asyncio.FIRST_COMPLETED)
                due.cancel()
        finally:
            first.cancel()
            patience.cancel()
        # It was taken only to notice it.
        self._again()

    def _fall_back(self) -> None:
        stored = self._accepted.stored
        if stored is not None and self._catalogs.peek() is None:
            _log.warning("Consul does not answer; going on with the catalog on disk", saved_at=str(stored.saved_at))
            self._catalogs.put(stored.catalog)

    def files_touched(self) -> None:
        """Look whether a file of the operator's is another one by now: logs often lie beside nginx.conf, and each
        ``nginx -t`` touches them."""
        state = state_of(self._pipeline.files)
        if state != self._files:
            self._files = state
            self.files_changed()

    def files_changed(self) -> None:
        """Read the operator's files anew and go over the newest catalog again."""
        self._files_changed = True
        self._again()

    def _again(self) -> None:
        newest = self._catalogs.peek()
        if newest is None:
            self._due.set()
        else:
            self._catalogs.put(newest)

    async def _attempt(self, work: _Work) -> Step:
        """Run one pass; every way in which it can end becomes a step, one line in the log, and perhaps a retry."""
        timings = Timings()
        async with self._one_at_a_time:
            try:
                applied = await work(timings)
            except ProxygenError as error:
                applied = self._rejected(str(error))
            except Exception as error:
                # Whatever nobody thought of, such as a full disk for temporary files: what is live goes on.
                _log.exception("pass failed")
                applied = self._rejected(f"unexpected {type(error).__name__}: {error}")
            step = conclude(applied, timings, changed_at=self._changed_at)
            if not step.failed:
                self._changed_at = None
            self._conclude(step)
        return step

    def _rejected(self, reason: str) -> Applied:
        return Applied(outcome=Outcome.REJECTED, generation=self._delivery.live_number(), reason=reason)

    def _conclude(self, step: Step) -> None:
        # "Nothing to change" hides no success, and it ends a failure: its cause is gone.
        is_news = step.outcome is not Outcome.UNCHANGED or bool(step.reason)
        if is_news or self.last is None or self.last.outcome is not Outcome.APPLIED:
            self.last = step
        if step.outcome is Outcome.APPLIED or (self.live_since is None and step.outcome is Outcome.UNCHANGED):
            self.live_since = step.at if step.generation is not None else None
        self._tell(step)
        self._schedule_retry(failed=step.failed)

    def _tell(self, step: Step) -> None:
        tell(step)
        for listener in self._listeners:
            listener(step)

    def _schedule_retry(self, *, failed: bool) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._failures = self._failures + 1 if failed else 0
        if failed:
            reload = self._settings.reload
            pause = min(reload.retry_max, reload.retry_min * 2 ** min(self._failures - 1, 16))
            self._retry = asyncio.get_running_loop().call_later(pause, self._again)

    # --- one pass

    async def _finish_pending(self, _timings: Timings) -> Applied:
        return await self._delivery.finish_pending()

    async def _reconcile(self, catalog: Catalog, timings: Timings) -> Applied:
        """Carry a catalog through all stages, with the operator's files as they are now, else with those before."""
        before, outage, refused = self._pipeline, self._outage, frozenset(self._refusals.quarantines)
        if not await self._refresh_pipeline():
            return await self._carry(catalog, timings)
        self._excused = refused
        try:
            return await self._carry(catalog, timings)
        except (BadInput, CheckRefused) as error:
            self._pipeline, self._outage, self._excused = before, outage, None
            return await self._carry_as_before(catalog, timings, error)
        finally:
            self._excused = None
            if self._pipeline is not before:
                self.files_problem = ""

    async def _carry_as_before(self, catalog: Catalog, timings: Timings, error: ProxygenError) -> Applied:
        """Carry a catalog with the files before, since ``error`` speaks against the changed ones: also to see whether
        it is theirs."""
        try:
            applied = await self._carry(catalog, timings)
        except (BadInput, CheckRefused):
            # Not the files' fault, or not theirs alone: both are tried again.
            self._files_changed = True
            raise error from None
        except Exception:
            self._keep_files(error)
            raise
        if isinstance(error, _NewlyRefused) and error.service in self._refusals.quarantines:
            # It is refused with the files before just as well, which are no better then.
            self.files_changed()
        else:
            self._keep_files(error)
        return applied

    async def _carry(self, catalog: Catalog, timings: Timings) -> Applied:
        drafted = await self._draft(catalog, timings)
        if self.pinned is not None:
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
        pending = await self._finish_pending(Timings())
        if pending.outcome is not Outcome.UNCHANGED:
            return pending
        return Applied(outcome=Outcome.HELD, generation=self._delivery.live_number(), reason=self._pinned_reason())

    async def _draft(self, catalog: Catalog, timings: Timings) -> Drafted:
        self._refusals.review(catalog, time.monotonic())
        # In a thread: at thousands of services a cold start takes seconds, and others share this loop.
        drafted = await asyncio.to_thread(self._draft_here, self._pipeline, catalog, timings)
        for quarantine in drafted.left_out.values():
            self._refuse(quarantine, drafted.catalog)
        self.plan = drafted.plan
        self._note_hold(drafted.held)
        return drafted

    def _note_hold(self, held: Held | None) -> None:
        """Tell when a hold begins, changes and ends, and come back when it may be over."""
        before, self.held = self.held, held
        if held is None:
            self.held_since = None
            if before is not None:
                _log.info("hold over")
            return
        if before is None:
            self.held_since = datetime.now(UTC)
            asyncio.get_running_loop().call_later(self._settings.guard.hold + 0.1, self._again)
        if before is None or before.services.keys() != held.services.keys():
            _log.warning("servers held", reason=held.reason, services=len(held.services))

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

    def _refuse(self, quarantine: Quarantine, catalog: Catalog) -> None:
        if self._excused is not None and quarantine.service not in self._excused:
            raise _NewlyRefused(quarantine)
        self._refusals.refuse(quarantine, catalog)
        _say_quarantined(quarantine)

    def _postpone(self, quarantine: Quarantine, catalog: Catalog) -> None:
        """Leave out for some time what a reload stumbled over; the pauses double."""
        until = self._pause(self._refusals.count_setback(quarantine.service))
        self._refusals.refuse(quarantine, catalog, until=until)
        _say_quarantined(quarantine)

    async def _make_live(self, drafted: Drafted, timings: Timings) -> Applied | None:
        """Carry a draft through the second gate and to nginx; None where a service was left out and a new draft
        is needed."""
        if self._delivery.is_live(drafted.rendered):
            pending = await self._delivery.finish_pending()
            if not pending.failed:
                await self._accepted.take(drafted, pending.generation)
            return pending
        if self._outage is not None and time.monotonic() < self._outage.until:
            raise CheckRefused(f"kept back, since the last candidate took nginx down: {self._outage.reason}")
        applied = await self._delivery.deliver(drafted, timings)
        if not isinstance(applied, Applied):
            for quarantine in quarantines(applied, self._refusals.quarantines).values():
                self._refuse(quarantine, drafted.catalog)
            return None
        if applied.outcome is Outcome.APPLIED:
            self._refusals.forgive(service.name for service in drafted.plan.services if service.quarantine is None)
            self._outage, self._outages = None, 0
            await self._accepted.take(drafted, applied.generation)
        elif applied.ended_workers:
            self._outage = _Outage(self._pause(self._outages), applied.reason)
            self._outages += 1
        elif applied.outcome is Outcome.ROLLED_BACK:
            blamed = blame_log((applied.reason, *applied.log), drafted.rendered)
            known = self._refusals.quarantines.keys()
            new = [refusal for refusal in blamed if not set(refusal.services) <= known]
            if new:
                self._tell(conclude(applied, Timings()))
                for quarantine in quarantines(tuple(new), {}).values():
                    self._postpone(quarantine, drafted.catalog)
                return None
        return applied

    def _pause(self, doublings: int) -> float:
        """Return the end of a pause, after which the newest catalog is gone over again."""
        pause = self._settings.reload.retry_max * (1 << min(doublings, MAX_DOUBLINGS))
        asyncio.get_running_loop().call_later(pause + 0.1, self._again)
        return time.monotonic() + pause

    # --- nginx's files

    async def _refresh_pipeline(self) -> bool:
        """Build the pipeline anew where nginx's binary, its configuration or a file of the operator's changed.

        Return whether the one before may stand in for it: not where nginx itself reads something else by now.
        """
        is_outdated = self._pipeline.is_outdated(await self._delivery.conf())
        if not self._files_changed and not is_outdated:
            return False
        self._files_changed = False
        try:
            pipeline = await open_pipeline(self._settings)
        except BadInput as error:
            if is_outdated:
                raise
            self._keep_files(error)
            return False
        except Exception:
            self._files_changed = True
            raise
        self._pipeline = pipeline
        self._refusals.clear()
        self._outage, self._outages = None, 0
        self._delivery = Delivery(self._settings, self._output, pipeline)
        for problem in pipeline.problems:
            _log.warning("file left out", reason=problem)
        if is_outdated:
            self.files_problem = ""
        return not is_outdated

    def _keep_files(self, error: ProxygenError) -> None:
        """Go on with the files as they were read before, until one of them changes again."""
        self.files_problem = str(error)
        _log.error("files refused, the ones before stay", reason=self.files_problem)

    # --- what the operator asks for

    async def roll_back(self, number: int | None) -> Step:
        """Go back to an older generation and stay there until the hold is released. Raise OutputUnusable where
        there is none of that number."""
        try:
            async with self._one_at_a_time:
                step = conclude(await self._go_back(number), Timings())
                self._conclude(step)
        finally:
            self._again()
        return step

    async def _go_back(self, number: int | None) -> Applied:
        live, pinned = self._delivery.live_number(), self.pinned
        target = number if number is not None else self._delivery.served_before()
        if target not in (None, live):
            # Before the switch: killed in between, the next run must not undo what the operator asked for.
            self._accepted.pin(target)
        try:
            return await self._delivery.roll_back(target)
        except NginxUnavailable as error:
            return self._rejected(str(error))
        finally:
            if self._delivery.live_number() != target:
                self._accepted.pin(pinned)

    async def release_hold(self) -> Step:
        """Let plans go live again, and return what became of the newest one. Raise Refused where nothing is held."""
        if self.pinned is None and self.held is None:
            raise Refused("nothing is held")
        async with self._one_at_a_time:
            if self.held is not None:
                self._accepted.release()
            self._accepted.pin(None)
        catalog = self._catalogs.peek()
        if catalog is None:
            raise CatalogUnavailable("the hold is released; Consul has not been read yet, so there is no plan to apply")
        return await self._attempt(lambda timings: self._reconcile(catalog, timings))


def _say_quarantined(quarantine: Quarantine) -> None:
    _log.warning("service quarantined", service=quarantine.service, place=quarantine.place, reason=quarantine.reason)
