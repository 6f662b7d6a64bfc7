"""An agent beside proxygen that lost its servers, or never had a reason to complain: T31 to T33."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from proxygen.consul.client import ConsulClient
from proxygen.network.store import NetworkStore, create_network
from proxygen.settings import ConsulSettings
from tests.consul.watching import watching
from tests.faults.history import KEEP_ALL, lacking
from tests.harness.app import App
from tests.harness.consul import ConsulAgent, HostConsul, start_client, start_cluster
from tests.harness.hosts import Lab
from tests.harness.nginx import NginxServer
from tests.harness.outside import OutsideNode
from tests.harness.prometheus import Prometheus
from tests.harness.sidecar import Sidecar
from tests.harness.tools import Consul
from tests.integration.waiting import HOST, answers, call, said, steady_load, until

MakeSidecar = Callable[..., Sidecar]
Saw = Callable[[str], None]

FRESH = 4.0
"""admin.fresh, with a consul.wait of 2 s."""
_STALE = "proxygen_consul_freshness_seconds > proxygen_consul_freshness_limit_seconds"
CUT_OFF = {"consul__wait": "2s", "admin__fresh": f"{FRESH:g}s", **KEEP_ALL}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A server and an agent that is none, and how to part them."""

    server: ConsulAgent
    agent: ConsulAgent
    address: str
    cut: Callable[[], object]
    mend: Callable[[], object]


@contextmanager
def killed(directory: Path) -> Iterator[Pair]:
    """The server is killed, and started again with its data."""
    [server] = start_cluster(directory / "cluster", size=1)
    agent = start_client(directory / "client", [server])
    try:
        yield Pair(
            server=server, agent=agent, address=agent.address, cut=server.kill, mend=lambda: server.start(wait=False)
        )
    finally:
        agent.kill()
        server.kill()


@contextmanager
def dropped(directory: Path) -> Iterator[Pair]:
    """Two hosts: between them every packet is lost, and nobody is told."""
    with Lab(directory / "lab") as lab:
        one, two = lab.hosts(2)
        server, agent = HostConsul(one, servers=[one]), HostConsul(two, servers=[one])
        try:
            server.start()
            agent.start()
            yield Pair(server=server, agent=agent, address=agent.unix_address, cut=two.cut, mend=two.mend)
        finally:
            agent.remove()
            server.remove()


@pytest.fixture(params=[killed, dropped], ids=["killed", "dropped"])
def pair(request: pytest.FixtureRequest, which_consul: Consul, tmp_path: Path) -> Iterator[Pair]:
    with request.param(tmp_path) as pair:
        yield pair


@pytest.mark.incident("T31")
async def test_t31_in_perfect_health_nothing_is_said_and_nothing_fails(
    consul: ConsulAgent, running: NginxServer, make_sidecar: MakeSidecar, saw: Saw
) -> None:
    """Injects nothing: five waits without a change, and five changes, on each Consul. No read is counted as failed or
    logged, and no question is asked anew."""
    sidecar = make_sidecar(consul, running, consul__wait="1s")
    with App("web-1") as app:
        consul.register("web", port=app.port, tags=[f"proxygen.route={HOST}"])
        sidecar.start()
        before = sidecar.status()["consul"]
        await until(lambda: _requests(sidecar) >= before["requests"] + 15, "five waits of three questions")
        took = []
        for number in range(5):
            host, began = f"new-{number}.example.com", time.monotonic()
            consul.register("web", port=app.port, tags=[f"proxygen.route={HOST}", f"proxygen.route={host}"])
            await answers(sidecar, host)
            took.append(time.monotonic() - began)
        saw(f"served after {', '.join(f'{each:.2f} s' for each in took)}")
        after = sidecar.status()["consul"]
        assert (after["failures"], after["problem"]) == (before["failures"], "")
        assert not said(sidecar, "consul read failed")
        assert not said(sidecar, "consul index went backwards")
        assert not sidecar.status()["warnings"]


def _requests(sidecar: Sidecar) -> int:
    requests: int = sidecar.status()["consul"]["requests"]
    return requests


