"""What a pass came to, as it is told."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest
from structlog.testing import capture_logs

from proxygen.kit.timings import Timings
from proxygen.proxy.apply.apply import Applied
from proxygen.proxy.apply.outcome import Outcome
from proxygen.proxy.record.steps import conclude, full_reason, tell

FAILED = Applied(
    outcome=Outcome.ROLLED_BACK, generation=4, refused=5, reason="no proof", log=("[emerg] one", "[alert] two")
)


def test_a_step_tells_all_of_its_pass() -> None:
    timings = Timings()
    with timings.of("plan"):
        pass
    timings.seconds["test"] = 0.25
    before = datetime.now(UTC)
    step = conclude(Applied(**{**_fields(FAILED), "durations": {"prove": 0.5}}), timings, changed_at=7.0)
    assert (step.outcome, step.generation, step.refused) == (Outcome.ROLLED_BACK, 4, 5)
    assert step.reason == "no proof | [emerg] one | [alert] two"
    assert before - timedelta(milliseconds=1) <= datetime.fromisoformat(step.at) <= datetime.now(UTC)
    assert set(step.durations) == {"plan", "test", "prove"}
    assert (step.durations["test"], step.durations["prove"]) == (0.25, 0.5)


def _fields(applied: Applied) -> dict[str, object]:
    return {name: getattr(applied, name) for name in ("outcome", "generation", "refused", "reason", "log")}


@pytest.mark.parametrize("outcome", list(Outcome))
def test_only_what_went_live_has_an_age(outcome: Outcome) -> None:
    applied = Applied(outcome=outcome, generation=1)
    found = conclude(applied, Timings(), changed_at=time.monotonic() - 3).propagation
    assert (found is not None) is (outcome is Outcome.APPLIED)
    if found is not None:
        assert 3 <= found < 4
    assert conclude(applied, Timings()).propagation is None


@pytest.mark.parametrize(
    ("outcome", "event", "level", "failed"),
    [
        (Outcome.APPLIED, "generation applied", "info", False),
        (Outcome.UNCHANGED, "nothing to change", "debug", False),
        (Outcome.HELD, "plan held", "warning", False),
        (Outcome.REJECTED, "candidate rejected", "error", True),
        (Outcome.ROLLED_BACK, "reload rolled back", "error", True),
    ],
)
def test_each_outcome_is_one_line_of_its_weight(outcome: Outcome, event: str, level: str, failed: bool) -> None:
    applied = Applied(outcome=outcome, generation=4, reason="why", durations={"prove": 0.123456})
    step = conclude(applied, Timings())
    assert (step.failed, applied.failed) == (failed, failed)
    with capture_logs() as log:
        tell(step)
    (line,) = log
    assert (line["event"], line["log_level"], line["generation"]) == (event, level, 4)
    if outcome is Outcome.APPLIED:
        assert line["seconds"] == {"prove": 0.1235}
    else:
        assert line["reason"] == "why"


def test_without_a_word_of_nginx_the_reason_stands_alone() -> None:
    assert full_reason(Applied(outcome=Outcome.HELD, generation=1, reason="why")) == "why"
    with capture_logs() as log:
        tell(conclude(Applied(outcome=Outcome.HELD, generation=1), Timings()))
    assert log[0]["reason"] is None


def test_seconds_of_a_stage_that_is_gone_through_twice_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter((10.0, 12.0, 20.0, 23.0))
    monkeypatch.setattr("time.monotonic", lambda: next(ticks))
    timings = Timings()
    for _ in range(2):
        with pytest.raises(KeyError), timings.of("plan"):
            raise KeyError
    assert timings.seconds == {"plan": 5.0}
