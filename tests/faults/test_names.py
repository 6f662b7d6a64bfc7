"""Service names that people write and URLs do not like: T34."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import quote

import pytest

from proxygen.consul.names import name_problem
from tests.harness.app import App
from tests.harness.consul import ConsulAgent
from tests.harness.nginx import NginxServer
from tests.harness.sidecar import Sidecar
from tests.integration.waiting import answers, call, said, until

SERVED: Final = ("team/api", "team/api/v1", "q?x=1", "h#x", "lit%2Fx", "100%", "sp ace", "ünï", "a+b", "...")
STEERED: Final = ("team/api", "q?x=1", "lit%2Fx")
LEFT_OUT: Final = ("..", "a//b", "trail/", "/lead", "a/../b", "new\nline")


@pytest.mark.incident("T34")
async def test_t34_a_name_is_served_or_refused_by_name(
    consul: ConsulAgent, running: NginxServer, make_sidecar: Callable[..., Sidecar], tmp_path: Path
) -> None:
    """Injects services whose names have slashes, and what else has a meaning in a URL. Each is served, shown and
    steered as any other; or named with the reason in the log, in status, by `check` and by `tags lint`."""
    sidecar = make_sidecar(consul, running)
    with App("one") as one, App("two") as two:
        for number, name in enumerate(SERVED):
            consul.register(name, id=f"s{number}", port=one.port, tags=[f"proxygen.route=s{number}.test"])
            consul.register(name, id=f"c{number}", port=two.port, tags=["proxygen.canary=0%"])
        for number, name in enumerate(LEFT_OUT):
            consul.register(name, id=f"l{number}", port=one.port, tags=[f"proxygen.route=l{number}.test"])
        sidecar.start()
        for number, name in enumerate(SERVED):
            await answers(sidecar, f"s{number}.test", by="one")
            path = f"/services/{quote(name, safe='')}"
            assert sidecar.request(f"/api/v1{path}")[1]["name"] == name
            assert f"/api/v1{path}/shares" in await call(_page, sidecar, path)
        for name in STEERED:
            set_to = await call(sidecar.command, "canary", "set", name, "100%")
            assert set_to.returncode == 0, set_to.stderr
            assert consul.get(f"/v1/kv/{quote(f'proxygen/canary/{name}')}")
            await answers(sidecar, f"s{SERVED.index(name)}.test", by="two")
            assert "100%" in (await call(sidecar.command, "canary", "show", name)).stdout
        for number, _ in enumerate(LEFT_OUT):
            await answers(sidecar, f"l{number}.test", 404)
        warnings, logged = sidecar.status()["warnings"], said(sidecar, "service left out")
        check = await call(sidecar.command, "check")
        for name in LEFT_OUT:
            assert any(repr(name) in warning and name_problem(name) in warning for warning in warnings), name
            assert [event["reason"] for event in logged if event["service"] == name] == [name_problem(name)]
            assert name_problem(name) in check.stderr
            linted = await call(_lint, sidecar, tmp_path / "definition.json", name)
            assert (linted.returncode, name_problem(name) in linted.stdout) == (1, True)
        assert (await call(_lint, sidecar, tmp_path / "definition.json", "team/api")).returncode == 0
        # What is gone is warned of no more.
        for number, _ in enumerate(LEFT_OUT):
            consul.deregister(f"l{number}")
        await until(lambda: not sidecar.status()["warnings"], "no warning any more")


def _page(sidecar: Sidecar, path: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{sidecar.admin}{path}", timeout=5) as answer:
        text: str = answer.read().decode()
    return text


def _lint(sidecar: Sidecar, file: Path, name: str) -> subprocess.CompletedProcess[str]:
    file.write_text(json.dumps({"Name": name, "Tags": ["proxygen.route=a.example.com"]}))
    return sidecar.command("tags", "lint", str(file))
