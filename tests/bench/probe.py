"""When a change is felt: the time from a write in Consul to what a client of nginx is answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from tests.bench.contenders import Contender
from tests.bench.fleet import host_of
from tests.harness.load import fetch

PAUSE: Final = 0.0025
PATIENCE: Final = 300.0
_GONE_REQUESTS: Final = 40
_GONE_SECONDS: Final = 0.4
"""Old workers still answer beside the new ones for 0.1 s and more; only a long silence means that it is over."""


async def until_answered_by(contender: Contender, service: str, name: str, since: float) -> float:
    """Return the seconds from ``since`` to the first request that the instance answered."""
    while True:
        if await ask(contender, service) == name:
            return time.perf_counter() - since
        _give_up(contender, f"{service} is not answered by {name}", since)
        await asyncio.sleep(PAUSE)


async def until_not_answered_by(contender: Contender, service: str, name: str, since: float) -> float:
    """Return the seconds from ``since`` to the last request that the instance answered; `PAUSE` where none came to
    it any more: that is no less than probes can tell."""
    last, others = since, 0
    while others < _GONE_REQUESTS or time.perf_counter() - last < _GONE_SECONDS:
        others += 1
        if await ask(contender, service) == name:
            last, others = time.perf_counter(), 0
        _give_up(contender, f"{service} is still answered by {name}", since)
        await asyncio.sleep(PAUSE)
    return max(last - since, PAUSE)


async def until_served(contender: Contender, services: tuple[str, ...], since: float) -> float:
    """Return the seconds from ``since`` to the first good answer for the last of the services."""
    for service in services:
        while not await ask(contender, service):
            _give_up(contender, f"{service} is not served", since)
            await asyncio.sleep(PAUSE)
    return time.perf_counter() - since


async def ask(contender: Contender, service: str) -> str:
    """Return the name of the instance that answered; "" for any other answer or none."""
    try:
        status, instance = await fetch("127.0.0.1", contender.http, headers={"Host": host_of(service)})
    except (OSError, EOFError):
        return ""
    return instance if status == 200 else ""


def _give_up(contender: Contender, what: str, since: float) -> None:
    if time.perf_counter() - since > PATIENCE:
        raise TimeoutError(f"{contender.name}: {what} after {PATIENCE:.0f} s\n{contender.log()}")


async def write(change: Callable[..., None], *arguments: str) -> float:
    """Make a change in Consul without keeping the probes waiting; return when it began."""
    begun = time.perf_counter()
    await asyncio.to_thread(change, *arguments)
    return begun
