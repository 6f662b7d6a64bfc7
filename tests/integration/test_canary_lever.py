"""The operator's lever from end to end: `proxygen canary` writes to KV, and nginx divides accordingly."""

from __future__ import annotations

import asyncio

from tests.harness.app import App
from tests.harness.consul import ConsulAgent
from tests.harness.load import Load
from tests.harness.sidecar import Sidecar

HOST = "web.example.com"
ROUTE = f"proxygen.route={HOST}"


async def test_promote_and_abort_move_everything_and_back(consul: ConsulAgent, any_sidecar: Sidecar) -> None:
    """With both sides alive and no force rule, a share of 100 % or 0 % leaves nothing to divide, and still serves."""
    with App("stable-1") as stable, App("canary-1") as canary:
        consul.register("web", port=stable.port, tags=[ROUTE])
        consul.register("web", port=canary.port, tags=[ROUTE, "proxygen.canary=50%"])
        any_sidecar.start()
        for command, only in ((("promote", "web"), "canary-1"), (("abort", "web"), "stable-1")):
            done = await asyncio.to_thread(any_sidecar.command, "canary", *command)
            assert done.returncode == 0, done.stderr
            await _answered_only_by(any_sidecar, only)


async def _answered_only_by(sidecar: Sidecar, name: str) -> None:
    for _ in range(40):
        tally = await Load("127.0.0.1", sidecar.http, headers={"Host": HOST}).send(60)
        assert tally.failed == 0
        if tally.share(lambda seen: seen == name) == 1:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"not everything comes from {name}\n{sidecar.tail()}")
