"""Many hosts at once on a real Consul, as one process simulates them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Final

from proxygen.consul.client import ConsulClient
from proxygen.network.lease import SubnetLease
from proxygen.network.memory import AgentMemory
from proxygen.network.records import Attributes
from proxygen.network.session import Terms
from proxygen.network.store import NetworkStore, create_network
from proxygen.settings import ConsulSettings
from tests.harness.consul import ConsulAgent
from tests.harness.relay import Relay

_FIRST_ADDRESS: Final = IPv4Address("198.18.0.1")
"""Of the network for benchmarks (RFC 2544); nothing is ever sent there."""
_SOCKETS: Final = 75
"""Of each of two clients: an agent takes 200 connections from one address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """What came of it."""

    subnets: tuple[IPv4Network, ...]
    """By the hosts' numbers."""
    requests: int
    """That all hosts made until the last of them held a subnet."""
    seconds: float
    """Until then."""


@asynccontextmanager
async def clients(consul: ConsulAgent | Relay, count: int) -> AsyncIterator[tuple[ConsulClient, ...]]:
    """Open so many clients of an agent, or of a way to it, without a token."""
    settings = ConsulSettings(address=consul.address, max_connections=_SOCKETS)
    async with AsyncExitStack() as stack:
        opened = tuple(ConsulClient(settings) for _ in range(count))
        for client in opened:
            stack.push_async_callback(client.close)
        yield opened


def make_lease(client: ConsulClient, host_id: str, directory: Path, *, terms: Terms, number: int = 0) -> SubnetLease:
    """Return the lease of a host, whose memory is a file in the directory."""
    store = NetworkStore(client, deadline=terms.deadline)
    attributes = Attributes(node=host_id, public_ip=_FIRST_ADDRESS + number if number else None, backend_type="host-gw")
    return SubnetLease(store, host_id, attributes, memory=AgentMemory(directory / host_id, boot="1"), terms=terms)


async def lease_at_once(consul: ConsulAgent, hosts: int, config: str, directory: Path, *, terms: Terms) -> Crowd:
    """Create the network and let all hosts ask at the same moment. Return once every one holds a subnet."""
    async with clients(consul, 2) as opened:
        await create_network(NetworkStore(opened[0], deadline=terms.deadline), config)
        leases = [
            make_lease(opened[number % 2], f"host-{number:04}", directory, terms=terms, number=number)
            for number in range(1, hosts + 1)
        ]
        before = sum(client.statistics.requests for client in opened)
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            keeping = [group.create_task(lease.keep()) for lease in leases]
            subnets = await asyncio.gather(*(lease.held() for lease in leases))
            seconds = time.monotonic() - began
            requests = sum(client.statistics.requests for client in opened) - before
            for task in keeping:
                task.cancel()
    return Crowd(subnets=tuple(subnets), requests=requests, seconds=seconds)