@pytest.mark.incident("T32")
@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_t32_an_agent_that_is_cut_off_changes_nothing_and_is_told_of(
    pair: Pair,
    running: NginxServer,
    make_sidecar: MakeSidecar,
    make_prometheus: Callable[[Sidecar], Prometheus],
    saw: Saw,
) -> None:
    """Injects servers that are killed, and a network that loses every packet. Upstreams stay, no request fails, and
    once admin.fresh has passed `/readyz`, status, page, metrics and the shipped alert say so. When the agent has its
    servers again, so has the sidecar within 2 s, and what changed meanwhile and what changes then is served."""
    with App("web-1") as web, App("shop-1") as shop:
        outside = OutsideNode([pair.server])
        outside.register("web", web.port, f"route={HOST}")
        outside.register("shop", shop.port, "route=shop.example.com")
        sidecar = make_sidecar(pair.address, running, **CUT_OFF)
        await call(sidecar.start)
        prometheus = make_prometheus(sidecar)
        await until(lambda: prometheus.query(_STALE.replace(">", "<")), "Prometheus finds Consul's data fresh")
        # So that Consul's views are there before the servers are not.
        await until(lambda: _requests(sidecar) > 15, "every question waits")
        async with steady_load(sidecar), steady_load(sidecar, "shop.example.com"):
            await call(pair.cut)
            cut = time.monotonic()
            await until(lambda: sidecar.request("/readyz")[0] == 503, "not ready", timeout=60)
            noticed = time.monotonic() - cut
            [reason] = sidecar.request("/readyz")[1]["reasons"]
            assert "Consul's data is" in reason
            assert sidecar.status()["state"] == "degraded"
            assert ">stale<" in sidecar.page()
            assert sidecar.status()["consul"]["freshness"] > FRESH
            await until(lambda: prometheus.query(_STALE), "the metrics say so")
            await until(lambda: "ProxygenConsulStale" in prometheus.alerts(), "the alert is on its way")
            # Long enough that Consul's views look for their servers only now and then.
            await until(lambda: sidecar.status()["consul"]["freshness"] > 5 * FRESH, "a long time", timeout=120)
            assert sidecar.generation() == 1
            await call(pair.mend)
            await until(lambda: _has_servers(pair.agent), "the agent has its servers again", timeout=120)
            back = time.monotonic()
            await until(lambda: sidecar.request("/readyz")[0] == 200, "ready again")
            recovered = time.monotonic() - back
            await until(lambda: "ProxygenConsulStale" not in prometheus.alerts(), "the alert is over")
            for number in range(3):
                await call(outside.register, "web", web.port, f"route={HOST}", f"route=new-{number}.example.com")
                began = time.monotonic()
                await answers(sidecar, f"new-{number}.example.com")
                took = time.monotonic() - began
        saw(f"said after {noticed:.1f} s: {reason!r}; back after {recovered:.2f} s, a change after {took:.2f} s")
        assert not lacking(sidecar, [web.port, shop.port])
        assert noticed < FRESH + 2.0, "a status looks once in a while"
        assert recovered < 2.0


def _has_servers(agent: ConsulAgent) -> bool:
    """Whether a read that is not streamed is answered."""
    return bool(agent.get("/v1/catalog/services"))


@pytest.mark.incident("T33")
@pytest.mark.parametrize("above", ["proxygen/canary/", "proxygen/canary", "proxygen", ""])
async def test_t33_overrides_that_are_deleted_from_above_are_gone_at_once(
    consul: ConsulAgent, saw: Saw, above: str
) -> None:
    """Injects `consul kv delete -recurse` of a prefix, after a plain delete whose tombstone would keep the question
    waiting for the whole consul.wait of 60 s. What is written next is seen as soon, and so is the next such delete."""
    consul.kv_put("proxygen/canary/old", "{}")
    consul.register("web", port=1, tags=[f"proxygen.route={HOST}"])
    async with watching(ConsulSettings(address=consul.address)) as one:
        await one.until(lambda catalog: set(catalog.overrides) == {"old"})
        consul.kv_delete("proxygen/canary/old")
        for _ in range(2):
            for name in ("web", "other"):
                consul.kv_put(f"proxygen/canary/{name}", "{}")
            await one.until(lambda catalog: set(catalog.overrides) == {"web", "other"}, within=30.0)
            consul.kv_delete(above, recurse=True)
            saw(f"{above!r}: {await one.until(lambda catalog: not catalog.overrides, within=30.0):.2f} s")
        assert one.watch.problem is None


@pytest.mark.incident("T33")
async def test_t33_a_network_whose_keys_are_deleted_from_above_is_seen_to_be_gone_at_once(consul: ConsulAgent) -> None:
    """Injects the same below a host that watches leases."""
    async with ConsulClient(ConsulSettings(address=consul.address)) as client:
        store = NetworkStore(client, deadline=5.0)
        await create_network(store, '{"Network": "10.99.0.0/16"}')
        consul.kv_put("proxygen/network/old", "")
        consul.kv_delete("proxygen/network/old")
        seen, index = await store.watch()
        waiting = asyncio.create_task(store.watch(index, seen=seen))
        # Both of its questions are on their way.
        await until(lambda: client.statistics.sockets == 2, "the question waits")
        consul.kv_delete("proxygen", recurse=True)
        view, _ = await asyncio.wait_for(waiting, 30.0)
        assert view.config is None
