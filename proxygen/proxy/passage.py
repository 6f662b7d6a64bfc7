"""One pass: an attempt with the operator's files as they are now, else with those before."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from proxygen.catalog import Catalog
from proxygen.kit.errors import BadInput, CheckRefused, FilesRefused, NginxUnavailable, OutputUnusable, ProxygenError
from proxygen.kit.files import state_of
from proxygen.kit.log import get_logger
from proxygen.kit.timings import Timings
from proxygen.proxy.accepted import Accepted
from proxygen.proxy.apply.apply import Applied
from proxygen.proxy.apply.outcome import Outcome
from proxygen.proxy.apply.publish import Output
from proxygen.proxy.attempt import attempt
from proxygen.proxy.delivery import Delivery
from proxygen.proxy.drafting import Drafting
from proxygen.proxy.nginx.stamp import Stamp
from proxygen.proxy.pipeline import Pipeline, open_pipeline
from proxygen.proxy.quarantine.left_out import LeftOut
from proxygen.proxy.quarantine.trial import Trial
from proxygen.proxy.record.expiry import CertificateWatch
from proxygen.proxy.stages import Carryover, Settled, SidecarStages, settled
from proxygen.settings import Settings

_log = get_logger(__name__)

MAX_DOUBLINGS: Final = 5
"""Of the pause before a service that a reload stumbled over is tried again: 30 s becomes 16 minutes at most."""


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
        """``again`` has the newest catalog gone over once more; ``tell`` is called with what nginx went through
        that did not end a pass."""
        self._settings: Final = settings
        self._output: Final = output
        self._accepted: Final = accepted
        self._again: Final = again
        self._tell: Final = tell
        self._delivery = self._delivery_by(pipeline)
        self._certificates: Final = CertificateWatch(self.files_changed)
        left_out = LeftOut(settings.proxy.tag_prefix, again=again, pause=self._pause, tell=tell)
        self.drafting: Final = Drafting(settings, accepted, left_out.refusals, again=again)
        self._carryover: Final = Carryover(
            accepted=accepted,
            drafting=self.drafting,
            left_out=left_out,
            pause=self._pause,
            stay_pinned=self._stay_pinned,
        )
        self._file_setbacks = 0
        """Reloads in a row that nginx did not take with changed files."""
        self._files = state_of(pipeline.files)
        self._files_changed = False
        self.files_problem = ""
        """Why the operator's files are not used as they are now, and those before stay in force; "" where they are."""

    def _delivery_by(self, pipeline: Pipeline) -> Delivery:
        return Delivery(
            self._settings,
            self._output,
            pipeline,
            again=self._again,
            published=self._accepted.write_published,
            taken_back=self._tell,
        )

    @property
    def pushed(self) -> Stamp | None:
        """See `Delivery.pushed`."""
        return self._delivery.pushed

    async def is_as_seen(self) -> bool:
        """See `Delivery.is_as_seen`."""
        return await self._delivery.is_as_seen()

    async def finish(self) -> None:
        """Have the files say what was pushed."""
        await self._delivery.flush()

    @property
    def pipeline(self) -> Pipeline:
        return self._delivery.pipeline

    @property
    def remarks(self) -> tuple[str, ...]:
        """See `Delivery.remarks`."""
        return self._delivery.remarks

    def live_number(self) -> int | None:
        return self._delivery.live_number()

    def rejected(self, reason: str) -> Applied:
        return Applied(outcome=Outcome.REJECTED, generation=self.live_number(), reason=reason)

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

    async def carry(self, catalog: Catalog, timings: Timings, *, settled: Settled = settled) -> Applied:
        """Carry a catalog to nginx: with the operator's files as they are now, else with those before.

        ``settled`` is waited for before a reload. Raise Unsettled where a newer catalog came meanwhile: then nothing
        was done.
        """
        self._accepted.write_again()
        carryover, before = self._carryover, self._delivery
        outage, trial = carryover.outage, Trial(carryover.left_out.refusals.names)
        carryover.left_out.begin()
        if not await self._refresh_pipeline():
            return await self._attempt(catalog, timings, settled=settled)
        try:
            applied = await self._attempt(catalog, timings, trial)
        except (BadInput, CheckRefused) as error:
            self._delivery, carryover.outage = before, outage
            return await self._carry_as_before(catalog, timings, error)
        finally:
            if self._delivery is not before:
                self.files_problem = ""
        if applied.outcome is Outcome.APPLIED:
            self._file_setbacks = 0
        return applied

    async def _carry_as_before(self, catalog: Catalog, timings: Timings, error: ProxygenError) -> Applied:
        """Carry a catalog with the files before, since ``error`` speaks against the changed ones: also to see whether
        it is theirs."""
        refusals = self._carryover.left_out.refusals
        known = refusals.names
        try:
            applied = await self._attempt(catalog, timings)
        except (BadInput, CheckRefused):
            # Not the files' fault, or not theirs alone: both are tried again.
            self._files_changed = True
            raise error from None
        except Exception:
            self._keep_files(error)
            raise
        refused = refusals.names
        if isinstance(error, FilesRefused) and (error.service in refused if error.service else refused - known):
            # It is refused with the files before just as well, which are no better then.
            self.files_changed()
        else:
            self._keep_files(error)
        return applied

    async def _attempt(
        self, catalog: Catalog, timings: Timings, trial: Trial | None = None, *, settled: Settled = settled
    ) -> Applied:
        self._certificates.note(self.pipeline.ground.certificates)
        await self._delivery.narrow_copies()
        stages = SidecarStages(
            self._carryover,
            catalog,
            self._delivery,
            timings,
            trial=trial,
            settled=settled,
        )
        return await attempt(stages)

    async def _stay_pinned(self) -> Applied:
        """Hold every plan while the operator keeps nginx at an older generation."""
        pending = await self.finish_pending()
        if pending.outcome is not Outcome.UNCHANGED:
            return pending
        return replace(pending, outcome=Outcome.HELD, reason=pinned_reason(self._accepted.pinned))

    def _pause(self, doublings: int) -> float:
        """Return the end of a pause, after which the newest catalog is gone over again."""
        pause = self._length(doublings)
        asyncio.get_running_loop().call_later(pause + 0.1, self._again)
        return time.monotonic() + pause

    def _length(self, doublings: int) -> float:
        return self._settings.reload.retry_max * (1 << min(doublings, MAX_DOUBLINGS))

    # --- the operator's files

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

    def read_again(self) -> None:
        """The same because the operator asks for it: a cause may be gone that stands in no file of these."""
        self._carryover.outage = None
        self.files_changed()

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
            self._excuse(is_outdated=is_outdated)
        before = self._delivery
        await before.flush()
        self._delivery = self._delivery_by(pipeline)
        if not files_changed and not is_outdated:
            # nginx reads nothing else for another address of this host.
            self._delivery.go_on_from(before)
        if is_outdated:
            self.files_problem = ""
        return not is_outdated

    def _excuse(self, *, is_outdated: bool) -> None:
        carryover = self._carryover
        carryover.left_out.clear()
        if is_outdated:
            carryover.outage = None
        elif carryover.outage is not None:
            carryover.outage = carryover.outage.with_other_files()

    def _keep_files(self, error: ProxygenError) -> None:
        """Go on with the files as they were read before, until one of them changes again; where no cause is known, for
        some time: the machine may have been too busy."""
        if isinstance(error, FilesRefused) and error.service is None:
            asyncio.get_running_loop().call_later(self._length(self._file_setbacks), self.files_changed)
            self._file_setbacks += 1
        self.files_problem = str(error)
        _log.error("files refused, the ones before stay", reason=self.files_problem)

    # --- what the operator asks for

    async def go_back(self, number: int | None) -> Applied:
        """Go back to an older generation, and stay there. Raise OutputUnusable where there is none of that number, or
        where that cannot be written down."""
        await self._delivery.flush()
        live, pinned = self.live_number(), self._accepted.pinned
        target = number if number is not None else self._delivery.served_before()
        if target is not None:
            self._delivery.require(target)
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


def pinned_reason(number: int | None) -> str:
    return f"the operator went back to generation {number}; `proxygen release-hold` lets new plans through"
