"""The operator's lever where nginx serves something else than the newest tags say."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.harness.app import App
from tests.harness.consul import ConsulAgent
from tests.harness.load import Load
from tests.harness.nginx import NginxServer
from tests.harness.sidecar import Sidecar
from tests.integration.waiting import HOST, ROUTE, call, until

MakeSidecar = Callable[..., Sidecar]


@pytest.mark.incident("T61")
@pytest.mark.parametrize("how", ["unreadable", "gone, and held"])
async def test_what_nginx_serves_is_aborted_whatever_the_newest_tags_say(
    how: str, consul: ConsulAgent, any_nginx: NginxServer, make_sidecar: MakeSidecar
) -> None:
    """nginx serves the canary as it was before; an abort takes its requests all the same."""
    sidecar = make_sidecar(consul, any_nginx, guard__minimum_instances={"web*": 2})
    with App("stable-1") as stable, App("canary-1") as canary:
        consul.register("web", id="stable-1", port=stable.port, tags=[ROUTE])
        consul.register("web", id="canary-1", port=canary.port, tags=[ROUTE, "proxygen.canary=50%"])
        sidecar.start()
        if how == "unreadable":
            consul.register("web", id="canary-1", port=canary.port, tags=[ROUTE, "proxygen.canary=5O%"])
            await until(lambda: "5O%" in str(sidecar.status()["conditions"]), "the unreadable tag in the status")
        else:
            consul.deregister("canary-1")
            await until(lambda: sidecar.status()["hold"], "the hold")
        tally = await Load("127.0.0.1", sidecar.http, headers={"Host": HOST}).send(100)
        assert tally.share(lambda seen: seen == "canary-1") > 0
        done = await call(sidecar.command, "canary", "abort", "web")
        assert done.returncode == 0, done.stderr
        assert done.stdout == "web canary: 50% (served) -> 0%\n"
        await _answered_only_by(sidecar, "stable-1")


async def _answered_only_by(sidecar: Sidecar, name: str) -> None:
    for _ in range(40):
        tally = await Load("127.0.0.1", sidecar.http, headers={"Host": HOST}).send(60)
        assert tally.failed == 0
        if tally.share(lambda seen: seen == name) == 1:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"not everything comes from {name}\n{sidecar.tail()}")
