"""Reading many services with few workers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from itertools import pairwise

from proxygen.consul.fetch import Fetcher, Read, Sweep
from proxygen.consul.ledger import Ledger
from proxygen.kit.errors import AccessDenied, ConsulUnreachable
from tests.integration.waiting import until
from tests.model.clock import simulated_time


@asynccontextmanager
async def fetching(read: Read, *, workers: int = 2) -> AsyncIterator[Fetcher]:
    fetcher = Fetcher(read, Ledger(), workers=workers)
    task = asyncio.create_task(fetcher.run())
    try:
        yield fetcher
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_a_service_is_never_read_twice_at_once_and_again_after_a_new_ask() -> None:
    """An older answer can so never overwrite a newer one."""
    running: set[str] = set()
    reads: list[str] = []

    async def read(name: str, urgent: bool) -> bool:
        assert name not in running
        running.add(name)
        reads.append(name)
        await asyncio.sleep(0.05)
        running.discard(name)
        return False

    async with fetching(read, workers=4) as fetcher:
        fetcher.ask(["web"])
        await asyncio.sleep(0.02)
        fetcher.ask(["web", "web"])
        await asyncio.wait_for(fetcher.drained(), 2)
    assert reads == ["web", "web"]


async def test_urgent_reads_come_before_the_sweep() -> None:
    order: list[str] = []

    async def read(name: str, urgent: bool) -> bool:
        order.append(name)
        await asyncio.sleep(0)
        return False

    async with fetching(read, workers=1) as fetcher:
        fetcher.ask(["a", "b", "c"], urgent=False)
        fetcher.ask(["c"])
        await asyncio.wait_for(fetcher.drained(), 2)
    assert order == ["c", "a", "b"]


async def test_a_refused_service_does_not_stand_before_the_rest() -> None:
    """Ten services that Consul does not show cost the others nothing."""
    read_names: set[str] = set()

    async def read(name: str, urgent: bool) -> bool:
        if name.startswith("hidden"):
            raise AccessDenied("hidden")
        read_names.add(name)
        return False

    async with fetching(read, workers=2) as fetcher:
        fetcher.ask([f"hidden{number}" for number in range(10)] + ["web"])
        await asyncio.wait_for(fetcher.drained(), 1)
    assert read_names == {"web"}


async def test_a_failed_read_is_tried_again() -> None:
    failures = iter([ConsulUnreachable("down")] * 3)
    done: list[str] = []

    async def read(name: str, urgent: bool) -> bool:
        for failure in failures:
            raise failure
        done.append(name)
        return False

    async with fetching(read) as fetcher:
        fetcher.ask(["web"])
        await until(lambda: done, "a read that succeeds")
    assert done == ["web"]


async def test_one_that_fails_for_ever_holds_up_no_sweep_over_the_others() -> None:
    """A sweep is over once each was tried; the one that failed is tried again by itself."""
    reads: list[str] = []

    async def read(name: str, urgent: bool) -> bool:
        reads.append(name)
        if name == "broken":
            raise ConsulUnreachable("500")
        return False

    async with fetching(read, workers=1) as fetcher:
        for _ in range(3):
            fetcher.ask(["broken", "web"], urgent=False)
            await asyncio.wait_for(fetcher.drained(), 2)
    assert reads.count("web") == 3


async def test_sweeps_that_find_nothing_become_rarer() -> None:
    """An index that moves without end costs a bounded number of reads."""
    sweeps = 0

    async def read(name: str, urgent: bool) -> bool:
        nonlocal sweeps
        sweeps += 1
        return False

    async with fetching(read) as fetcher:
        sweep = Sweep(fetcher, lambda: ["web"], gap=0.05, longest_gap=0.4, every=60)
        task = asyncio.create_task(sweep.run())
        for _ in range(100):
            sweep.moved()
            await asyncio.sleep(0.01)
        task.cancel()
    assert 3 <= sweeps <= 6


async def test_an_idle_read_that_becomes_urgent_is_read_once_and_an_urgent_one_stays_urgent() -> None:
    reads: list[tuple[str, bool]] = []

    async def read(name: str, urgent: bool) -> bool:
        reads.append((name, urgent))
        return False

    async with fetching(read, workers=1) as fetcher:
        fetcher.ask(["a", "b"], urgent=False)
        fetcher.ask(["b"])
        fetcher.ask(["b"], urgent=False)
        await asyncio.wait_for(fetcher.drained(), 2)
    assert reads == [("b", True), ("a", False)]


async def test_what_is_forgotten_is_not_read_and_no_problem_any_more() -> None:
    reads: list[str] = []
    ledger = Ledger()

    async def read(name: str, urgent: bool) -> bool:
        reads.append(name)
        return False

    fetcher = Fetcher(read, ledger, workers=1)
    fetcher.ask(["gone", "web"])
    fetcher.ask(["idle"], urgent=False)
    ledger.failed("service gone", ConsulUnreachable("down"))
    fetcher.forget("gone")
    fetcher.forget("idle")
    assert ledger.problem is None
    task = asyncio.create_task(fetcher.run())
    await asyncio.wait_for(fetcher.drained(), 2)
    task.cancel()
    await asyncio.wait({task})
    assert reads == ["web"]


async def test_only_what_a_sweep_found_by_itself_is_a_find() -> None:
    async def read(name: str, urgent: bool) -> bool:
        return name != "same"

    async with fetching(read) as fetcher:
        fetcher.ask(["told", "told too"])
        await asyncio.wait_for(fetcher.drained(), 2)
        assert fetcher.found == 0
        fetcher.ask(["found", "same"], urgent=False)
        await asyncio.wait_for(fetcher.drained(), 2)
        assert fetcher.found == 1


def test_a_refused_read_is_tried_again_later_and_a_failed_one_as_an_urgent_one() -> None:
    reads: list[tuple[float, str, bool]] = []
    answers: dict[str, list[Exception]] = {"hidden": [AccessDenied("no")], "away": [ConsulUnreachable("down")]}

    with simulated_time() as loop:
        started = loop.time()

        async def read(name: str, urgent: bool) -> bool:
            reads.append((loop.time() - started, name, urgent))
            if answers[name]:
                raise answers[name].pop()
            return False

        ledger = Ledger()
        fetcher = Fetcher(read, ledger, workers=2, what="node")
        fetcher.ask(["hidden", "away"], urgent=False)
        task = loop.create_task(fetcher.run())
        loop.run_until_complete(asyncio.sleep(10))
        assert [(name, urgent) for _, name, urgent in reads] == [("hidden", False), ("away", False), ("away", True)]
        assert ledger.problem is not None
        assert "node hidden" in ledger.problem
        loop.run_until_complete(asyncio.sleep(10))
        assert (reads[-1][1:], round(reads[-1][0])) == (("hidden", True), 15)
        assert ledger.problem is None
        task.cancel()
        loop.run_until_complete(asyncio.wait({task}))


def sweeps_of(
    moves: Callable[[float], bool], *, takes: float = 0.0, finds: Callable[[float], bool] = lambda time: False
) -> list[float]:
    """When sweeps begin within 60 s, with a gap of 1 s, 5 s at most, and every 40 s."""
    times: list[float] = []
    with simulated_time() as loop:
        started = loop.time()

        async def read(name: str, urgent: bool) -> bool:
            times.append(loop.time() - started)
            await asyncio.sleep(takes)
            return finds(loop.time() - started)

        fetcher = Fetcher(read, Ledger(), workers=1)
        sweep = Sweep(fetcher, lambda: ["web"], gap=1.0, longest_gap=5.0, every=40.0)
        tasks = [loop.create_task(fetcher.run()), loop.create_task(sweep.run())]
        while loop.time() - started < 60:
            if moves(loop.time() - started):
                sweep.moved()
            loop.run_until_complete(asyncio.sleep(0.25))
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.wait(tasks))
    return [round(time, 2) for time in times]


def gaps(times: list[float]) -> list[float]:
    return [round(after - before, 1) for before, after in pairwise(times)]


def test_a_lone_move_is_followed_at_once_and_without_any_there_is_a_sweep_all_the_same() -> None:
    assert sweeps_of(lambda time: time == 10) == [10.0, 52.0], "a gap of two lies between"
    assert sweeps_of(lambda time: False) == [40.0]


def test_moves_without_finds_make_sweeps_rarer_up_to_the_longest_gap() -> None:
    found = gaps(sweeps_of(lambda time: True))
    assert [round(gap) for gap in found[:4]] == [2, 4, 5, 5]
    assert max(found) <= 5.3


def test_a_find_makes_them_frequent_again() -> None:
    found = gaps(sweeps_of(lambda time: True, finds=lambda time: time > 30))
    assert max(found) <= 5.3
    assert [round(gap) for gap in found[-5:]] == [1] * 5


def test_a_sweep_that_takes_long_costs_a_third_of_the_time_at_most() -> None:
    found = gaps(sweeps_of(lambda time: True, takes=6.0))
    assert all(gap >= 9 for gap in found[:1])
    assert found[-1] >= 17.9
