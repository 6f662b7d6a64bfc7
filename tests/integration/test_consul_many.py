"""A thousand services of three instances at a real agent's default limit of 200 connections per client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from proxygen.catalog import Catalog, Health, ServiceName
from proxygen.settings import ConsulSettings
from tests.bench.watching import Writer, churning, connections, fill
from tests.consul.watching import Watching, health, ids, watching
from tests.harness.consul import ConsulAgent
from tests.harness.tools import Consul

pytestmark = [pytest.mark.slow]

SERVICES = 1000


@pytest.fixture(scope="module")
def crowded(which_consul: Consul, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsulAgent]:
    agent = ConsulAgent(tmp_path_factory.mktemp("crowded"))
    agent.start()
    fill(Writer(agent, nodes=100), SERVICES)
    yield agent
    agent.stop()


async def complete(one: Watching) -> None:
    await one.until(lambda catalog: len(catalog.services) >= SERVICES, within=60.0)
    await asyncio.sleep(1)


@pytest.mark.incident("T11")
@pytest.mark.timeout(600)
async def test_1000_services_with_at_most_64_connections_and_no_refusal(crowded: ConsulAgent) -> None:
    """T11: every kind of change arrives, connections of the past that Consul has not closed yet counted too."""
    writer = Writer(crowded, nodes=100)
    async with watching(ConsulSettings(address=crowded.address)) as one:
        await complete(one)
        most = 0

        async def seen(write: Callable[..., Any], condition: Callable[[Catalog], bool], *args: Any, **kw: Any) -> None:
            nonlocal most
            await asyncio.to_thread(write, *args, **kw)
            await one.until(condition)
            most = max(most, connections(crowded))

        def first(catalog: Catalog, name: str) -> Any:
            return catalog.services[ServiceName(name)][0]

        service = "service-0123"
        await seen(writer.set_health, lambda c: Health.CRITICAL in health(c, service), service, 0, status="critical")
        for number in range(200, 240):
            name = f"service-{number:04d}"
            await seen(writer.register, lambda c, name=name: len(ids(c, name)) == 4, name, 3, status=None)
        service = "service-0300"
        await seen(writer.register, lambda c: first(c, service).port == 9999, service, 0, port=9999)
        await seen(writer.register, lambda c: first(c, service).weight_passing == 7, service, 0, weight=7)
        meta = {"proxygen-weight": "3"}
        await seen(writer.register, lambda c: first(c, service).meta == tuple(meta.items()), service, 0, meta=meta)
        await seen(writer.deregister, lambda c: len(ids(c, service)) == 2, service, 0)
        statistics = one.client.statistics
        assert most <= 64
        assert (statistics.failures, statistics.refused) == (0, 0)
        assert one.watch.problem is None


async def test_a_change_costs_one_answer_for_each_node(crowded: ConsulAgent) -> None:
    """Also where services without proxy tags may carry a route in their Meta."""
    writer = Writer(crowded, nodes=100)
    await asyncio.to_thread(writer.register, "job-0001", 0, tag="batch")
    async with watching(ConsulSettings(address=crowded.address, meta_sweep=0.5)) as one:
        await complete(one)
        costs = []
        # The first tells whether a node's answer has an index of its own.
        for port in (9001, 9002):
            before = one.client.statistics.requests
            await asyncio.to_thread(writer.register, "service-0400", 0, port=port)
            await one.until(lambda catalog, port=port: catalog.services[ServiceName("service-0400")][0].port == port)  # type: ignore[misc]
            costs.append(await _settled(one) - before)
        assert costs[-1] < 120


async def _settled(one: Watching) -> int:
    """Wait until two seconds pass without a request; return how many there were since the start."""
    before = -1
    async with asyncio.timeout(60):
        while (now := one.client.statistics.requests) != before:
            before = now
            await asyncio.sleep(2.0)
    return before


@pytest.mark.incident("T13")
@pytest.mark.incident("T14")
async def test_churn_costs_a_bounded_number_of_requests_and_hides_no_newcomer(crowded: ConsulAgent) -> None:
    """T13, T14: while unrelated services move the index every 50 ms nothing routed is read again, and a routed service
    that did not exist appears."""
    writer = Writer(crowded, nodes=100)
    async with watching(ConsulSettings(address=crowded.address, meta_sweep=0)) as one:
        await complete(one)
        with churning(writer):
            assert await one.nothing_comes(2.0)
            began, before = time.monotonic(), one.client.statistics
            assert await one.nothing_comes(4.0)
            after = one.client.statistics
            seconds = time.monotonic() - began
            # A sweep is a request for each of the 100 nodes, and there is at most one in half a second.
            assert after.requests - before.requests < 100 + 220 * seconds
            assert after.received - before.received < 200_000 + 400_000 * seconds
            await asyncio.to_thread(writer.register, "service-2000", 0)
            await one.until(lambda catalog: ids(catalog, "service-2000") == ["service-2000-0"])
        await asyncio.to_thread(writer.deregister, "service-2000", 0)
