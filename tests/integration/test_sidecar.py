"""The main job on the real parts: what registers in Consul is served by nginx."""

from __future__ import annotations

import asyncio

from tests.harness.app import App
from tests.harness.consul import ConsulAgent
from tests.harness.load import fetch
from tests.harness.sidecar import Sidecar


async def test_a_registered_service_is_served_and_a_deregistered_one_is_not(
    consul: ConsulAgent, any_sidecar: Sidecar
) -> None:
    any_sidecar.start()
    with App("web-1") as app:
        service = consul.register("web", port=app.port, tags=["proxygen.route=web.example.com"])
        await eventually(any_sidecar, "web.example.com", 200)
        consul.deregister(service)
        await eventually(any_sidecar, "web.example.com", 404)


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
