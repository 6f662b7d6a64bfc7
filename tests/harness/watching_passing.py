"""A watcher of one service: each moment in which the agent knew no passing instance, and each request that failed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.harness.consul import ConsulAgent
from tests.harness.load import fetch

_LOOK = 0.003
_REQUEST = 0.01


@dataclass(slots=True, kw_only=True)
class Seen:
    """What was seen so far."""

    looks: int = 0
    is_passing: bool = False
    """Whether there was a passing instance at all."""
    empty: list[float] = field(default_factory=list)
    """When nobody was passing, in the loop's seconds."""
    requests: int = 0
    failures: list[str] = field(default_factory=list)
    targets: list[tuple[str, int]] = field(default_factory=list)

    def require_no_gap(self) -> None:
        assert self.is_passing
        assert self.requests > 0
        assert not self.empty, f"nobody passing for {self.empty[-1] - self.empty[0]:.3f}s, {len(self.empty)} looks"
        assert not self.failures, self.failures[:5]


@asynccontextmanager
async def watching_passing(consul: ConsulAgent, name: str) -> AsyncIterator[Seen]:
    """Poll the agent for passing instances and send requests to them, while the block runs."""
    seen = Seen()
    tasks = [
        asyncio.create_task(_look(consul, name, seen), name="looks for passing instances"),
        asyncio.create_task(_ask(seen), name="requests to passing instances"),
    ]
    try:
        yield seen
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.result()


async def _look(consul: ConsulAgent, name: str, seen: Seen) -> None:
    while True:
        instances = await _passing(consul, name)
        seen.looks += 1
        seen.targets = [(one["Service"]["Address"], one["Service"]["Port"]) for one in instances]
        # An agent syncs a check's status to the servers a moment after it has it: count from the first one on.
        seen.is_passing = seen.is_passing or bool(seen.targets)
        if seen.is_passing and not seen.targets:
            seen.empty.append(asyncio.get_running_loop().time())
        await asyncio.sleep(_LOOK)


async def _ask(seen: Seen) -> None:
    while True:
        for host, port in tuple(seen.targets):
            seen.requests += 1
            try:
                async with asyncio.timeout(10):
                    status, _ = await fetch(host, port)
            except (OSError, EOFError, ValueError) as error:
                seen.failures.append(f"{host}:{port} {type(error).__name__}")
            else:
                if status != 200:
                    seen.failures.append(f"{host}:{port} status {status}")
        await asyncio.sleep(_REQUEST)


async def _passing(consul: ConsulAgent, name: str) -> list[dict[str, Any]]:
    host, _, port = consul.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET /v1/health/service/{name}?passing HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    found: list[dict[str, Any]] = json.loads(answer.partition(b"\r\n\r\n")[2])
    return found
