"""What happens in a real Consul arrives as a catalog."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from proxygen.catalog import Catalog, Health, ServiceName
from proxygen.consul.catalog_file import read_catalog_file
from proxygen.consul.client import ConsulClient
from proxygen.consul.snapshot import fetch_catalog, take_snapshot
from proxygen.settings import ConsulSettings
from tests.consul.watching import ROUTE, health, ids, watching
from tests.harness.consul import ConsulAgent
from tests.harness.outside import OutsideNode
from tests.integration.waiting import call, until


def settings_for(agent: ConsulAgent, **knobs: Any) -> ConsulSettings:
    return ConsulSettings(address=agent.address, **knobs)


async def test_a_registration_and_each_of_its_changes_arrive_at_once(consul: ConsulAgent) -> None:
    """Register, health, tag, Meta, weight and port changes and a deregistration are each seen within a second."""
    consul.register("web", id="web-1", port=8001, tags=[ROUTE], status="passing")
    async with watching(settings_for(consul)) as one:
        await one.until(lambda catalog: ids(catalog, "web") == ["web-1"])

        async def soon(change: Callable[..., Any], seen: Callable[[Catalog], bool], *args: Any, **kwargs: Any) -> None:
            await call(change, *args, **kwargs)
            await one.until(seen, within=1.0)

        await soon(
            consul.register,
            lambda catalog: ids(catalog, "web") == ["web-1", "web-2"],
            "web",
            id="web-2",
            port=8002,
            tags=[ROUTE],
        )
        await soon(consul.set_check, lambda c: health(c, "web")[0] is Health.CRITICAL, "web-1", "critical")
        await soon(consul.set_check, lambda c: health(c, "web")[0] is Health.WARNING, "web-1", "warning")
        await soon(consul.set_maintenance, lambda c: health(c, "web")[1] is Health.MAINTENANCE, "web-2", True)
        await soon(
            consul.register,
            lambda c: c.services[ServiceName("web")][1].meta == (("proxygen-weight", "5"),),
            "web",
            id="web-2",
            port=8002,
            tags=[ROUTE],
            meta={"proxygen-weight": "5"},
        )
        await soon(
            consul.register,
            lambda c: c.services[ServiceName("web")][1].weight_passing == 7,
            "web",
            id="web-2",
            port=8002,
            tags=[ROUTE],
            weights=(7, 2),
        )
        await soon(consul.deregister, lambda c: ids(c, "web") == ["web-1"], "web-2")
        await soon(consul.deregister, lambda c: c.services[ServiceName("web")] == (), "web-1")
        assert one.watch.problem is None


async def test_overrides_arrive_and_go(consul: ConsulAgent) -> None:
    """A key under KV_PREFIX/canary is in the next catalog; a deleted one is not."""
    consul.register("web", id="web-1", port=8001, tags=[ROUTE])
    async with watching(settings_for(consul)) as one:
        await one.until(lambda catalog: not catalog.overrides)
        await call(consul.kv_put, "proxygen/canary/web", '{"canary": "5%"}')
        await one.until(lambda c: c.overrides == {"web": '{"canary": "5%"}'}, within=1.0)
        await call(consul.kv_delete, "proxygen/canary/web")
        await one.until(lambda c: not c.overrides, within=1.0)


@pytest.mark.parametrize("key", ["a//b", "..", "x/../y"])
async def test_an_override_that_cannot_be_asked_for_goes_and_freezes_nobody(consul: ConsulAgent, key: str) -> None:
    """A transaction writes any key, and deletes it again."""
    consul.register("web", id="web-1", port=8001, tags=[ROUTE])
    consul.kv_put("proxygen/canary/web", "{}")
    async with watching(settings_for(consul)) as one:
        await call(transact, consul, Verb="set", Key=f"proxygen/canary/{key}", Value="e30=")
        await one.until(lambda catalog: catalog.overrides.keys() == {"web", key})
        await call(transact, consul, Verb="delete", Key=f"proxygen/canary/{key}")
        await one.until(lambda catalog: catalog.overrides.keys() == {"web"}, within=2.0)
        await call(consul.kv_delete, "proxygen/canary/web")
        await one.until(lambda catalog: not catalog.overrides, within=2.0)


def transact(consul: ConsulAgent, **operation: str) -> None:
    consul.put("/v1/txn", [{"KV": operation}])


async def test_unrouted_services_and_other_keys_are_left_out(consul: ConsulAgent) -> None:
    """Only services with proxy tags or proxy Meta are in the catalog."""
    consul.register("db", id="db-1", port=5432, tags=["primary"])
    consul.register("web", id="web-1", port=8001, tags=[ROUTE])
    consul.register("meta", id="meta-1", port=8002, meta={"proxygen-route": "meta.example.com"})
    async with watching(settings_for(consul)) as one:
        await one.until(lambda catalog: set(catalog.services) == {"meta", "web"})
        await call(consul.register, "late", id="late-1", port=8003, meta={"proxygen-route": "late.example.com"})
        await one.until(lambda catalog: ids(catalog, "late") == ["late-1"], within=1.0)


async def test_meta_given_to_a_known_service_routes_it_within_the_sweep(consul: ConsulAgent) -> None:
    """A service whose Meta gains a route later is found by the sweep."""
    consul.register("db", id="db-1", port=5432)
    consul.register("web", id="web-1", port=8001, tags=[ROUTE])
    async with watching(settings_for(consul, meta_sweep=0.5)) as one:
        await one.until(lambda catalog: set(catalog.services) == {"web"})
        await call(consul.register, "db", id="db-1", port=5432, meta={"proxygen-route": "db.example.com"})
        await one.until(lambda catalog: ids(catalog, "db") == ["db-1"], within=3.0)


async def test_a_service_that_loses_its_tags_is_seen_without_them(consul: ConsulAgent) -> None:
    """A route ends by being observed to be gone, never by being left out."""
    consul.register("web", id="web-1", port=8001, tags=[ROUTE])
    async with watching(settings_for(consul)) as one:
        await one.until(lambda catalog: ids(catalog, "web") == ["web-1"])
        await call(consul.register, "web", id="web-1", port=8001, tags=["plain"])
        await one.until(lambda c: c.services[ServiceName("web")][0].tags == ("plain",), within=2.0)


@pytest.mark.incident("T13")
async def test_churn_without_content_puts_no_catalog(consul: ConsulAgent) -> None:
    """T13: an index that moves every 50 ms with the same content puts nothing, for a bounded number of requests."""
    # An agent would keep the output of its checks to itself for minutes.
    outside = OutsideNode([consul])
    service = outside.register("web", 8001, ROUTE.removeprefix("proxygen."))
    async with watching(settings_for(consul)) as one:
        await one.until(lambda catalog: ids(catalog, "web") == [service])
        await one.nothing_comes(0.2)
        requests = one.client.statistics.requests
        for number in range(60):
            await call(outside.set_checks, {service: "passing"}, output=f"output {number}")
            await asyncio.sleep(0.05)
        assert await one.nothing_comes(0.2)
        assert 3 < one.client.statistics.requests - requests < 40, "it was woken, and not each time"


@pytest.mark.faults
async def test_a_restart_with_a_lower_index_is_followed(make_consul: Callable[..., ConsulAgent]) -> None:
    """T2, T4: an agent that forgot everything and counts from 1 again is read from the start within two seconds."""
    agent = make_consul()
    agent.start()
    for number in range(30):
        agent.register("web", id=f"web-{number}", port=8001 + number, tags=[ROUTE])
    async with watching(settings_for(agent)) as one:
        await one.until(lambda catalog: len(ids(catalog, "web")) == 30)
        await call(agent.stop)
        await asyncio.sleep(0.5)
        assert one.watch.problem is not None
        assert len(ids(one.slot.peek() or pytest.fail("no catalog"), "web")) == 30
        await call(agent.start)
        await call(agent.register, "web", id="web-new", port=9000, tags=[ROUTE])
        await one.until(lambda catalog: ids(catalog, "web") == ["web-new"], within=3.0)
        await asyncio.sleep(1.5)
        assert one.watch.problem is None


@pytest.mark.faults
async def test_an_outage_changes_nothing(make_consul: Callable[..., ConsulAgent]) -> None:
    """T4, T15: while Consul is down or frozen the last good catalog stays and freshness tells."""
    agent = make_consul(persistent=True)
    agent.start()
    agent.register("web", id="web-1", port=8001, tags=[ROUTE])
    async with watching(settings_for(agent, wait=1.0)) as one:
        await one.until(lambda catalog: ids(catalog, "web") == ["web-1"])
        await one.nothing_comes(0.2)
        await call(agent.stop)
        await asyncio.sleep(3)
        assert one.watch.freshness() > 1.5
        assert await one.nothing_comes(0.1)
        await call(agent.start)
        await call(agent.register, "web", id="web-2", port=8002, tags=[ROUTE])
        await one.until(lambda catalog: "web-2" in ids(catalog, "web"), within=3.0)


@pytest.mark.incident("T11")
@pytest.mark.slow
async def test_250_services_with_64_sockets(consul: ConsulAgent) -> None:
    """T11: more services than sockets; each kind of change is still seen in about a second, and 64 is never passed."""
    for number in range(250):
        consul.register(f"s{number:03}", id=f"s{number:03}-1", port=8001, tags=[ROUTE], status="passing")
    async with watching(settings_for(consul)) as one:
        await one.until(lambda catalog: len(catalog.services) == 250, within=30.0)
        sockets = 0

        async def soon(change: Callable[..., Any], seen: Callable[[Catalog], bool], *args: Any, **kwargs: Any) -> None:
            nonlocal sockets
            await call(change, *args, **kwargs)
            await one.until(seen, within=2.0)
            sockets = max(sockets, one.client.statistics.sockets + one.client.statistics.waiting)

        await soon(consul.set_check, lambda c: health(c, "s017") == [Health.CRITICAL], "s017-1", "critical")
        await soon(
            consul.register, lambda c: ids(c, "s100") == ["s100-1", "s100-2"], "s100", id="s100-2", port=1, tags=[ROUTE]
        )
        await soon(
            consul.register,
            lambda c: c.services[ServiceName("s200")][0].meta == (("proxygen-weight", "3"),),
            "s200",
            id="s200-1",
            port=8001,
            tags=[ROUTE],
            status="passing",
            meta={"proxygen-weight": "3"},
        )
        await soon(consul.deregister, lambda c: ids(c, "s100") == ["s100-1"], "s100-2")
        await soon(consul.deregister, lambda c: c.services[ServiceName("s001")] == (), "s001-1")
        await soon(
            consul.register,
            lambda c: ids(c, "new") == ["new-1"],
            "new",
            id="new-1",
            port=2,
            tags=[ROUTE],
            status="passing",
        )
        assert 0 < sockets <= 64
        assert one.watch.problem is None


async def test_a_deregistration_makes_nobody_else_read_again(consul: ConsulAgent) -> None:
    """With more services than sockets, the answer for the service that lost an instance explains the catalog's move."""
    for number in range(80):
        consul.register(f"s{number:03}", id=f"s{number:03}-1", port=8001, tags=[ROUTE], status="passing")
    consul.register("s007", id="s007-2", port=8002, tags=[ROUTE], status="passing")
    async with watching(settings_for(consul)) as one:
        await one.until(lambda catalog: len(catalog.services) == 80, within=30.0)
        await asyncio.sleep(2)
        before = one.client.statistics.requests
        await call(consul.deregister, "s007-2")
        await one.until(lambda catalog: ids(catalog, "s007") == ["s007-1"], within=2.0)
        await asyncio.sleep(2)
        assert one.client.statistics.requests - before < 40


