"""More services than sockets: what changed is found, and only that is read."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from proxygen.catalog import Health, ServiceName
from proxygen.settings import ConsulSettings
from tests.consul.watching import ROUTE, Watching, health, ids, watching
from tests.harness.fake_consul import FakeConsul, entry, fake_consul
from tests.integration.waiting import until

SERVICES = 80
SERVICE_PATH = "/v1/health/service/"
NODE_PATH = "/v1/catalog/node/"


@asynccontextmanager
async def many_services(*tags: str, **knobs: Any) -> AsyncIterator[tuple[FakeConsul, Watching]]:
    """Watch 80 services of one instance each, which have these tags besides a route."""
    async with fake_consul() as fake:
        for number in range(SERVICES):
            fake.put(f"s{number}", entry(f"s{number}", f"s{number}-1", 8000 + number, ROUTE, *tags))
        async with watching(ConsulSettings(address=fake.address, **knobs)) as one:
            await one.until(lambda catalog: len(catalog.services) == SERVICES)
            await one.nothing_comes(0.3)
            yield fake, one


def read_services(fake: FakeConsul) -> set[str]:
    return {one.path.removeprefix(SERVICE_PATH) for one in fake.requests if one.path.startswith(SERVICE_PATH)}


def on_node(node: str, one: dict[str, Any]) -> dict[str, Any]:
    return one | {"Node": one["Node"] | {"Node": node}}


async def test_only_the_service_that_changed_is_read_again() -> None:
    """A port is part of no check and of no tag; nevertheless nobody else is asked for."""
    async with many_services() as (fake, one):
        fake.requests.clear()
        fake.put("s7", entry("s7", "s7-1", 9999, ROUTE))
        await one.until(lambda catalog: catalog.services[ServiceName("s7")][0].port == 9999)
        await asyncio.sleep(0.5)
        assert read_services(fake) == {"s7"}


async def test_the_same_tags_in_another_order_are_no_change() -> None:
    """Consul lists a service's tags in another order in each answer."""
    async with many_services("blue", "green") as (fake, one):
        fake.requests.clear()
        fake.put("s7", entry("s7", "s7-1", 9999, ROUTE))
        await one.until(lambda catalog: catalog.services[ServiceName("s7")][0].port == 9999)
        await asyncio.sleep(0.5)
        assert read_services(fake) == {"s7"}


async def test_unrelated_churn_makes_no_routed_service_be_read_again() -> None:
    """T13: an index that moves every 50 ms costs a bounded number of requests, and puts no catalog."""
    async with many_services(meta_sweep=0) as (fake, one):
        fake.requests.clear()
        began = time.monotonic()
        for number in range(60):
            fake.put("job", entry("job", "job-1", number, "batch"))
            await asyncio.sleep(0.05)
        assert await one.nothing_comes(0.2)
        assert read_services(fake) == set()
        assert len(fake.requests) < 40 + 20 * (time.monotonic() - began)


async def test_checks_are_asked_for_without_those_that_pass() -> None:
    """In a healthy catalog of any size the list of checks is empty."""
    async with many_services() as (fake, _):
        asked = [one for one in fake.requests if one.path == "/v1/health/state/any"]
        assert asked
        assert {one.query.get("filter") for one in asked} == {'Status != "passing"'}


async def test_an_answer_about_a_node_from_a_server_that_lags_is_asked_for_again() -> None:
    """What told of the move may be ahead of the next server; the leader is not behind it."""
    async with many_services() as (fake, one):

        def lags(request: web.Request) -> web.Response | None:
            if request.path.startswith(NODE_PATH) and "stale" in request.query:
                return web.Response(text='{"Services": {}}', headers={"X-Consul-Index": "1"})
            return None

        fake.fault = lags
        fake.requests.clear()
        fake.put("s7", entry("s7", "s7-1", 9999, ROUTE))
        await one.until(lambda catalog: catalog.services[ServiceName("s7")][0].port == 9999)
        assert read_services(fake) == {"s7"}


