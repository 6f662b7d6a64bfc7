"""One slot, pace, back-off and eternal tasks."""

from __future__ import annotations

import asyncio
import time

import pytest

from proxygen.kit.aio import Alarm, Latest, Pace, retrying, start_eternal
from tests.model.clock import simulated_time


async def test_a_reader_gets_the_newest_value_and_each_at_most_once() -> None:
    """Writers overwrite; what was overwritten before it was taken is never seen."""
    slot: Latest[int] = Latest()
    assert slot.peek() is None
    slot.put(1)
    slot.put(2)
    assert await slot.take() == 2
    assert slot.peek() == 2
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(slot.take(), 0.05)
    slot.put(2)
    assert await slot.take() == 2


async def test_what_was_taken_is_as_old_as_the_first_value_that_it_stands_for() -> None:
    slot: Latest[str] = Latest()
    before = time.monotonic()
    slot.put("a")
    after = time.monotonic()
    slot.put("b")
    assert await slot.take() == "b"
    first = slot.taken_since
    assert before <= first <= after
    slot.put("c")
    assert slot.taken_since == first
    assert await slot.take() == "c"
    assert slot.taken_since >= after


def test_what_was_taken_stays_the_newest_or_does_not() -> None:
    with simulated_time() as loop:

        async def story() -> None:
            slot: Latest[str] = Latest()
            slot.put("a")
            assert await slot.take() == "a"
            began = loop.time()
            assert await slot.stays(5) is True
            assert loop.time() - began == 5
            # It is as old as it is, however late one asks.
            assert await slot.stays(5) is True
            loop.call_later(2, slot.put, "b")
            assert await slot.stays(60) is False
            assert loop.time() - began == 7
            assert await slot.stays(60) is False
            assert await slot.take() == "b"

        loop.run_until_complete(story())


def test_an_alarm_rings_once_at_the_time_that_was_set_last() -> None:
    rung: list[float] = []
    with simulated_time() as loop:

        async def story() -> None:
            alarm = Alarm(lambda: rung.append(loop.time()))
            began = loop.time()
            alarm.set(10)
            alarm.set(50)
            await asyncio.sleep(100)
            assert rung == [began + 50]
            alarm.set(10)
            alarm.set(None)
            await asyncio.sleep(100)

        loop.run_until_complete(story())
    assert len(rung) == 1


async def test_a_cancelled_take_loses_nothing() -> None:
    slot: Latest[int] = Latest()
    task = asyncio.create_task(slot.settled(10, 10))
    slot.put(1)
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await slot.take() == 1


async def test_settled_waits_for_company() -> None:
    """What comes within the settle time is taken together."""
    slot: Latest[int] = Latest()
    slot.put(1)
    task = asyncio.create_task(slot.settled(0.1, 5.0))
    await asyncio.sleep(0.05)
    slot.put(2)
    await asyncio.sleep(0.07)
    assert not task.done()
    assert await task == 2


async def test_a_flood_puts_it_off_for_the_longest_time_and_no_more() -> None:
    slot: Latest[int] = Latest()
    started = time.monotonic()
    slot.put(0)
    task = asyncio.create_task(slot.settled(0.1, 0.3))
    number = 0
    while not task.done():
        number += 1
        slot.put(number)
        await asyncio.sleep(0.01)
    assert 0.3 <= time.monotonic() - started < 0.6
    assert task.result() >= number - 2


async def test_what_settled_while_nobody_waited_is_taken_at_once() -> None:
    slot: Latest[int] = Latest()
    slot.put(1)
    await asyncio.sleep(0.1)
    started = time.monotonic()
    await slot.settled(0.1, 1.0)
    assert time.monotonic() - started < 0.05


async def test_pace_lets_a_burst_through_and_then_drips() -> None:
    pace = Pace(burst=3, rate=20)
    started = time.monotonic()
    for _ in range(3):
        await pace.step()
    assert time.monotonic() - started < 0.04
    for _ in range(4):
        await pace.step()
    assert time.monotonic() - started >= 0.19


async def test_retrying_has_no_limit_on_tries_and_keeps_to_the_longest_pause() -> None:
    """40 failures would need years with doubling pauses alone."""
    pauses: list[float] = []
    failures = iter([OSError()] * 40)

    async def attempt() -> str:
        for failure in failures:
            raise failure
        return "done"

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    assert await retrying(OSError, longest=30.0, sleep=sleep)(attempt) == "done"
    assert len(pauses) == 40
    assert max(pauses) <= 30.0
    assert len({round(pause, 6) for pause in pauses}) > 30, "no jitter"


async def test_retrying_stays_away_as_long_as_it_is_told() -> None:
    pauses: list[float] = []
    failures = iter([OSError()] * 5)

    async def attempt() -> None:
        for failure in failures:
            raise failure

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    await retrying(OSError, longest=1.0, at_least=lambda error: 7.0, sleep=sleep)(attempt)
    assert pauses == [7.0] * 5


async def test_retrying_passes_other_errors_on() -> None:
    async def attempt() -> None:
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        await retrying(OSError, longest=1.0)(attempt)


async def test_an_eternal_task_that_returns_ends_its_group() -> None:
    async def short() -> None:
        return

    with pytest.RaisesGroup(RuntimeError):
        async with asyncio.TaskGroup() as group:
            start_eternal(group, short(), name="watch of nothing")
            start_eternal(group, asyncio.sleep(60), name="bystander")


async def test_an_eternal_task_that_is_cancelled_leaves_its_group_alone() -> None:
    async with asyncio.TaskGroup() as group:
        task = start_eternal(group, asyncio.sleep(60), name="watch")
        await asyncio.sleep(0)
        task.cancel()
    assert task.get_name() == "watch"
