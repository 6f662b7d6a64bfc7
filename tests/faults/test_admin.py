"""Those who connect to the admin API and want nothing good."""

from __future__ import annotations

import resource
from collections.abc import Callable
from typing import Final

import pytest

from tests.harness.app import App
from tests.harness.consul import ConsulAgent
from tests.harness.harms import idle_connections
from tests.harness.nginx import NginxServer
from tests.harness.sidecar import Sidecar
from tests.integration.waiting import ROUTE, answers, call, said, served_after, until

IDLE: Final = 1100
LIMITED: Final = ("sh", "-c", 'ulimit -Sn 256; ulimit -Hn 1024; exec "$@"', "limited")
MOST_LOGGED: Final = 1_000_000
"""Bytes."""


@pytest.mark.incident("T49")
@pytest.mark.parametrize("listener", ["port", "socket"])
async def test_t49_idle_connections_hold_up_no_change(
    consul: ConsulAgent,
    running: NginxServer,
    make_sidecar: Callable[..., Sidecar],
    saw: Callable[[str], None],
    listener: str,
) -> None:
    """Injects 1,100 connections to the admin API that say nothing, under a limit of 1,024 files and no other. A
    newcomer is served about as quickly as before, who asks for the status gets it, and the log says it in a line."""
    with App("web-1") as app:
        await call(consul.register, "web", port=app.port, tags=[ROUTE])
        sidecar = make_sidecar(consul, running, admin__idle="10m", admin__max_connections=65536, log__level="info")
        await call(sidecar.start, within=LIMITED)
        assert resource.prlimit(sidecar.pid, resource.RLIMIT_NOFILE) == (1024, 1024)
        await answers(sidecar)
        alone = await served_after(consul, sidecar, app.port, "first")
        with idle_connections(sidecar, IDLE, listener):
            beset = await served_after(consul, sidecar, app.port, "second")
            assert (await call(sidecar.status))["state"] == "ready"
            assert (await call(sidecar.command, "status")).returncode == 0
            await until(lambda: said(sidecar, "idle admin connections closed to make room"), "the word of it")
            beset = max(beset, await served_after(consul, sidecar, app.port, "third"))
        size = sidecar.log.stat().st_size
        saw(f"served after {alone:.2f} s alone, {beset:.2f} s beset; {size} bytes of log")
        assert len(said(sidecar, "idle admin connections closed to make room")) == 1
        assert not said(sidecar, "admin connections not accepted")
        assert size < MOST_LOGGED
