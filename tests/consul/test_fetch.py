"""Reading many services with few workers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from proxygen.consul.fetch import Fetcher, Read, Sweep
from proxygen.consul.ledger import Ledger
from proxygen.errors import AccessDenied, ConsulUnreachable


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
        await asyncio.wait_for(fetcher.drained(), 10)
    assert done == ["web"]


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
