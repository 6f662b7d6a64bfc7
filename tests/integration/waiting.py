"""Waiting for what a sidecar comes to do, and load that must not notice it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from tests.harness.consul import ConsulAgent
from tests.harness.load import Load, Tally, fetch
from tests.harness.process import PATIENCE, wait_until
from tests.harness.sidecar import Sidecar

HOST = "web.example.com"
ROUTE = f"proxygen.route={HOST}"

_IN_A_ROW = 20
"""Where an old and a new worker share the connections, one in a million such rows is of one of them alone."""


async def until(condition: Callable[[], object], what: str, *, timeout: float = PATIENCE) -> None:  # noqa: ASYNC109
    """Wait without blocking the loop, in which the load runs."""
    await asyncio.to_thread(wait_until, condition, what=what, timeout=timeout)


async def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call what blocks beside the loop, in which the load runs."""
    return await asyncio.to_thread(function, *args, **kwargs)


async def answers(sidecar: Sidecar, host: str = HOST, status: int = 200, path: str = "/", *, by: str = "") -> None:
    """Wait until requests for the host are answered with the status, and one by the instance where one is named.

    During a reload old workers answer for a moment beside the new ones, so the status must be seen many times in a row.
    """
    answer: object = None
    in_a_row, by_it = 0, not by
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            answer = await fetch("127.0.0.1", sidecar.http, path, {"Host": host})
        except (OSError, EOFError) as error:
            answer = error
        if isinstance(answer, tuple) and answer[0] == status:
            in_a_row += 1
            by_it = by_it or answer[1] == by
        else:
            in_a_row, by_it = 0, not by
        if by_it and in_a_row >= _IN_A_ROW:
            return
        await asyncio.sleep(0.005 if 0 < in_a_row < _IN_A_ROW else 0.05)
    raise AssertionError(f"{host}{path} answered {answer}, not {status} {by}\n{sidecar.tail()}")


async def served_after(consul: ConsulAgent, sidecar: Sidecar, port: int, name: str) -> float:
    """Register a newcomer, and return how many seconds it took until it was served."""
    begin = time.monotonic()
    await call(consul.register, name, port=port, tags=[f"proxygen.route={name}.test"])
    await answers(sidecar, f"{name}.test")
    return time.monotonic() - begin


async def status_of(sidecar: Sidecar, host: str = HOST, path: str = "/") -> int:
    """What a request for the host is answered with now."""
    return (await fetch("127.0.0.1", sidecar.http, path, {"Host": host}))[0]


def said(sidecar: Sidecar, event: str) -> list[dict[str, Any]]:
    """The log's lines of one event."""
    return [line for line in sidecar.events() if line.get("event") == event]


async def outcome(sidecar: Sidecar, event: str, *, after: int = 0) -> dict[str, Any]:
    """Wait for one more line of an event than there were, and return the newest."""
    await until(lambda: len(said(sidecar, event)) > after, f"{event!r}\n{sidecar.tail()}")
    return said(sidecar, event)[-1]


@asynccontextmanager
async def steady_load(sidecar: Sidecar, host: str = HOST) -> AsyncIterator[Tally]:
    """Send requests, each on a new connection, while the block runs; none of them may fail."""
    load = Load("127.0.0.1", sidecar.http, headers={"Host": host}, clients=2, pause=0.01)
    task = asyncio.create_task(load.send(100_000))
    # A stop before the first request would be overruled by the start.
    await until(lambda: load.tally.total, "the load's first request")
    try:
        yield load.tally
    finally:
        load.stop()
        await task
    assert load.tally.ok > 0
    assert not load.tally.failures, load.tally.failures
