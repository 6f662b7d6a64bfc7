"""T20, T21, T22: an instance whose agent forgets it, one that says the same again, and one that leaves under load."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from proxygen.registration import HttpCheck, Registration, TtlCheck
from tests.harness.app import App
from tests.harness.consul import ConsulAgent
from tests.harness.entrypoint import Entrypoint
from tests.harness.instance import LATE
from tests.harness.load import fetch
from tests.harness.nginx import NginxServer
from tests.harness.ports import free_ports
from tests.harness.sidecar import Sidecar
from tests.integration.waiting import HOST, answers, steady_load, until

pytestmark = pytest.mark.faults


def index_of(consul: ConsulAgent, path: str) -> int:
    """What a watcher of this path would wait on."""
    with urllib.request.urlopen(f"http://{consul.address}{path}", timeout=10) as answer:
        return int(answer.headers["X-Consul-Index"])


def writes(consul: ConsulAgent) -> int:
    """How often anything was registered; the agent logs each request."""
    return consul.log.read_text(errors="replace").count("/v1/agent/service/register")


# --- T20 --------------------------------------------------------------------------------------------------------------


@pytest.mark.incident("T20")
async def test_t20_an_agent_that_lost_its_data_has_the_service_again_within_one_heartbeat(
    make_consul: Callable[..., ConsulAgent], saw: Callable[[str], None]
) -> None:
    """Injects an agent that restarts without its data. The first heartbeat that finds it back and the service missing
    puts it there, with the status that it had."""
    consul = make_consul()
    await asyncio.to_thread(consul.start)
    found: list[bool] = []

    def health() -> bool:
        """Note what each heartbeat finds while an agent answers at all."""
        with contextlib.suppress(OSError):
            found.append(consul.get("/v1/agent/service/web-1") is not None)
        return True

    with App("web-1") as app:
        checks = [TtlCheck(3, health), HttpCheck("/")]
        async with Registration(
            name="web", port=app.port, id="web-1", address="127.0.0.1", check=checks, drain=0, consul=consul.address
        ):
            await until(lambda: is_passing(consul), "in service")
            await until(lambda: found.count(True) > 1, "heartbeats that found it there")
            found.clear()
            await asyncio.to_thread(consul.restart)
            await until(lambda: is_passing(consul), "in service again", timeout=60)
            # A heartbeat may come upon an agent that answers and does not take registrations yet.
            assert found.count(False) <= 2, found
            saw(f"{found.count(False)} heartbeat(s) found the agent back without the service")


@pytest.mark.incident("T20")
async def test_t20_a_service_that_somebody_removed_is_back_after_one_heartbeat(consul: ConsulAgent) -> None:
    """Injects a deregistration behind the application's back: the heartbeat's check is unknown (404 or 500)."""
    async with Registration(
        name="web", port=1, id="web-1", address="127.0.0.1", check=TtlCheck(1.5), drain=0, consul=consul.address
    ):
        await until(lambda: consul.get("/v1/agent/service/web-1"), "registered")
        for _ in range(3):
            await asyncio.to_thread(consul.deregister, "web-1")
            await until(lambda: is_passing(consul), "registered again")


def is_passing(consul: ConsulAgent) -> bool:
    instances = consul.instances("web")
    return bool(instances) and all(check["Status"] == "passing" for check in instances[0]["Checks"])


# --- T21 --------------------------------------------------------------------------------------------------------------

APPLICATION = """
import asyncio, sys
from proxygen.registration import HttpCheck, ProxyTags, Registration, TtlCheck

async def main():
    check = [TtlCheck(120, lambda: True), HttpCheck("/")]
    tags = ProxyTags(route=["app.example.com"], canary="10%")
    async with Registration(name="web", port=int(sys.argv[2]), tags=tags, check=check, address="127.0.0.1",
                            meta={"team": "shop"}, tagged_addresses={"wan": ("203.0.113.7", 80)}, consul=sys.argv[1]):
        print("entered", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.incident("T21")
@pytest.mark.timeout(600)
async def test_t21_an_unchanged_registration_writes_nothing_and_wakes_nobody(
    make_consul: Callable[..., ConsulAgent],
) -> None:
    """Injects three kills of the application; each time it comes back and says the same. The indexes on which
    watchers wait stay where they are, and no check changes."""
    consul = make_consul()
    await asyncio.to_thread(consul.start)
    watched = ["/v1/health/service/web", "/v1/catalog/services", "/v1/catalog/service/web", "/v1/health/checks/web"]
    with App("web-1") as app:
        process = await start_application(consul, app)
        await until(lambda: is_passing(consul), "in service", timeout=30)
        before = {path: index_of(consul, path) for path in watched}
        statuses = consul.instances("web")[0]["Checks"]
        written = writes(consul)
        for _ in range(3):
            process.kill()
            await process.wait()
            process = await start_application(consul, app)
        assert {path: index_of(consul, path) for path in watched} == before
        assert consul.instances("web")[0]["Checks"] == statuses
        assert writes(consul) == written
        process.kill()
        await process.wait()


async def start_application(consul: ConsulAgent, app: App) -> asyncio.subprocess.Process:
    """Start the application and wait until it is in its block."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", APPLICATION, consul.address, str(app.port)), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    async with asyncio.timeout(60):
        assert await process.stdout.readline() == b"entered\n"
    return process


# --- T22 --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.incident("T22")
async def test_t22_five_instances_are_replaced_in_turn_under_load(
    consul: ConsulAgent,
    running: NginxServer,
    make_sidecar: Callable[..., Sidecar],
    tmp_path: Path,
    saw: Callable[[str], None],
) -> None:
    """Injects SIGTERM into each of five instances and starts another in its place. No request fails though nginx may
    not try a second instance, none reaches an instance that was told to end, and what is in flight is finished."""
    sidecar = make_sidecar(consul, running)
    ports = free_ports(5)
    entrypoints = {port: start_instance(consul, tmp_path, port, "old") for port in ports}
    try:
        sidecar.start()
        for port in ports:
            await answers(sidecar, by=f"old-{port}")
        async with steady_load(sidecar) as tally:
            for port in ports:
                in_flight = [asyncio.create_task(slow_request(sidecar)) for _ in range(5)]
                code = await asyncio.to_thread(entrypoints[port].stop)
                assert code != LATE, "a request came after SIGTERM"
                assert code == 0, entrypoints[port].said
                assert {await request for request in in_flight} == {200}
                entrypoints[port] = start_instance(consul, tmp_path, port, "new")
                await answers(sidecar, by=f"new-{port}")
        saw(f"{tally.total} requests, {tally.failed} failed, {sidecar.applies()} reloads")
    finally:
        for entrypoint in entrypoints.values():
            entrypoint.kill()


def start_instance(consul: ConsulAgent, directory: Path, port: int, kind: str) -> Entrypoint:
    """Start an instance as a container would, with the drain that is the default."""
    name = f"{kind}-{port}"
    return Entrypoint(
        consul,
        directory / f"{name}.log",
        [
            *("--name", "web", "--port", port, "--address", "127.0.0.1", "--route", HOST, "--retries", "0"),
            *("--check-http", "/healthz", "--", sys.executable, "-m", "tests.harness.instance", name, port),
        ],
    )


async def slow_request(sidecar: Sidecar) -> int:
    status, _ = await fetch("127.0.0.1", sidecar.http, "/slow", {"Host": HOST})
    return status
