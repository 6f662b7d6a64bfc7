"""What one pass of the loop came to: for the log, and for whoever asks."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from proxygen.kit.log import get_logger
from proxygen.kit.timings import Timings
from proxygen.proxy.apply.apply import Applied, Outcome

_log = get_logger("proxygen.proxy.loop")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One pass of the loop: what it decided and how long each stage took."""

    outcome: Outcome
    generation: int | None
    reason: str
    at: datetime
    durations: Mapping[str, float]
    propagation: float | None = None
    """Seconds from the change in Consul until nginx was proven to serve it; None where nothing went live."""
    refused: int | None = None
    """The generation that nginx did not take, where it was rolled back."""

    @property
    def failed(self) -> bool:
        return self.outcome in (Outcome.REJECTED, Outcome.ROLLED_BACK)


def conclude(applied: Applied, timings: Timings, *, changed_at: float | None = None) -> Step:
    """Make the step of a pass that just ended; ``changed_at`` is the monotonic time of the change behind it."""
    return Step(
        outcome=applied.outcome,
        generation=applied.generation,
        reason=full_reason(applied),
        at=datetime.now(UTC),
        durations={**timings.seconds, **applied.durations},
        propagation=_age(changed_at) if applied.outcome is Outcome.APPLIED else None,
        refused=applied.refused,
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
            _log.info("generation applied", generation=step.generation, seconds=seconds)
        case Outcome.UNCHANGED:
            _log.debug("nothing to change", **facts)
        case Outcome.HELD:
            _log.warning("plan held", **facts)
        case Outcome.REJECTED:
            _log.error("candidate rejected", **facts)
        case Outcome.ROLLED_BACK:
            _log.error("reload rolled back", **facts)
