"""Connections that are open for longer than a generation lives."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import pytest
from aiohttp import ClientSession, ClientWebSocketResponse

from tests.harness.app import App, echoes
from tests.harness.consul import ConsulAgent
from tests.harness.gateways import GrpcEcho, RpcStream
from tests.harness.nginx import NginxServer
from tests.harness.sidecar import Sidecar
from tests.harness.tools import NginxBinary
from tests.integration.certificates import Authority
from tests.integration.waiting import HOST, ROUTE, answers, call, steady_load, until

MakeSidecar = Callable[..., Sidecar]
MakeNginx = Callable[..., NginxServer]
Saw = Callable[[str], None]

RPC: Final = "rpc.example.com"
SHUTDOWN: Final = 12
"""Seconds of worker_shutdown_timeout: two reloads on a busy machine take less."""


@pytest.mark.incident("T30")
@pytest.mark.slow
async def test_t30_streams_live_until_the_shutdown_timeout_and_are_counted(
    consul: ConsulAgent,
    any_nginx_binary: NginxBinary,
    make_nginx: MakeNginx,
    make_sidecar: MakeSidecar,
    tmp_path: Path,
    saw: Saw,
) -> None:
    """Injects two reloads while a WebSocket and a gRPC stream are open and another WebSocket is opened between them.
    All three work until worker_shutdown_timeout is over, the old workers are counted meanwhile, and are gone after."""
    server = make_nginx(any_nginx_binary, main=f"worker_shutdown_timeout {SHUTDOWN}s;")
    server.start()
    (tmp_path / "certificates").mkdir()
    authority = Authority()
    authority.issue(tmp_path / "certificates", "rpc", RPC)
    sidecar = make_sidecar(consul, server, proxy__certificates=str(tmp_path / "certificates"))
    async with AsyncExitStack() as stack:
        app = stack.enter_context(App("web-1"))
        rpc = stack.enter_context(GrpcEcho("rpc-1"))
        consul.register("web", port=app.port, tags=[ROUTE])
        consul.register(
            "rpc", port=rpc.port, tags=[f"proxygen.route={RPC}", "proxygen.protocol=grpc", "proxygen.tls=auto"]
        )
        sidecar.start()
        session = await stack.enter_async_context(ClientSession())
        await stack.enter_async_context(steady_load(sidecar))
        first = await _websocket(session, sidecar)
        stream = RpcStream(sidecar.https, RPC, authority.pem)
        stack.callback(stream.close)
        assert await call(stream.echo, b"before") == b"before"

        reloaded = time.monotonic()
        await _reload(consul, sidecar, "one", app.port)
        second = await _websocket(session, sidecar)
        await _reload(consul, sidecar, "two", app.port)
        await until(lambda: sidecar.status()["nginx"]["draining"] >= 2, "old workers of two generations counted")
        draining = sidecar.status()["nginx"]["draining"]
        assert await echoes(second)
        cut = await asyncio.gather(_cut(lambda: echoes(first)), _cut(lambda: call(stream.is_open)))
        lived = [moment - reloaded for moment in cut]
        await until(lambda: sidecar.status()["nginx"]["draining"] == 0, "no old worker left", timeout=60)
        saw(f"{draining} old workers; cut after {', '.join(f'{each:.1f} s' for each in lived)} of {SHUTDOWN} s")
        assert min(lived) >= SHUTDOWN


async def _websocket(session: ClientSession, sidecar: Sidecar) -> ClientWebSocketResponse:
    socket = await session.ws_connect(f"http://127.0.0.1:{sidecar.http}/", headers={"Host": HOST})
    assert await socket.receive_str(timeout=10) == "web-1"
    return socket


async def _reload(consul: ConsulAgent, sidecar: Sidecar, name: str, port: int) -> None:
    """Let something change that nginx must be told, and wait until it serves it."""
    applies = sidecar.applies()
    consul.register(name, port=port, tags=[f"proxygen.route={name}.example.com"])
    await answers(sidecar, f"{name}.example.com")
    await until(lambda: sidecar.applies() > applies, "the proof of the reload")


async def _cut(works: Callable[[], Awaitable[bool]]) -> float:
    """Use a stream until it does not work any more, and return when that was."""
    for _ in range(1000):
        if not await works():
            return time.monotonic()
        await asyncio.sleep(0.2)
    raise AssertionError("never cut")
