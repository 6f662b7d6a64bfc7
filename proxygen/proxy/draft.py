"""From a catalog to a draft: plan, guard, render. What is in a draft nobody has checked yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from proxygen.catalog import Catalog, ServiceName
from proxygen.kit.timings import Timings
from proxygen.proxy.guard.losses import Held
from proxygen.proxy.plan import Planner
from proxygen.proxy.plan.types import Memory, Plan, Policy, Quarantine
from proxygen.proxy.render.renderer import Rendered, Renderer

Judge = Callable[[Plan, Catalog], Held | None]
"""Says what of a plan is held; see `guard.Guard.judge`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A rendered plan, and what it was made from."""

    plan: Plan
    rendered: Rendered
    catalog: Catalog
    """What it was planned from: the newest catalog, in which services that are held keep their instances."""
    held: Held | None = None


def _hold_nothing(_plan: Plan, _catalog: Catalog) -> None:
    return None


class Drafter:
    """Drafts by one policy and with one renderer. Remembers what it planned and rendered last: one draft at a time."""

    def __init__(self, policy: Policy, renderer: Renderer) -> None:
        self._planner: Final = Planner(policy)
        self._held_planner: Final = Planner(policy)
        """Plans what the guard leaves of a catalog; a planner of its own, so that both remember what they knew."""
        self._renderer: Final = renderer

    def plan(self, catalog: Catalog, memory: Memory) -> Plan:
        """Plan alone, with nothing quarantined by a gate."""
        return self._planner.plan(catalog, memory, {})

    def draft(
        self,
        catalog: Catalog,
        memory: Memory,
        refused: Mapping[ServiceName, Quarantine],
        timings: Timings | None = None,
        *,
        judge: Judge = _hold_nothing,
    ) -> Draft:
        """Draft without those that are ``refused``. Takes its time: of thousands of services, seconds at first."""
        timings = timings or Timings()
        with timings.of("plan"):
            plan = self._planner.plan(catalog, memory, refused)
            held = judge(plan, catalog)
            if held is not None:
                catalog = held.catalog
                plan = self._held_planner.plan(catalog, memory, refused)
        with timings.of("render"):
            rendered = self._renderer.render(plan)
            # Kept in the rendering; at thousands of services it takes its time too.
            _ = rendered.digest
        return Draft(plan=plan, rendered=rendered, catalog=catalog, held=held)
