"""The plan against the live one: what is suspicious is held."""

from __future__ import annotations

from dataclasses import dataclass

from proxygen.plan.types import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A whole plan kept back, with the reason an operator reads."""

    plan: Plan
    reason: str


def guard(plan: Plan, *, pinned: int | None) -> Plan | Held:
    """Hold every plan while the operator keeps nginx at an older generation (``proxygen rollback``)."""
    if pinned is not None:
        return Held(
            plan=plan,
            reason=f"the operator went back to generation {pinned}; `proxygen release-hold` lets new plans through",
        )
    return plan
