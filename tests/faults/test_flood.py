"""More changes than nginx could ever be told one by one."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from proxygen.settings import ReloadSettings
from tests.bench.upstreams import Upstreams
from tests.harness.app import App
from tests.harness.consul import ConsulAgent
from tests.harness.load import Load
from tests.harness.nginx import NginxServer
from tests.harness.outside import OutsideNode
from tests.harness.sidecar import Sidecar
from tests.harness.tools import LUA, find_lua_nginx, missing
from tests.integration.waiting import call, said, steady_load, until

MakeSidecar = Callable[..., Sidecar]
Saw = Callable[[str], None]

SERVICES: Final = 20
FLAPPING: Final = 5
"""Instances of each service that flap; one more is steady."""

FREQUENCY: Final = 5
"""Hz."""

WORKERS: Final = 2
CAP: Final = 2
INTERVAL: Final = 1
"""Seconds in which a flood earns its next reload: half of the default, so that half the time brings as many."""
ENOUGH: Final = 3
"""Reloads without which a flood would not have been let through at all, however busy the machine."""


@pytest.fixture
def upstreams(tmp_path: Path) -> Iterator[Upstreams]:
    names = [f"s{service}-{number}" for service in range(SERVICES) for number in range(FLAPPING + 1)]
    with Upstreams(tmp_path / "upstreams", names) as upstreams:
        yield upstreams


@pytest.mark.incident("T17")
@pytest.mark.slow
@pytest.mark.timeout(1200)
async def test_t17_a_hundred_flapping_instances_cost_a_bounded_number_of_reloads(
    consul: ConsulAgent,
    running: NginxServer,
    make_sidecar: MakeSidecar,
    upstreams: Upstreams,
    seconds: Callable[[float, float], float],
    saw: Saw,
) -> None:
    """Injects 100 instances of 20 services whose checks change five times a second each, at first while slow requests
    keep old workers alive. Old workers stay within their cap, then reloads within their budget, no request to a service
    that has a healthy instance fails, and when it is over nginx serves what Consul says."""
    outside = OutsideNode([consul])
    flapping = _register(outside, upstreams)
    sidecar = make_sidecar(consul, running, reload__max_draining=CAP, reload__interval=f"{INTERVAL}s")
    async with AsyncExitStack() as stack:
        slow = stack.enter_context(App("slow-1"))
        consul.register("slow", port=slow.port, tags=["proxygen.route=slow.test"])
        sidecar.start()
        for service in range(3):
            await stack.enter_async_context(steady_load(sidecar, f"s{service}.test"))
        sluggish = [_sluggish(sidecar, delay) for delay in (2, 3, 4)]
        crawling = [asyncio.create_task(load.send(1000), name="slow requests") for load in sluggish]
        draining = asyncio.create_task(_most_draining(sidecar), name="old workers")
        before = _reloads(running)
        flaps = await _flap(
            outside, flapping, for_seconds=seconds(6, 300), until=lambda: _reloads(running) - before >= ENOUGH
        )
        for load in sluggish:
            load.stop()
        tallies = await asyncio.gather(*crawling)

        # Nothing but the governor is in the way of a reload now.
        begin, before = time.monotonic(), _reloads(running)
        flaps += await _flap(
            outside, flapping, for_seconds=seconds(15, 300), until=lambda: _reloads(running) - before >= ENOUGH
        )
        took, reloads = time.monotonic() - begin, _reloads(running) - before

        await call(outside.set_checks, dict.fromkeys(flapping, "passing"))
        await until(lambda: _serving(sidecar) == len(flapping) + SERVICES + 1, "what Consul says", timeout=60)
        draining.cancel()
        most = await draining
    budget = _budget(took)
    saw(
        f"{flaps} rounds of {len(flapping)} checks; {reloads} reloads of {budget} in {took:.0f} s; {most} old workers"
        f" of {CAP + WORKERS}"
    )
    assert reloads <= budget
    assert 1 <= most <= CAP + WORKERS
    assert not [tally.failures for tally in tallies if tally.failures]
    assert not said(sidecar, "reload rolled back")


@pytest.mark.incident("T17")
@pytest.mark.slow
async def test_t17_where_nginx_is_pushed_to_they_cost_no_reload(
    consul: ConsulAgent,
    make_nginx: Callable[..., NginxServer],
    make_sidecar: MakeSidecar,
    upstreams: Upstreams,
    seconds: Callable[[float, float], float],
    saw: Saw,
) -> None:
    """Injects the same where nginx has Lua. No worker is new, no request fails, and when it is over nginx serves what
    Consul says."""
    binary = find_lua_nginx()
    if binary is None:
        missing("nginx with libnginx-mod-http-lua")
    nginx = make_nginx(binary, modules=LUA)
    nginx.start()
    outside = OutsideNode([consul])
    flapping = _register(outside, upstreams)
    sidecar = make_sidecar(consul, nginx)
    sidecar.start()
    await call(outside.set_checks, dict.fromkeys(flapping, "passing"))
    await until(lambda: _serving(sidecar) == len(flapping) + SERVICES, "what Consul says", timeout=60)
    workers, before = nginx.accepting(), _reloads(nginx)
    async with AsyncExitStack() as stack:
        for service in range(3):
            await stack.enter_async_context(steady_load(sidecar, f"s{service}.test"))
        pushed = len(_pushes(sidecar))
        flaps = await _flap(
            outside, flapping, for_seconds=seconds(10, 300), until=lambda: len(_pushes(sidecar)) - pushed >= ENOUGH
        )
        await call(outside.set_checks, dict.fromkeys(flapping, "passing"))
        await until(lambda: _serving(sidecar) == len(flapping) + SERVICES, "what Consul says", timeout=60)
    saw(f"{flaps} rounds of {len(flapping)} checks; {len(_pushes(sidecar)) - pushed} pushes")
    assert _reloads(nginx) == before
    assert nginx.workers() == workers


def _pushes(sidecar: Sidecar) -> list[dict[str, Any]]:
    return [line for line in sidecar.events() if line.get("event") == "generation applied" and line["by"] == "push"]


def _register(outside: OutsideNode, upstreams: Upstreams) -> list[str]:
    """Register every instance, and return the ids of those that are to flap."""
    flapping = []
    for name, port in upstreams.ports.items():
        service, _, number = name.partition("-")
        service_id = outside.register(service, port, f"route={service}.test")
        if number != "0":
            flapping.append(service_id)
    return flapping


def _sluggish(sidecar: Sidecar, delay: int) -> Load:
    """Four clients that keep the workers busy that get them, for so many seconds at a time."""
    headers = {"Host": "slow.test"}
    return Load("127.0.0.1", sidecar.http, path=f"/?delay={delay}", headers=headers, clients=4, timeout=60)


async def _flap(outside: OutsideNode, services: list[str], *, for_seconds: float, until: Callable[[], bool]) -> int:
    """Turn every check over, again and again, from a random start, for so long and until then; return how often."""
    statuses = {service: random.Random(service).choice(("passing", "critical")) for service in services}
    begin, rounds = time.monotonic(), 0
    while (took := time.monotonic() - begin) < for_seconds or not until():
        assert took < for_seconds + 120, f"not within {took:.0f} s"
        await call(outside.set_checks, statuses)
        rounds += 1
        statuses = {name: "critical" if status == "passing" else "passing" for name, status in statuses.items()}
        # A busy machine makes fewer rounds, never a burst of late ones.
        await asyncio.sleep(max(0.0, begin + rounds / FREQUENCY - time.monotonic()))
    return rounds


async def _most_draining(sidecar: Sidecar) -> int:
    """Count old workers until cancelled, and return the highest number."""
    most = 0
    try:
        while True:
            most = max(most, (await call(sidecar.status))["nginx"]["draining"] or 0)
            await asyncio.sleep(0.2)
    except asyncio.CancelledError:
        return most


def _budget(seconds: float) -> int:
    """Reloads that the governor allows: the burst, one per interval, and one that was under way."""
    return ReloadSettings().burst + int(seconds / INTERVAL) + 1


def _serving(sidecar: Sidecar) -> int:
    services = sidecar.status()["services"]
    return sum(
        instance["state"] == "serving"
        for service in services
        for variant in service["variants"]
        for instance in variant["instances"]
    )


def _reloads(server: NginxServer) -> int:
    return server.errors().count("(SIGHUP) received")
