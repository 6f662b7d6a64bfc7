"""An agent that has had enough of us, and a network that forgot us."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

import psutil  # type: ignore[import-untyped]
import pytest
from aiohttp import web

from tests.harness.app import App
from tests.harness.consul import ConsulAgent
from tests.harness.fake_consul import entry, fake_consul
from tests.harness.nginx import NginxServer
from tests.harness.outside import OutsideNode
from tests.harness.relay import relay
from tests.harness.sidecar import Sidecar
from tests.integration.waiting import ROUTE, answers, call, steady_load, until

MakeSidecar = Callable[..., Sidecar]
Saw = Callable[[str], None]

SERVICES: Final = 1000
BUDGET: Final = 64
WAIT: Final = 2
"""Seconds of one blocking query."""
AGE: Final = 3
"""Seconds for which the agent says 429: the first pauses are over, and grown to their length."""


@pytest.mark.incident("T11")
@pytest.mark.slow
async def test_t11_a_thousand_services_fit_into_the_budget_of_sockets(
    consul: ConsulAgent, running: NginxServer, make_sidecar: MakeSidecar, saw: Saw
) -> None:
    """Injects 1,000 routed services into an agent that allows 200 connections per client. The sidecar never has more
    than 64, no call fails, and changes in services all over the list are served."""
    outside = OutsideNode([consul])
    with App("web-1") as app, App("late-1") as late:
        names = [f"s{number:04}" for number in range(SERVICES)]
        outside.register_many(dict.fromkeys(names, app.port), lambda name: [f"route={name}.test"])
        sidecar = make_sidecar(consul, running)
        sidecar.start(ready=False)
        await call(sidecar.wait_ready, 110)
        counting = asyncio.create_task(_most_sockets(sidecar, consul.http_port), name="sockets")
        took = []
        async with steady_load(sidecar, "s0500.test"):
            for number in (0, 333, 666, 999):
                registered = time.monotonic()
                await call(outside.register, f"s{number:04}", late.port, f"route=late{number}.test")
                await answers(sidecar, f"late{number}.test")
                took.append(time.monotonic() - registered)
        counting.cancel()
        sockets = await counting
        status = sidecar.status()["consul"]
        saw(f"{sockets} sockets at most; served after {', '.join(f'{each:.1f} s' for each in took)}")
        assert 0 < sockets <= BUDGET
        assert status["failures"] == 0
        assert not status["problem"]


async def _most_sockets(sidecar: Sidecar, port: int) -> int:
    """Count the process's connections to the agent until cancelled, as the kernel sees them."""
    process, most = psutil.Process(sidecar.pid), 0
    try:
        while True:
            connections = await call(process.net_connections, "tcp")
            most = max(most, sum(bool(one.raddr) and one.raddr.port == port for one in connections))
            await asyncio.sleep(0.1)
    except asyncio.CancelledError:
        return most


@pytest.mark.incident("T12")
async def test_t12_an_agent_that_answers_429_is_left_in_peace(
    running: NginxServer, make_sidecar: MakeSidecar, saw: Saw
) -> None:
    """Injects 429 to every call, and then to every second one. What is live serves; the calls are few and the data's
    age is told; and what changed is served although half of the calls fail."""
    async with fake_consul() as fake:
        with App("web-1") as app:
            fake.put("web", entry("web", "web-1", app.port, ROUTE))
            sidecar = make_sidecar(fake.address, running)
            await call(sidecar.start)
            async with steady_load(sidecar):
                fake.fault = lambda request: web.Response(status=429)
                fake.requests.clear()
                fake.change()
                begin = time.monotonic()
                await asyncio.sleep(AGE)
                await until(lambda: sidecar.status()["consul"]["freshness"] > AGE, "the data's age", timeout=60)
                calls, took = len(fake.requests), time.monotonic() - begin
                saw(f"{calls} calls in {took:.1f} s")
                assert 3 < calls < 13 * took
                assert "429" in sidecar.status()["consul"]["problem"]
                assert sidecar.generation() == 1
                count = iter(range(1_000_000))
                fake.fault = lambda request: web.Response(status=429) if next(count) % 2 else None
                fake.put("new", entry("new", "new-1", app.port, "proxygen.route=new.example.com"))
                await answers(sidecar, "new.example.com")


@pytest.mark.incident("T15")
async def test_t15_connections_that_went_dead_without_a_word_are_given_up_in_time(
    consul: ConsulAgent, running: NginxServer, make_sidecar: MakeSidecar, saw: Saw
) -> None:
    """Injects a network that forgets every connection to the agent: no end, no reset, and nothing comes any more. The
    questions are asked again when their time is over, on connections of their own; what changed meanwhile is served."""
    async with relay(consul.address) as path:
        with App("web-1") as app:
            await call(consul.register, "web", port=app.port, tags=[ROUTE])
            sidecar = make_sidecar(path.address, running, consul__wait=f"{WAIT}s")
            await call(sidecar.start)
            async with steady_load(sidecar):
                dead, begin = path.forget(), time.monotonic()
                await call(consul.register, "new", port=app.port, tags=["proxygen.route=new.example.com"])
                await until(lambda: sidecar.generation() == 2, "the change", timeout=60)
                saw(f"{dead} connections went dead; seen {time.monotonic() - begin:.1f} s later with wait = {WAIT} s")
                await answers(sidecar, "new.example.com")
                assert dead >= 3
                assert path.wasted == 0, "a connection that lay idle when the others went dead was believed in"
            # Before the relay ends.
            await call(sidecar.kill)
