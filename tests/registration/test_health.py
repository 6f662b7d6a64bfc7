from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from proxygen.catalog import Health
from proxygen.registration.health import ALIVE, HealthProbe


async def ask(call: Any, deadline: float = 10.0) -> Any:
    return await HealthProbe(call, deadline=deadline).ask()


@pytest.mark.parametrize(
    ("verdict", "status"),
    [
        (True, "passing"),
        (None, "passing"),
        ("passing", "passing"),
        (Health.PASSING, "passing"),
        (Health.WARNING, "warning"),
        ("warning", "warning"),
        (False, "critical"),
        (Health.CRITICAL, "critical"),
        (Health.MAINTENANCE, "critical"),
        ("fine", "critical"),
        (1, "critical"),
    ],
)
async def test_a_verdict_is_a_status_of_consuls(verdict: Any, status: str) -> None:
    async def asynchronous() -> Any:
        return verdict

    assert (await ask(lambda: verdict)).status == status
    assert (await ask(asynchronous)).status == status
    assert (await ask(lambda: asynchronous())).status == status


async def test_each_question_is_answered_anew() -> None:
    verdicts = iter([True, False, "warning", True])
    probe = HealthProbe(lambda: next(verdicts), deadline=10)
    assert [(await probe.ask()).status for _ in range(4)] == ["passing", "critical", "warning", "passing"]


async def test_what_is_well_always_carries_the_same_note() -> None:
    """A changed note reaches Consul's servers and wakes every watcher."""
    assert await ask(lambda: True) == await ask(lambda: "passing") == ALIVE


async def test_an_exception_is_critical_with_its_words() -> None:
    report = await ask(lambda: 1 / 0)
    assert (report.status, report.note) == ("critical", "ZeroDivisionError: division by zero")


async def test_a_callable_that_hangs_is_critical_and_is_not_asked_twice() -> None:
    calls: list[int] = []
    freed = threading.Event()

    def hang() -> bool:
        calls.append(1)
        return freed.wait(60)

    probe = HealthProbe(hang, deadline=0.05)
    assert (await probe.ask()).status == "critical"
    assert (await probe.ask()).status == "critical"
    assert len(calls) == 1
    freed.set()
    recovered = HealthProbe(lambda: True, deadline=10)
    assert await recovered.ask() == ALIVE


async def test_a_callable_that_answers_late_counts_when_it_has() -> None:
    may_answer = asyncio.Event()

    async def slow() -> bool:
        await may_answer.wait()
        return True

    probe = HealthProbe(slow, deadline=0.05)
    assert (await probe.ask()).status == "critical"
    may_answer.set()
    assert await probe.ask() == ALIVE


def test_a_callable_that_hangs_does_not_keep_the_loop_from_ending() -> None:
    forever = threading.Event()

    async def main() -> None:
        await HealthProbe(forever.wait, deadline=0.05).ask()

    asyncio.run(main())
    forever.set()
