"""The loop: when a catalog is carried to nginx, and again after what. `attempt.py` says through which stages.

    catalog -> plan -> guard -> render -> first gate -> second gate -> publish -> reload -> proof -> outcome

One slot holds the newest catalog. One task takes it, carries it through the stages and says how it ended; what
arrives meanwhile coalesces behind it. Nothing that fails here ends the loop: what was live stays live, the reason is
told, and the pass is repeated with growing pauses. Files of the operator's that cannot be used leave those before
in force.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NoReturn

from proxygen.catalog import Catalog, ServiceName
from proxygen.kit.aio import Latest, Pace
from proxygen.kit.errors import CatalogUnavailable, ProxygenError, Refused
from proxygen.kit.log import get_logger
from proxygen.kit.timings import Timings
from proxygen.proxy.accepted import Accepted
from proxygen.proxy.apply.apply import Applied
from proxygen.proxy.apply.outcome import Outcome, WayToNginx
from proxygen.proxy.apply.publish import Output
from proxygen.proxy.guard.losses import Held
from proxygen.proxy.nginx.stamp import Stamp
from proxygen.proxy.passage import Passage, pinned_reason
from proxygen.proxy.pipeline import Pipeline
from proxygen.proxy.plan.types import Plan
from proxygen.proxy.record.steps import Step, conclude, tell
from proxygen.proxy.stages import Unsettled
from proxygen.settings import Settings

_log = get_logger(__name__)

_SETTLE_MAX: Final = 2.0
"""Seconds for which a flood of changes can put a pass off: a render at 10,000 services takes about as long."""
_RETRY_MIN: Final = 0.5
"""Seconds before a pass that failed is made again at first; doubles up to ``reload.retry_max``."""
PATIENCE: Final = 5.0
"""Seconds that a start waits for Consul before it goes on with the catalog on disk."""

_LOOK: Final = 5.0
"""Seconds between two looks at whether nginx serves what it was seen to serve."""

_Work = Callable[[Timings], Awaitable[Applied]]


def _always() -> None:
    """Let it happen, whatever is live by now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopState:
    """How things stand between catalogs and nginx."""

    last: Step | None
    """What the last pass that is news came to."""
    live: int | None
    """The generation that nginx was last seen to serve by this run: another one may be on its way."""
    live_since: datetime | None
    pushed: Stamp | None
    """What nginx serves by a push; None where it serves what it read from the files."""
    plan: Plan | None
    """The newest, live or not."""
    pinned: int | None
    """The generation to which the operator went back; None: new plans may go live."""
    held: Held | None
    """What is kept back of the newest plan, by the guard."""
    held_since: datetime | None
    holds: tuple[str, ...]
    """Why something is kept back of the newest plan; empty where nothing is."""
    stale_since: datetime | None
    """When the catalog was saved that stands in for one of Consul's; None where Consul has given one."""
    flapping: frozenset[ServiceName]
    """Services that change too often, so that their newest state has to wait."""
    remarks: tuple[str, ...]
    """What nginx said of the newest candidate, and nobody is refused for."""
    files_problem: str
    """Why the operator's files are not used as they are now; "" where they are."""