@pytest.mark.parametrize("sockets", [4, 64])
async def test_hostile_names_harm_nobody(consul: ConsulAgent, sockets: int) -> None:
    """T6: whatever Consul accepts as a name, the other services are served and each change still arrives."""
    names = [
        "a;b{}\"'$",
        " lead",
        "trail ",
        "Case",
        "case",
        "q?x=1#f",
        "100%",
        "%2e%2e",
        "..",
        "a/b",
        "a//b",
        "n\nl",
        "x" * 3000,
    ]
    for number, name in enumerate([*names, "nul\x00", "ü", "turned\u202e"]):
        consul.register(name, id=f"odd-{number}", port=1000 + number, tags=[ROUTE])
    consul.register("web", id="web-1", port=8001, tags=[ROUTE])
    async with watching(settings_for(consul, max_connections=sockets)) as one:
        await one.until(lambda catalog: ids(catalog, "web") == ["web-1"] and ids(catalog, "case") == ["odd-4"])
        await call(consul.register, "web", id="web-2", port=8002, tags=[ROUTE])
        await one.until(lambda catalog: ids(catalog, "web") == ["web-1", "web-2"], within=2.0)
        catalog = one.slot.peek() or pytest.fail("no catalog")
        assert {"Case", "a;b{}\"'$", "q?x=1#f", "100%", "ü", "a/b"} <= set(catalog.services)
        assert "a//b" not in catalog.services
        once = await fetch_catalog(one.client, tag_prefix="proxygen")
        assert once.services == catalog.services


