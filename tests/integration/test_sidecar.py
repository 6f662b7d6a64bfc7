"""The main job on the real parts: what registers in Consul is served by nginx."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tests.harness.app import App
from tests.harness.consul import ConsulAgent
from tests.harness.load import Load, fetch
from tests.harness.sidecar import Sidecar

MakeSidecar = Callable[..., Sidecar]


async def test_a_registered_service_is_served_and_a_deregistered_one_is_not(
    consul: ConsulAgent, sidecar: Sidecar
) -> None:
    sidecar.start()
    with App("web-1") as app:
        service = consul.register("web", port=app.port, tags=["proxygen.route=web.example.com"])
        await eventually(sidecar, "web.example.com", 200)
        consul.deregister(service)
        await eventually(sidecar, "web.example.com", 404)


async def test_a_canary_gets_its_share(consul: ConsulAgent, sidecar: Sidecar) -> None:
    with App("stable-1") as stable, App("canary-1") as canary:
        consul.register("web", port=stable.port, tags=["proxygen.route=web.example.com"])
        consul.register("web", port=canary.port, tags=["proxygen.route=web.example.com", "proxygen.canary=10%"])
        sidecar.start()
        load = Load("127.0.0.1", sidecar.http, headers={"Host": "web.example.com"}, keepalive=True)
        tally = await load.send(4000)
        assert tally.failed == 0
        assert abs(tally.share(lambda name: name == "canary-1") - 0.1) < 3 * (0.1 * 0.9 / 4000) ** 0.5


async def eventually(sidecar: Sidecar, host: str, status: int, path: str = "/") -> None:
    """Wait until a request for the host is answered with the status."""
    answer: object = None
    for _ in range(200):
        try:
            answer = (await fetch("127.0.0.1", sidecar.http, path, {"Host": host}))[0]
        except OSError as error:
            answer = error
        if answer == status:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{host}{path} answered {answer}, not {status}\n{sidecar.tail()}")
