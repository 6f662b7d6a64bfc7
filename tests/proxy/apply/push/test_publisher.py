"""The files follow what was pushed: the newest of it, in time, and for as long as it takes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from proxygen.kit.errors import OutputUnusable
from proxygen.proxy.apply.push.publisher import Publisher
from tests.model.clock import simulated_time

WITHIN = 1.0
LONGEST = 8.0


class Desk:
    """Publishes numbers in simulated time, each in a tenth of a second."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.begun = loop.time()
        self.published: list[int] = []
        self.tried_at: list[float] = []
        self.trouble: Exception | None = None
        self.at_work: Callable[[], None] = lambda: None
        self.publisher = Publisher(self._publish, within=WITHIN, longest_pause=LONGEST)

    async def _publish(self, number: int) -> None:
        self.tried_at.append(self.loop.time() - self.begun)
        self.at_work()
        await asyncio.sleep(0.1)
        if self.trouble is not None:
            raise self.trouble
        self.published.append(number)

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    def put(self, *numbers: int) -> None:
        async def put() -> None:
            for number in numbers:
                self.publisher.put(number)

        self.do(put())

    def wait(self, seconds: float) -> None:
        self.do(asyncio.sleep(seconds))


@pytest.fixture
def desk() -> Iterator[Desk]:
    with simulated_time() as loop:
        yield Desk(loop)


def test_the_newest_is_published_in_time_and_nothing_before_it(desk: Desk) -> None:
    desk.put(1, 2)
    desk.wait(0.2)
    desk.put(3)
    assert (desk.published, desk.publisher.is_behind) == ([], True)
    desk.wait(WITHIN - 0.2)
    assert (desk.published, desk.publisher.is_behind) == ([3], False)


def test_what_is_pushed_while_another_is_published_is_published_next(desk: Desk) -> None:
    desk.put(1)
    desk.wait(0.55)
    desk.put(2)
    desk.wait(WITHIN)
    assert desk.published == [1, 2]


def test_flush_publishes_at_once(desk: Desk) -> None:
    desk.put(1)
    assert desk.do(desk.publisher.flush()) is True
    assert desk.published == [1]
    assert desk.loop.time() - desk.begun < 0.2
    assert desk.do(desk.publisher.flush()) is True


def test_flush_publishes_what_was_pushed_while_another_is_published_too(desk: Desk) -> None:
    desk.put(1)
    desk.wait(0.55)
    desk.put(2)
    desk.do(desk.publisher.flush())
    assert desk.published == [1, 2]


def test_a_flush_that_fails_says_so_and_gives_up(desk: Desk) -> None:
    desk.put(1)
    desk.trouble = OutputUnusable("the disk is full")
    assert desk.do(desk.publisher.flush()) is False
    assert not desk.publisher.is_behind
    desk.trouble = None
    desk.wait(100)
    assert desk.published == []
    desk.put(2)
    desk.wait(WITHIN)
    assert desk.published == [2]


def test_stop_publishes_nothing_that_waits(desk: Desk) -> None:
    desk.put(1)
    desk.do(desk.publisher.stop())
    desk.wait(100)
    assert (desk.published, desk.publisher.is_behind) == ([], False)


def test_stop_waits_for_what_is_being_published(desk: Desk) -> None:
    """A thread that moves files into place cannot be stopped half-way."""
    desk.put(1)
    desk.wait(0.55)
    desk.put(2)
    desk.do(desk.publisher.stop())
    assert desk.published == [1]
    desk.wait(100)
    assert desk.published == [1]


def test_who_is_cancelled_while_he_waits_cuts_nothing_short(desk: Desk) -> None:
    desk.put(1)

    async def flush_and_be_cancelled() -> None:
        waiting = asyncio.create_task(desk.publisher.flush())
        await asyncio.sleep(0.01)
        waiting.cancel()

    desk.do(flush_and_be_cancelled())
    desk.wait(WITHIN)
    assert desk.published == [1]


def test_what_publishing_finds_out_may_have_the_rest_forgotten(desk: Desk) -> None:
    desk.put(1)

    def forget() -> None:
        desk.publisher.put(2)
        desk.publisher.forget()

    desk.at_work = forget
    desk.wait(100)
    assert (desk.published, desk.publisher.is_behind) == ([1], False)


@pytest.mark.parametrize(
    "trouble", [OutputUnusable("full"), OSError(5, "broken"), RuntimeError("a thing unthought of")]
)
def test_a_failure_is_repeated_with_growing_pauses_and_the_newest_wins(desk: Desk, trouble: Exception) -> None:
    desk.put(1)
    desk.trouble = trouble
    desk.wait(10)
    assert desk.tried_at[:4] == pytest.approx([0.5, 1.6, 3.7, 7.8])
    desk.put(2)
    desk.trouble = None
    desk.wait(LONGEST)
    assert (desk.published, desk.publisher.is_behind) == ([2], False)


def test_a_trouble_that_lasts_for_days_is_outlived(desk: Desk) -> None:
    desk.put(1)
    desk.trouble = OutputUnusable("the disk is full")
    desk.wait(1_200 * LONGEST)
    desk.trouble = None
    desk.wait(2 * LONGEST)
    assert desk.published == [1]
