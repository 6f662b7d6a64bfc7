"""Requests through the demo's nginx, counted by the instance that answered."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

import aiohttp

from proxygen.tags.shares import WHOLE, Share

CLIENTS: Final = 8
MAX_REQUESTS: Final = 200_000
"""A bound beside the time: the demo shows a split, it does not measure a machine."""

_ANSWER: Final = 10.0
"""Seconds for one answer."""
_STANDARD_DEVIATIONS: Final = 4
"""A fair split is farther off once in 16,000 runs."""


@dataclass(slots=True)
class Count:
    """Answers by instance, and failures by kind."""

    answers: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def requests(self) -> int:
        """Answered or not."""
        return self.answers.total() + self.failures.total()

    def share(self, instance: str) -> float:
        """The part of all answers that came from an instance, 0 to 1."""
        total = self.answers.total()
        return self.answers[instance] / total if total else 0.0


def is_within_tolerance(count: Count, instance: str, asked: Share) -> bool:
    """Whether the measured share could be the asked one: within four standard deviations of a binomial draw."""
    total = count.answers.total()
    if total == 0:
        return False
    part = asked / WHOLE
    return abs(count.share(instance) - part) <= _STANDARD_DEVIATIONS * math.sqrt(part * (1 - part) / total)


async def send(port: int, host: str, *, seconds: float, requests: int = MAX_REQUESTS) -> Count:
    """Send GET requests until the time is over or so many were sent."""
    count = Count()
    deadline = time.monotonic() + seconds
    left = iter(range(requests))
    # The demo's addresses are this machine's own: no proxy from the environment stands between.
    async with aiohttp.ClientSession(trust_env=False, timeout=aiohttp.ClientTimeout()) as session:

        async def client() -> None:
            while time.monotonic() < deadline and next(left, None) is not None:
                try:
                    async with (
                        # Not aiohttp's total: see `proxygen.consul.client`.
                        asyncio.timeout(_ANSWER),
                        session.get(f"http://127.0.0.1:{port}/", headers={"Host": host}) as answer,
                    ):
                        await answer.read()
                        if answer.status == 200:
                            count.answers[answer.headers.get("X-Instance", "unknown")] += 1
                        else:
                            count.failures[f"status {answer.status}"] += 1
                except (aiohttp.ClientError, TimeoutError) as error:
                    count.failures[type(error).__name__] += 1

        async with asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                group.create_task(client(), name=f"demo client {number + 1}")
    return count
