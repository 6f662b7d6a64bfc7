"""The sidecar's stages: what `attempt` carries a catalog through until nginx is proven to serve it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final

from proxygen.catalog import Catalog, ServiceName
from proxygen.kit.timings import Timings
from proxygen.proxy.accepted import Accepted
from proxygen.proxy.apply.apply import Applied
from proxygen.proxy.apply.outcome import DONE, Outcome
from proxygen.proxy.apply.push.document import Entry
from proxygen.proxy.attempt import Stages
from proxygen.proxy.check.gates import Checked, RefusedCandidate, RefusedLines, RefusedWhole
from proxygen.proxy.delivery import Delivery
from proxygen.proxy.draft import Draft
from proxygen.proxy.drafting import Drafting
from proxygen.proxy.plan.types import Quarantine
from proxygen.proxy.quarantine.left_out import Case, LeftOut, RefusedReload
from proxygen.proxy.quarantine.outage import Outage
from proxygen.proxy.quarantine.trial import Trial


class Stands(Enum):
    """Why nothing is delivered of a draft that no gate refuses."""

    LIVE = auto()
    """nginx was given just this before."""
    PINNED = auto()
    """The operator keeps nginx at an older generation."""


@dataclass(slots=True)
class Carryover:
    """What one attempt leaves for the next."""

    accepted: Accepted
    drafting: Drafting
    left_out: LeftOut
    pause: Callable[[int], float]
    """As in `LeftOut`."""
    stay_pinned: Callable[[], Awaitable[Applied]]
    """What is done instead while the operator keeps nginx at an older generation."""
    outage: Outage | None = None
    """The last candidate's, where it ended every worker."""

    def next_outage(self, draft: Draft, reason: str) -> Outage:
        """Keep a draft that ended every worker back, for longer than the last one that did."""
        count = 0 if self.outage is None else self.outage.count
        return Outage(self.pause(count), reason, draft.rendered.digest, count + 1)


@dataclass(frozen=True, slots=True)
class Push:
    """A draft that needs no reload."""

    entries: tuple[Entry, ...]


Settled = Callable[[], Awaitable[bool]]
"""Waits for what may follow and would share a reload; whether nothing did."""


async def settled() -> bool:
    """Wait for nothing."""
    return True


class Unsettled(Exception):
    """The draft takes a reload, and there is a newer catalog that is to share it."""


class SidecarStages(Stages[Checked | Push | Stands, Applied]):
    """One attempt's."""

    def __init__(
        self,
        carryover: Carryover,
        catalog: Catalog,
        delivery: Delivery,
        timings: Timings,
        *,
        trial: Trial | None,
        settled: Settled = settled,
    ) -> None:
        """``trial``: the files behind ``delivery`` are on trial. ``settled`` is waited for before a reload."""
        self._settled: Final = settled
        self._carryover: Final = carryover
        self._catalog: Final = catalog
        self._delivery: Final = delivery
        self._timings: Final = timings
        self._trial: Final = trial

    async def draft(self) -> Draft:
        return await self._carryover.drafting.draft(self._catalog, self._delivery, self._timings)

    async def check(self, draft: Draft) -> Checked | Push | Stands | RefusedCandidate:
        """Stop after the first gate while the operator's pin holds, where the draft is live and was judged, or where it
        is pushed and judged then."""
        gates, rendered = self._delivery.pipeline.gates, draft.rendered
        with self._timings.of("check"):
            refused = await asyncio.to_thread(gates.structure, rendered)
        if refused is not None:
            return refused
        self._carryover.drafting.note(draft)
        if self._carryover.accepted.pinned is not None:
            return Stands.PINNED
        if self._delivery.is_live(rendered):
            return await self._delivery.check_live(draft, self._timings) or Stands.LIVE
        if self._carryover.outage is not None:
            self._carryover.outage.require_over(rendered.digest)
        if (entries := self._delivery.pushable(draft)) is not None:
            return Push(entries)
        return await self._delivery.check(draft, self._timings)

    async def deliver(self, draft: Draft, passed: Checked | Push | Stands) -> Applied | RefusedCandidate:
        """Publish and reload what passed, or push it; of a candidate that is live, finish what was begun. Raise
        Unsettled where a newer catalog is to share the reload: then nothing was done."""
        match passed:
            case Stands.PINNED:
                return await self._carryover.stay_pinned()
            case Stands.LIVE:
                applied = await self._delivery.finish_pending()
                if applied.outcome in DONE:
                    self._delivery.note_served(draft)
            case Push():
                pushed = await self._delivery.push(draft, passed.entries, self._timings)
                if pushed is not None:
                    return pushed
                checked = await self._delivery.check(draft, self._timings)
                if isinstance(checked, RefusedCandidate):
                    return checked
                applied = await self._delivery.deliver(checked, draft)
            case Checked():
                if not await self._settled():
                    self._delivery.discard(passed)
                    raise Unsettled
                applied = await self._delivery.deliver(passed, draft)
        return self._carryover.left_out.blame(self._case(draft), applied) or applied

    async def leave_out(self, draft: Draft, refused: RefusedCandidate) -> None:
        """Quarantine who is at fault, so that the next round does without."""
        left_out, case = self._carryover.left_out, self._case(draft)
        match refused:
            case RefusedLines():
                left_out.by_lines(case, refused.refusals)
            case RefusedWhole():
                with self._timings.of("test"):
                    await left_out.by_search(case, refused.error, self._accepts(draft))
            case RefusedReload():
                left_out.by_reload(case, refused)

    def _accepts(self, draft: Draft) -> Callable[[Mapping[ServiceName, Quarantine]], Awaitable[bool]]:
        pipeline, drafting = self._delivery.pipeline, self._carryover.drafting
        known = dict(self._carryover.left_out.refusals.quarantines)

        async def accepts(left_out: Mapping[ServiceName, Quarantine]) -> bool:
            aside = await asyncio.to_thread(drafting.draft_aside, pipeline, draft.catalog, {**known, **left_out})
            return await pipeline.accepts(aside)

        return accepts

    async def record(self, draft: Draft, result: Applied) -> Applied:
        """Remember what is live, or an outage that is not to be tried again at once."""
        carryover = self._carryover
        if carryover.accepted.pinned is not None:
            return result
        if result.outcome is Outcome.APPLIED:
            carryover.left_out.note_live(draft)
            carryover.outage = None
        elif result.ended_workers:
            carryover.outage = carryover.next_outage(draft, result.reason)
        if result.outcome in (Outcome.APPLIED, Outcome.UNCHANGED):
            carryover.left_out.note_served(draft)
            await carryover.accepted.take(draft, result.generation, result.by)
        if result.outcome is Outcome.UNCHANGED and draft.held is not None:
            return replace(result, outcome=Outcome.HELD, reason=draft.held.reason)
        return result

    def _case(self, draft: Draft) -> Case:
        accepted = self._carryover.accepted
        return Case(
            draft=draft,
            observed=self._catalog,
            live=accepted.live,
            holders=accepted.memory.holders,
            trial=self._trial,
        )