class Reconciler:
    """Owns the order of things between a catalog and a proven generation."""

    def __init__(
        self,
        settings: Settings,
        output: Output,
        pipeline: Pipeline,
        catalogs: Latest[Catalog],
        *,
        is_fresh: Callable[[], bool],
    ) -> None:
        """``is_fresh`` says whether Consul answers, so that what the catalog shows can be believed."""
        self._settings: Final = settings
        self._catalogs: Final = catalogs
        self._accepted: Final = Accepted(settings, is_fresh=is_fresh)
        self._passage: Final = Passage(
            settings, output, pipeline, self._accepted, again=self._again, tell=self._tell_of
        )
        self._failures = 0
        self._retry: asyncio.TimerHandle | None = None
        self._one_at_a_time = asyncio.Lock()
        self._due = asyncio.Event()
        self._changed_at: float | None = None
        """The monotonic time of the oldest change that no pass has done with; None where there is none."""
        self._listeners: list[Callable[[Step], None]] = []
        self._last: Step | None = None
        self._live: int | None = None
        self._live_since: datetime | None = None
        self.begun = 0
        """How many catalogs, Consul's or the one on disk, a pass was begun with, one after the other."""
        self.carried = 0
        """How many of them were carried to an end, whatever it was."""
        self.busy_since: float | None = None
        """The monotonic time at which the pass began that is under way; None between passes."""

    @property
    def pipeline(self) -> Pipeline:
        return self._passage.pipeline

    @property
    def catalog(self) -> Catalog | None:
        """The newest catalog, whatever became of it."""
        return self._catalogs.peek()

    @property
    def state(self) -> LoopState:
        """How things stand now."""
        drafting, pinned = self._passage.drafting, self._accepted.pinned
        pin = pinned_reason(pinned) if pinned is not None else ""
        held = drafting.held.reason if drafting.held is not None else ""
        stored = self._accepted.stored
        return LoopState(
            last=self._last,
            live=self._live,
            live_since=self._live_since,
            pushed=self._passage.pushed,
            plan=drafting.plan,
            pinned=pinned,
            held=drafting.held,
            held_since=drafting.held_since,
            holds=tuple(filter(None, (pin, held))),
            stale_since=stored.saved_at if stored is not None and self.catalog is stored.catalog else None,
            flapping=self._accepted.flapping,
            remarks=self._passage.remarks,
            files_problem=self._passage.files_problem,
        )

    def subscribe(self, listener: Callable[[Step], None]) -> None:
        """Have every step told to ``listener`` too, which must not raise."""
        self._listeners.append(listener)

    # --- the loop

    async def watch_nginx(self) -> NoReturn:
        """Go over the newest catalog again where nginx no longer serves what was pushed: somebody restarted or reloaded
        it before the files were there. Until cancelled."""
        while True:
            await asyncio.sleep(_LOOK)
            if self.busy_since is None and not await self._passage.is_as_seen() and self.busy_since is None:
                _log.warning("nginx does not serve what was pushed")
                self._again()

    async def finish(self) -> None:
        """Have the files say what was pushed, at an end."""
        async with self._one_at_a_time:
            await self._passage.finish()

    async def run(self) -> NoReturn:
        """Reconcile until cancelled."""
        try:
            await asyncio.to_thread(self._accepted.take_up, self.pipeline.drafter, self._passage.live_number())
        except Exception:
            # A file that somebody wrote must not be what keeps us from starting.
            _log.exception("stored catalog not used")
        await self._finish_until_catalog()
        reload = self._settings.reload
        governor = Pace(burst=reload.burst, rate=1 / reload.interval if reload.interval else math.inf)
        while True:
            step = await self._next_step(reload.settle)
            self.carried += 1
            if step.by is WayToNginx.PUSH:
                await asyncio.sleep(reload.settle)
            elif step.outcome in (Outcome.APPLIED, Outcome.ROLLED_BACK):
                await asyncio.sleep(self._gap_after(step))
                await governor.step()

    async def _next_step(self, settle: float) -> Step:
        """Wait for a catalog and carry it: what needs no reload at once, else once it has settled. Until then it is
        made ready, for most often nothing follows."""
        catalog = await self._take(0.0)
        self.begun += 1
        with suppress(Unsettled):
            return await self._pass(
                lambda timings: self._passage.carry(catalog, timings, settled=lambda: self._catalogs.stays(settle))
            )
        newest = await self._take(settle)
        return await self._pass(lambda timings: self._passage.carry(newest, timings))

    async def _take(self, settle: float) -> Catalog:
        catalog = await self._catalogs.settled(settle, _SETTLE_MAX)
        if self._changed_at is None:
            self._changed_at = self._catalogs.taken_since
        return catalog

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
                await self._pass(lambda _timings: self._passage.finish_pending())
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
        """See whether a file of the operator's is another one by now."""
        self._passage.files_touched()

    def files_changed(self) -> None:
        """Read the operator's files anew and go over the newest catalog again, since he asks for it."""
        self._passage.read_again()

    def _again(self) -> None:
        newest = self._catalogs.peek()
        if newest is None:
            self._due.set()
        else:
            self._catalogs.put(newest)

    async def _pass(self, work: _Work) -> Step:
        """Run one pass; every way in which it can end becomes a step, one line in the log, and perhaps a retry."""
        timings = Timings()
        async with self._one_at_a_time:
            self.busy_since = time.monotonic()
            try:
                applied = await work(timings)
            except ProxygenError as error:
                applied = self._passage.rejected(str(error))
            except Unsettled:
                raise
            except Exception as error:
                # Whatever nobody thought of, such as a full disk for temporary files: what is live goes on.
                _log.exception("pass failed")
                applied = self._passage.rejected(f"unexpected {type(error).__name__}: {error}")
            finally:
                self.busy_since = None
            step = conclude(applied, timings, changed_at=self._changed_at)
            if not step.failed:
                self._changed_at = None
            self._conclude(step)
        return step

    def _conclude(self, step: Step) -> None:
        # "Nothing to change" hides no success, and it ends a failure: its cause is gone.
        is_news = step.outcome is not Outcome.UNCHANGED or bool(step.reason)
        if is_news or self._last is None or self._last.outcome is not Outcome.APPLIED:
            self._last = step
        self._note_live(step)
        self._tell(step)
        self._schedule_retry(failed=step.failed or not self._accepted.is_written)

    def _note_live(self, step: Step) -> None:
        # What was rejected leaves behind what nginx may serve once it starts, and a way back that leads nowhere asks
        # nobody: no one has seen nginx serve what these name.
        is_seen = step.outcome is not Outcome.REJECTED and not (step.outcome is Outcome.UNCHANGED and step.reason)
        if step.outcome is Outcome.APPLIED or (is_seen and step.generation != self._live):
            self._live = step.generation
            self._live_since = datetime.fromisoformat(step.at) if step.generation is not None else None

    def _tell_of(self, applied: Applied) -> None:
        step = conclude(applied, Timings())
        self._note_live(step)
        self._tell(step)

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
            pause = min(reload.retry_max, _RETRY_MIN * 2 ** min(self._failures - 1, 16))
            self._retry = asyncio.get_running_loop().call_later(pause, self._again)

    # --- what the operator asks for

    async def roll_back(self, number: int | None, *, confirm: Callable[[], None] = _always) -> Step:
        """Go back to an older generation and stay there until the hold is released. Raise OutputUnusable where
        there is none of that number, or where the hold cannot be written down.

        ``confirm`` is called when no other pass is under way, and stops it by what it raises.
        """
        try:
            async with self._one_at_a_time:
                confirm()
                step = conclude(await self._passage.go_back(number), Timings())
                self._conclude(step)
        finally:
            self._again()
        return step

    async def release_hold(self, *, confirm: Callable[[], None] = _always) -> Step:
        """Let plans go live again, and return what became of the newest one. Raise Refused where nothing is held.

        ``confirm`` as in `roll_back`.
        """
        async with self._one_at_a_time:
            confirm()
            if self._accepted.pinned is None and self._passage.drafting.held is None:
                raise Refused("nothing is held")
            if self._passage.drafting.held is not None:
                self._accepted.release()
            self._accepted.pin(None)
        catalog = self._catalogs.peek()
        if catalog is None:
            raise CatalogUnavailable("the hold is released; Consul has not been read yet, so there is no plan to apply")
        return await self._pass(lambda timings: self._passage.carry(catalog, timings))
