"""The README's application as it stands there: in Consul with a canary share, behind nginx, and gone without a loss."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from tests.harness.app import App
from tests.harness.consul import ConsulAgent
from tests.harness.load import Load
from tests.harness.ports import free_port
from tests.harness.sidecar import Sidecar
from tests.integration.waiting import answers, steady_load, until

ROOT = Path(__file__).parents[2]
HOST = "app.example.com"
REQUESTS = 1000


@pytest.mark.slow
async def test_ten_lines_register_with_a_canary_share_and_are_served(
    consul: ConsulAgent,
    any_sidecar: Sidecar,
    tmp_path: Path,
) -> None:
    """Beside one stable instance it gets its share of the requests; nothing fails, its end included."""
    sidecar = any_sidecar
    with App("stable") as stable:
        consul.register("web", id="web-stable", port=stable.port, tags=[f"proxygen.route={HOST}"])
        sidecar.start()
        await answers(sidecar, HOST, by="stable")
        running = await start_example(consul, tmp_path)
        try:
            await until(lambda: len(passing(consul)) == 2, "the application in service", timeout=60)
            await until_share(sidecar, 0.1)
            async with steady_load(sidecar, HOST):
                running.terminate()
                async with asyncio.timeout(60):
                    assert await running.wait() == 0
        finally:
            if running.returncode is None:
                running.kill()
                await running.wait()
    assert [one["Service"]["ID"] for one in consul.instances("web")] == ["web-stable"]


async def until_share(sidecar: Sidecar, share: float) -> None:
    """Send loads until one is split as asked, within three standard deviations; the first ones may be too early."""
    seen = []
    for _ in range(10):
        tally = await Load("127.0.0.1", sidecar.http, headers={"Host": HOST}).send(REQUESTS)
        assert not tally.failures, tally.failures
        seen.append(tally.share(lambda name: name != "stable"))
        if abs(seen[-1] - share) < 3 * (share * (1 - share) / REQUESTS) ** 0.5:
            return
    raise AssertionError(f"asked for {share}, saw {seen}\n{sidecar.tail()}")


async def start_example(consul: ConsulAgent, directory: Path) -> asyncio.subprocess.Process:
    """Start the page's application on a port that is free here, and announce the address that every machine has."""
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len([line for line in example.splitlines() if line]) == 10
    script = directory / "app.py"
    script.write_text(
        example.replace('name="web",', 'name="web", address="127.0.0.1",').replace("8080", str(free_port())),
        encoding="utf-8",
    )
    environment = {**os.environ, "CONSUL_HTTP_ADDR": consul.address, "PYTHONPATH": str(ROOT)}
    return await asyncio.create_subprocess_exec(sys.executable, str(script), env=environment)


def passing(consul: ConsulAgent) -> list[object]:
    return [one for one in consul.instances("web") if all(check["Status"] == "passing" for check in one["Checks"])]