async def test_an_answer_of_a_sweep_that_lags_behind_what_is_known_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A sweep asks any server; one that is behind still has what was there before. The leader is asked then."""
    monkeypatch.setattr("proxygen.consul.detect._RESYNC", 0.2)
    monkeypatch.setattr("proxygen.consul.detect._SWEEP_GAP", 0.1)
    # Without queries of their own, whose answers would heal it.
    monkeypatch.setattr("proxygen.consul.detect.RecentPolls.take", lambda polls, name: None)
    async with many_services() as (fake, one):
        old = fake.services["s7"]
        lagging: list[web.Request] = []

        def lags(request: web.Request) -> web.Response | None:
            if request.path == SERVICE_PATH + "s7" and "stale" in request.query:
                lagging.append(request)
                index = fake.index
                fake.index = 90
                try:
                    return fake.reply(old)
                finally:
                    fake.index = index
            return None

        fake.fault = lags
        fake.put("s7", entry("s7", "s7-1", 9999, ROUTE))
        await one.until(lambda catalog: catalog.services[ServiceName("s7")][0].port == 9999)
        lagging.clear()
        await until(lambda: len(lagging) > 2, "sweeps of a server that lags")
        assert one.slot.peek() is not None
        assert await one.nothing_comes(0.3)
        assert one.slot.peek().services[ServiceName("s7")][0].port == 9999  # type: ignore[union-attr]


@pytest.mark.parametrize("node", ["a/b", "..", "turned\u202e"])
async def test_a_node_that_cannot_be_asked_for_hides_no_change(node: str) -> None:
    """T6: names of nodes are any text; the services on one that no URL brings back are found by reading all."""
    async with many_services() as (fake, one):

        def refuses(request: web.Request) -> web.Response | None:
            return web.Response(status=400) if request.path.startswith(NODE_PATH + "turned") else None

        fake.fault = refuses
        fake.put("s7", on_node(node, entry("s7", "s7-1", 8007, ROUTE)))
        await one.until(lambda c: c.services[ServiceName("s7")][0].node == node)
        fake.put("s8", entry("s8", "s8-1", 9999, ROUTE))
        await one.until(lambda c: c.services[ServiceName("s8")][0].port == 9999)


async def test_a_node_that_consul_cannot_read_hides_no_change_on_another() -> None:
    async with many_services() as (fake, one):
        fake.put("other", on_node("n2", entry("other", "other-1", 7000)))
        fake.fault = lambda request: (
            web.Response(status=500, text="rpc error making call: EOF") if request.path == f"{NODE_PATH}n2" else None
        )
        for number in range(3):
            name = f"s{number}"
            fake.put(name, entry(name, f"{name}-1", 9000, ROUTE))
            await one.until(
                lambda catalog, name=name: catalog.services[ServiceName(name)][0].port == 9000,  # type: ignore[misc]
                within=5.0,
            )
            assert "node n2" in (one.watch.problem or "")


async def test_a_node_that_is_gone_takes_its_instances_along() -> None:
    async with many_services() as (fake, one):
        fake.put("s7", entry("s7", "s7-1", 8007, ROUTE), on_node("n2", entry("s7", "s7-2", 8107, ROUTE)))
        await one.until(lambda catalog: ids(catalog, "s7") == ["s7-1", "s7-2"])
        fake.put("s7", entry("s7", "s7-1", 8007, ROUTE))
        await one.until(lambda catalog: ids(catalog, "s7") == ["s7-1"])


async def test_a_service_that_changed_has_a_query_of_its_own_until_it_is_quiet() -> None:
    """And what changes after that is seen as before."""
    async with many_services(wait=1.0) as (fake, one):

        def own_queries() -> int:
            return sum(request.path == SERVICE_PATH + "s7" and "index" in request.query for request in fake.requests)

        fake.put("s7", entry("s7", "s7-1", 9001, ROUTE))
        await one.until(lambda catalog: catalog.services[ServiceName("s7")][0].port == 9001)
        await until(own_queries, "a query of its own")
        async with asyncio.timeout(20):
            while own_queries():
                fake.requests.clear()
                await asyncio.sleep(2)
        fake.put("s7", entry("s7", "s7-1", 9002, ROUTE, status="critical"))
        await one.until(lambda catalog: health(catalog, "s7") == [Health.CRITICAL])
        assert one.watch.problem is None


async def test_queries_of_their_own_leave_sockets_for_the_rest() -> None:
    """When everything changes, at most half of the sockets wait."""
    async with many_services() as (fake, one):
        for number in range(SERVICES):
            fake.put(f"s{number}", entry(f"s{number}", f"s{number}-1", 9000 + number, ROUTE))
        await one.until(lambda c: all(one.port >= 9000 for found in c.services.values() for one in found))
        await asyncio.sleep(1.0)
        assert one.client.statistics.sockets <= 32
        fake.put("s79", entry("s79", "s79-1", 7000, ROUTE))
        await one.until(lambda catalog: catalog.services[ServiceName("s79")][0].port == 7000)


@pytest.mark.incident("T12")
async def test_half_the_calls_refused_loses_no_change_and_makes_no_hot_loop() -> None:
    """T12: every second answer is a 429, to each kind of question."""
    async with many_services() as (fake, one):
        count = 0

        def every_second(request: web.Request) -> web.Response | None:
            nonlocal count
            count += 1
            return web.Response(status=429) if count % 2 else None

        fake.fault = every_second
        fake.requests.clear()
        began = time.monotonic()
        for number in range(5):
            fake.put(f"s{number}", entry(f"s{number}", f"s{number}-1", 9000 + number, ROUTE))
            await one.until(lambda c, n=number: c.services[ServiceName(f"s{n}")][0].port == 9000 + n, within=60.0)  # type: ignore[misc]
        assert one.client.statistics.refused > 0
        assert len(fake.requests) < 100 + 60 * (time.monotonic() - began)
        fake.fault = lambda request: None
        fake.change()
        await until(lambda: one.watch.problem is None, "no problem any more", timeout=60)
