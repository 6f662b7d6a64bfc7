"""What went live, and what must be known of it: in the guard's mind, and on disk for the next start."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Final

from proxygen.catalog import Catalog, Instance, ServiceName
from proxygen.kit.errors import ProxygenError
from proxygen.kit.log import get_logger
from proxygen.proxy.apply.outcome import WayToNginx
from proxygen.proxy.apply.publish import current
from proxygen.proxy.draft import Draft, Drafter
from proxygen.proxy.guard.flapping import Calm, Flapping
from proxygen.proxy.guard.good_tags import as_planned, gone, note_served, with_gone
from proxygen.proxy.guard.losses import Guard, Held, Limits
from proxygen.proxy.guard.unchecked import Kept, Unchecked
from proxygen.proxy.plan.types import GoodTags, Memory, Plan
from proxygen.proxy.record.live_plans import LivePlans, holders_of
from proxygen.proxy.state.last_good import LastGood, load_last_good, save_last_good
from proxygen.proxy.state.memory import Remembered, recall, remember
from proxygen.settings import GuardSettings, Settings

_log = get_logger(__name__)


class Accepted:
    """Remembers the plan and the catalog behind the live generation, and judges what would follow them."""

    def __init__(self, settings: Settings, *, is_fresh: Callable[[], bool]) -> None:
        self._directory: Final = settings.output.directory
        self._is_fresh: Final = is_fresh
        self._guard: Final = Guard(_limits(settings.guard))
        self._unchecked: Final = Unchecked(settings.guard.hold)
        self._flapping: Final = Flapping(
            burst=settings.reload.burst,
            interval=settings.reload.interval,
            crowded_pause=settings.reload.max_draining_wait,
        )
        self._written = recall(self._directory)
        self._remembered = _completed(self._written, self._directory)
        self._is_catalog_written = True
        self._good_tags: Mapping[ServiceName, GoodTags] = MappingProxyType({})
        self._saved: int | None = None
        self.live: Mapping[ServiceName, tuple[Instance, ...]] = MappingProxyType({})
        """The instances that the newest plan that went live was made from."""
        self.stored: LastGood | None = None
        """The catalog that an earlier run left, where nginx still serves it or nothing."""

    @property
    def is_written(self) -> bool:
        """Whether the next run would know what this one knows."""
        return self._written is self._remembered and self._is_catalog_written

    @property
    def memory(self) -> Memory:
        return replace(self._remembered.plan, good_tags=self._good_tags)

    @property
    def pinned(self) -> int | None:
        """The generation to which the operator went back; None: new plans may go live."""
        return self._remembered.pinned

    def pin(self, number: int | None) -> bool:
        """Stay at a generation, or at none, and return whether the next run would know it."""
        if number != self.pinned:
            self._remembered = replace(self._remembered, pinned=number)
            self._save_memory()
        return self._written.pinned == number

    def take_up(self, drafter: Drafter, live: int | None) -> None:
        """Go on from the catalog that an earlier run left; ``live`` is the generation that nginx serves."""
        last_good = load_last_good(self._directory)
        if last_good is None:
            return
        # Also one that a kill left behind the live generation: losses are told by it all the same.
        self._good_tags = recall_good_tags(last_good, drafter, self.memory)
        plan = drafter.plan(last_good.catalog, self.memory)
        self._guard.accept(plan, last_good.catalog, time.monotonic())
        self._flapping.accept(plan, last_good.catalog, time.monotonic())
        self._unchecked.accept(last_good.catalog)
        self.live = last_good.catalog.services
        if live in (None, last_good.generation):
            self.stored = last_good
            self._saved = last_good.generation

    def keep_unchecked(self, catalog: Catalog) -> Kept:
        """See `Unchecked.keep`."""
        return self._unchecked.keep(catalog, time.monotonic(), fresh=self._is_fresh())

    @property
    def is_flapping_possible(self) -> bool:
        """See `Flapping.is_watchful`."""
        return self._flapping.is_watchful(time.monotonic())

    @property
    def flapping(self) -> frozenset[ServiceName]:
        """See `Flapping.services`."""
        return self._flapping.services(time.monotonic())

    def keep_flapping(self, catalog: Catalog, *, crowded: bool) -> Calm:
        """See `Flapping.keep`."""
        return self._flapping.keep(catalog, time.monotonic(), crowded=crowded)

    def judge(self, plan: Plan, catalog: Catalog) -> Held | None:
        return self._guard.judge(plan, catalog, time.monotonic(), fresh=self._is_fresh())

    async def take(self, draft: Draft, generation: int | None, by: WayToNginx = WayToNginx.RELOAD) -> None:
        """Take note that a draft is live, as ``generation``. What was pushed is written with its files, by
        `write_published`."""
        catalog = as_planned(draft.plan, draft.catalog)
        self._guard.accept(draft.plan, catalog, time.monotonic())
        self._unchecked.accept(catalog)
        self.live = catalog.services
        # What Consul says is compared, not with which tags it was planned.
        self._flapping.accept(draft.plan, draft.catalog, time.monotonic(), reloaded=by is WayToNginx.RELOAD)
        self._good_tags = note_served(self._good_tags, draft.plan, catalog)
        if draft.plan.memory != self._remembered.plan:
            self._remembered = replace(self._remembered, plan=draft.plan.memory)
            self._save_memory()
        if by is WayToNginx.RELOAD and generation is not None and generation != self._saved:
            await self._write_catalog(catalog, generation)

    async def write_published(self, draft: Draft, generation: int) -> None:
        """Write the catalog behind a generation that was live before it was published."""
        await self._write_catalog(as_planned(draft.plan, draft.catalog), generation)

    async def _write_catalog(self, catalog: Catalog, generation: int) -> None:
        now, lost = datetime.now(UTC), gone(self._good_tags)
        good = LastGood(catalog=catalog, generation=generation, saved_at=now, gone=lost)
        await asyncio.to_thread(self._save_catalog, good)

    def write_again(self) -> None:
        """Write the memory where that failed the last time; the catalog is written with the next one taken."""
        if self._written is not self._remembered:
            self._save_memory()

    def _save_memory(self) -> None:
        try:
            remember(self._directory, self._remembered)
        except (OSError, ProxygenError) as error:
            _log.error("memory not saved", reason=str(error))
        else:
            self._written = self._remembered

    def _save_catalog(self, last_good: LastGood) -> None:
        try:
            save_last_good(self._directory, last_good)
        except (OSError, ProxygenError) as error:
            self._is_catalog_written = False
            _log.error("catalog not saved", reason=str(error))
        else:
            self._is_catalog_written = True
            self._saved = last_good.generation

    def release(self) -> None:
        """Let plans through whatever they lose, until one of them is live."""
        self._guard.release()


def _completed(remembered: Remembered, output: Path) -> Remembered:
    """The memory, and where it is lost, who holds what by the live generation: else the older registration would get a
    contested host here, and on no other sidecar."""
    number = current(output)
    if remembered.plan.holders or number is None:
        return remembered
    plan = LivePlans(output).plan_of(number)
    if plan is None:
        return remembered
    return replace(remembered, plan=replace(remembered.plan, holders=MappingProxyType(holders_of(plan))))


def recall_good_tags(last_good: LastGood, drafter: Drafter, memory: Memory) -> Mapping[ServiceName, GoodTags]:
    """Work out of the catalog on disk with which tags instances were served."""
    return note_served(with_gone(last_good.gone), drafter.plan(last_good.catalog, memory), last_good.catalog)


def _limits(settings: GuardSettings) -> Limits:
    return Limits(
        loss=settings.loss,
        window=settings.window,
        hold=settings.hold,
        minimum=settings.minimum_instances,
    )
