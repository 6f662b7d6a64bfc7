"""The sidecar's drafts: what of the newest catalog may go live now, with timers for what may later."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from proxygen.catalog import Catalog, ServiceName
from proxygen.kit.aio import Alarm
from proxygen.kit.log import get_logger
from proxygen.kit.timings import Timings
from proxygen.proxy.accepted import Accepted
from proxygen.proxy.delivery import Delivery
from proxygen.proxy.draft import Draft
from proxygen.proxy.guard.losses import Held
from proxygen.proxy.pipeline import Pipeline
from proxygen.proxy.plan.types import Plan, Quarantine
from proxygen.proxy.quarantine.refusals import Refusals
from proxygen.settings import Settings

_log = get_logger(__name__)

_LEAST_PAUSE: Final = 5.0
"""Seconds before what is kept is looked at again: that may last for as long as Consul cannot be asked."""

_JUST_AFTER: Final = 0.01
"""Seconds by which a pause is surely over."""

_AFTER: Final = 0.1
"""The same, of a pause that is long."""

_NAMED: Final = 3


class Drafting:
    """Drafts without what is refused, with what is kept, and comes back when that is over."""

    def __init__(
        self, settings: Settings, accepted: Accepted, refusals: Refusals, *, again: Callable[[], None]
    ) -> None:
        """``again`` has the newest catalog gone over once more."""
        self._hold: Final = max(settings.guard.hold, _LEAST_PAUSE)
        self._accepted: Final = accepted
        self._refusals: Final = refusals
        self._one_at_a_time: Final = threading.Lock()
        self._held_until: Final = Alarm(again)
        self._unchecked_until: Final = Alarm(again)
        self._flapping_until: Final = Alarm(again)
        self._refused_until: Final = Alarm(again)
        self.plan: Plan | None = None
        """The newest plan, live or not."""
        self.held: Held | None = None
        """What is kept back of the newest plan, by the guard."""
        self.held_since: datetime | None = None

    async def draft(self, catalog: Catalog, delivery: Delivery, timings: Timings) -> Draft:
        """Draft of the newest catalog what may go live now."""
        due = self._refusals.review(catalog, time.monotonic())
        self._refused_until.set(None if due is None else due + _JUST_AFTER)
        catalog = self._refusals.keep_served(catalog, self._accepted.live)
        is_crowded = self._accepted.is_flapping_possible and await delivery.is_crowded()
        catalog = self._keep_flapping(self._keep_unchecked(catalog), crowded=is_crowded)
        # In a thread: at thousands of services a cold start takes seconds, and others share this loop.
        draft = await asyncio.to_thread(self._draft_here, delivery.pipeline, catalog, timings)
        return replace(draft, plan=self._refusals.tell(draft.plan))

    def _draft_here(self, pipeline: Pipeline, catalog: Catalog, timings: Timings) -> Draft:
        # A pass that was cancelled leaves its thread behind, and a drafter remembers what it rendered last.
        with self._one_at_a_time:
            return pipeline.drafter.draft(
                catalog, self._accepted.memory, self._refusals.quarantines, timings, judge=self._accepted.judge
            )

    def draft_aside(self, pipeline: Pipeline, catalog: Catalog, left_out: Mapping[ServiceName, Quarantine]) -> Draft:
        """Draft what is only to be tried, without what is ``left_out`` too."""
        with self._one_at_a_time:
            return pipeline.drafter.draft(catalog, self._accepted.memory, left_out)

    def _keep_unchecked(self, catalog: Catalog) -> Catalog:
        """Let what is only unchecked keep its health, say so once, and come back when it must not any more."""
        kept = self._accepted.keep_unchecked(catalog)
        self._unchecked_until.set(_pause(kept.due, _LEAST_PAUSE))
        if kept.begun:
            named = [f"{instance.service}/{instance.id} on {instance.node}" for instance in kept.begun[:_NAMED]]
            _log.warning("unchecked instances served as before", count=len(kept.begun), instances=", ".join(named))
        return kept.catalog

    def _keep_flapping(self, catalog: Catalog, *, crowded: bool) -> Catalog:
        """Let services that change too often wait, and come back when they need not."""
        calm = self._accepted.keep_flapping(catalog, crowded=crowded)
        self._flapping_until.set(None if calm.due is None else calm.due + _JUST_AFTER)
        return calm.catalog

    def note(self, draft: Draft) -> None:
        """Take note of the newest plan. Tell when a hold begins, changes and ends; come back when it may be over."""
        self.plan = draft.plan
        held, before, self.held = draft.held, self.held, draft.held
        self._held_until.set(None if held is None else _pause(held.due, self._hold))
        if held is None:
            self.held_since = None
            if before is not None:
                _log.info("hold over")
            return
        if before is None:
            self.held_since = datetime.now(UTC)
        if before is None or before.services.keys() != held.services.keys():
            _log.warning("servers held", reason=held.reason, services=len(held.services))


def _pause(due: float | None, again: float) -> float | None:
    """Seconds until something kept is looked at; ``again`` where its time has come and it is kept all the same."""
    if due is None:
        return None
    return (due if due > 0 else again) + _AFTER
