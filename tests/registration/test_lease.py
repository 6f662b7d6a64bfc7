from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, cast

import pytest

from proxygen.errors import ConsulUnreachable
from proxygen.registration import TcpCheck, TtlCheck
from proxygen.registration.agent import Agent
from proxygen.registration.lease import LOOK, Lease
from proxygen.registration.service import Announcement, Held


class SilentAgent:
    """An agent that takes a registration and never answers it, and remembers what else it is told."""

    address = "nowhere"

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.maintenance: list[bool] = []
        self.deregistered: list[str] = []

    async def look(self, service_id: str) -> Held | None:
        return None

    async def register(self, body: Mapping[str, Any]) -> None:
        self.asked.set()
        await asyncio.Event().wait()

    async def set_maintenance(self, service_id: str, *, enable: bool, reason: str = "") -> None:
        self.maintenance.append(enable)

    async def deregister(self, service_id: str) -> None:
        self.deregistered.append(service_id)


class DeadAgent(SilentAgent):
    async def look(self, service_id: str) -> Held | None:
        raise ConsulUnreachable("nobody there")


def lease_on(agent: SilentAgent, **changes: Any) -> Lease:
    service = Announcement(name="web", port=80, id="web-1", **changes).service("10.0.0.7")
    return Lease(service, cast("Agent", agent))


async def test_what_may_have_been_written_is_withdrawn_and_removed() -> None:
    """A registration whose answer never came may be in Consul, and in a proxy."""
    agent = SilentAgent()
    lease = lease_on(agent)
    keeper = asyncio.create_task(lease.keep())
    await agent.asked.wait()
    keeper.cancel()
    await asyncio.wait({keeper})
    assert not lease.registered
    assert await lease.withdraw()
    await lease.deregister()
    assert (agent.maintenance, agent.deregistered) == ([True], ["web-1"])


async def test_what_was_never_written_needs_no_farewell() -> None:
    agent = DeadAgent()
    lease = lease_on(agent)
    keeper = asyncio.create_task(lease.keep())
    await lease.attempted.wait()
    keeper.cancel()
    await asyncio.wait({keeper})
    assert not await lease.withdraw()
    await lease.deregister()
    assert (agent.maintenance, agent.deregistered) == ([], [])


@pytest.mark.parametrize(
    ("ttls", "rhythm"), [([], LOOK), ([15], 5), ([6, 15], 2), ([300], LOOK)], ids=lambda value: str(value)
)
async def test_the_rhythm_is_a_third_of_the_shortest_ttl_and_never_slow(ttls: list[float], rhythm: float) -> None:
    lease = lease_on(SilentAgent(), check=[TcpCheck(), *map(TtlCheck, ttls)])
    assert lease.rhythm == rhythm