@pytest.mark.parametrize("sockets", [4, 64])
async def test_what_is_nested_without_end_is_its_own_services_trouble(consul: ConsulAgent, sockets: int) -> None:
    """Consul keeps a Proxy.Config of any depth, and nobody reads JSON of any depth: of that service alone nothing is
    known, whether it came before the watch or after, and whether or not it has a route."""
    consul.register("web", id="web-1", port=8001, tags=[ROUTE])
    consul.put("/v1/agent/service/register", nested("stranger", 1100))
    try:
        async with watching(settings_for(consul, max_connections=sockets)) as one:
            await one.until(lambda catalog: ids(catalog, "web") == ["web-1"])
            consul.put("/v1/agent/service/register", nested("tenant", 5000, ROUTE))
            await until(lambda: "service tenant" in (one.watch.problem or ""), "the failure said")
            await call(consul.register, "web", id="web-2", port=8002, tags=[ROUTE])
            # Without a question for each service the node's answer would tell, and cannot be read either.
            await one.until(lambda catalog: ids(catalog, "web") == ["web-1", "web-2"], within=40.0)
            assert "tenant" not in (one.slot.peek() or pytest.fail("no catalog")).services
        async with ConsulClient(settings_for(consul)) as client:
            once = await fetch_catalog(client, tag_prefix="proxygen")
            assert once.services.keys() == {"web"}
            assert read_catalog_file(await take_snapshot(client, tag_prefix="proxygen")) == once
    finally:
        consul.deregister("stranger")
        consul.deregister("tenant")


async def test_no_depth_of_nesting_ends_a_snapshot(consul: ConsulAgent) -> None:
    """A file nests an entry deeper than its answer did: there is no depth that can be read and not be written."""
    consul.register("web", id="web-1", port=8001, tags=[ROUTE])
    async with ConsulClient(settings_for(consul)) as client:
        for depth in range(840, 1000, 8):
            consul.put("/v1/agent/service/register", nested("tenant", depth, ROUTE))
            try:
                assert ids(read_catalog_file(await take_snapshot(client, tag_prefix="proxygen")), "web") == ["web-1"]
            finally:
                consul.deregister("tenant")


def nested(name: str, depth: int, *tags: str) -> bytes:
    """The registration of a service whose Proxy.Config is this deep."""
    config = '{"a":' * depth + "1" + "}" * depth
    proxied = f'"Kind": "connect-proxy", "Proxy": {{"DestinationServiceName": "other", "Config": {config}}}'
    return f'{{"Name": "{name}", "Port": 81, "Tags": {json.dumps(tags)}, {proxied}}}'.encode()
