"""What one pass of the loop came to: for the log, and for whoever asks."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec

from proxygen.kit.log import get_logger
from proxygen.kit.timings import Timings
from proxygen.proxy.apply.apply import Applied
from proxygen.proxy.apply.outcome import FAILED, Outcome, WayToNginx

_log = get_logger("proxygen.proxy.loop")


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What one pass came to: for the loop, the journal, and who asks."""

    at: str
    """ISO 8601, UTC."""
    outcome: Outcome
    generation: int | None = None
    """The one that was live after it."""
    by: WayToNginx = WayToNginx.RELOAD
    """How what is applied reached nginx."""
    refused: int | None = None
    """The one that nginx did not take, where it was rolled back."""
    reason: str = ""
    cause: str = ""
    """What was different from what was live before; "" where nobody looked yet."""
    durations: Mapping[str, float] = {}
    """Seconds by stage."""
    propagation: float | None = None
    """Seconds from the change in Consul until nginx was proven to serve it; None where nothing went live."""

    @property
    def failed(self) -> bool:
        return self.outcome in FAILED

    def repeats(self, other: Step) -> bool:
        """Whether it says nothing that ``other`` did not: what fails is tried again and again."""
        mine, its = ((step.outcome, step.reason, step.cause) for step in (self, other))
        return self.outcome is not Outcome.APPLIED and mine == its


def conclude(applied: Applied, timings: Timings, *, changed_at: float | None = None) -> Step:
    """Make the step of a pass that just ended; ``changed_at`` is the monotonic time of the change behind it."""
    return Step(
        outcome=applied.outcome,
        generation=applied.generation,
        reason=full_reason(applied),
        at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        durations={**timings.seconds, **applied.durations},
        propagation=_age(changed_at) if applied.outcome is Outcome.APPLIED else None,
        refused=applied.refused,
        by=applied.by,
    )


def _age(moment: float | None) -> float | None:
    return None if moment is None else time.monotonic() - moment


def full_reason(applied: Applied) -> str:
    """The reason, with what nginx wrote to its error log."""
    return " | ".join((applied.reason, *applied.log))


def tell(step: Step) -> None:
    """Write the one line that a pass leaves in the log."""
    facts = {"generation": step.generation, "reason": step.reason or None}
    match step.outcome:
        case Outcome.APPLIED:
            seconds = {name: round(value, 4) for name, value in step.durations.items()}
            _log.info("generation applied", generation=step.generation, by=step.by.value, seconds=seconds)
        case Outcome.UNCHANGED:
            _log.debug("nothing to change", **facts)
        case Outcome.HELD:
            _log.warning("plan held", **facts)
        case Outcome.REJECTED:
            _log.error("candidate rejected", **facts)
        case Outcome.ROLLED_BACK if step.by is WayToNginx.PUSH:
            _log.error("push rolled back", **facts)
        case Outcome.ROLLED_BACK:
            _log.error("reload rolled back", **facts)
