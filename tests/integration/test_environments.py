"""docs/how-to/environments.md as it is written: three environments, a snapshot in CI, and what is lost with what."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from proxygen.settings import load
from tests.harness import process
from tests.harness.app import App
from tests.harness.consul import ConsulAgent
from tests.harness.nginx import NginxServer
from tests.harness.sidecar import Sidecar
from tests.harness.tools import NginxBinary
from tests.integration.waiting import steady_load

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "environments.md").read_text(encoding="utf-8")
HOST = "app.example.com"
ROUTE = f"proxygen.route={HOST}"


def block(language: str, holding: str) -> str:
    """The block of the page in this language that holds a text."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (found,) = [text for text in blocks if holding in text]
    return str(found)


class Shell:
    """Runs the page's blocks in a directory that has the page's /etc/proxygen, with what a CI machine sets."""

    def __init__(self, directory: Path, nginx: NginxBinary, address: str) -> None:
        self.directory = directory
        self.etc = directory / "etc"
        (self.etc / "certificates").mkdir(parents=True)
        (self.etc / "proxygen.toml").write_text(self.of(block("toml", "allowed_addresses")))
        scripts = Path(sys.executable).parent
        self._environment = {
            "PATH": f"{scripts}:{os.environ['PATH']}",
            "CONSUL_HTTP_ADDR": address,
            "PROXYGEN_CONFIG": str(self.etc / "proxygen.toml"),
            "PROXYGEN_NGINX_BINARY": str(nginx.path),
            "PROXYGEN_NGINX_CONF": str(directory / "nginx.conf"),
            "PROXYGEN_OUTPUT_DIRECTORY": str(directory / "output"),
        }
        # An nginx.conf of somebody who does not run the sidecar yet.
        (directory / "nginx.conf").write_text("events {}\nhttp {}\n")

    def of(self, text: str) -> str:
        return text.replace("/etc/proxygen", str(self.etc))

    def run(self, text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/sh", "-eu", "-c", self.of(text)],
            cwd=self.directory,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


@pytest.fixture
def shell(tmp_path: Path, any_nginx_binary: NginxBinary, consul: ConsulAgent) -> Shell:
    if shutil.which("jq") is None or shutil.which("openssl") is None:
        pytest.skip("the page's commands use jq and openssl")
    return Shell(tmp_path, any_nginx_binary, consul.address)


def register(consul: ConsulAgent, *tags: str) -> None:
    """A routed service whose check answers something that is nobody else's business, and a service without a route."""
    consul.register("web", id="web-1", port=9001, tags=[ROUTE, *tags], meta={"team": "shop"}, status="passing")
    # An output alone would be told to the catalog in five minutes (Consul's check_update_interval).
    consul.set_check("web-1", "warning", output="db password is hunter2")
    consul.register("secret", id="secret-1", port=9002)
    consul.kv_put("somebody/elses", "value")
    consul.kv_put("proxygen/canary/web", '{"canary": "5%"}')
    process.wait_until(lambda: "hunter2" in str(consul.instances("web")), what="the service with its check's output")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_production_is_checked_elsewhere_as_the_page_says(shell: Shell, consul: ConsulAgent) -> None:
    """Snapshot there; in CI, without Consul: precedence, exit codes, stand-ins, and what a change would do."""
    register(consul, "proxygen.tls=auto")
    taken = shell.run(block("sh", "proxygen snapshot"))
    assert taken.returncode == 0, taken.stderr
    whole, shared = ((shell.directory / name).read_text() for name in ("production.json", "shared.json"))
    assert "hunter2" in whole
    assert "hunter2" not in shared
    assert set(json.loads(shared)["services"]) == {"web"}
    assert json.loads(shared)["kv"] == {"proxygen/canary/web": '{"canary": "5%"}'}

    consul.clean()
    check = block("sh", "proxygen check")
    refused = shell.run(check)
    assert (refused.returncode, refused.stdout) == (1, "0 services pass, 1 quarantined, 0 conflicts\n")
    assert "web" in refused.stderr
    assert shell.run(block("sh", "openssl")).returncode == 0
    passed = shell.run(check)
    assert (passed.returncode, passed.stdout) == (0, "1 services pass, 0 quarantined, 0 conflicts\n"), passed.stderr

    rendered = shell.run(block("sh", "--proxy-http-listen"))
    assert rendered.stdout == block("text", "listen 8080"), rendered.stderr
    compared = shell.run(block("sh", "diff -ru"))
    changed = [line for line in compared.stdout.splitlines() if re.match(r"[-+] ", line)]
    assert [line[0] for line in changed] == ["-", "+"], compared
    assert "max-age=86400" in changed[1]


def test_the_table_of_environments_is_settings_that_load(tmp_path: Path) -> None:
    file = tmp_path / "proxygen.toml"
    file.write_text(block("toml", "allowed_addresses"))
    rows = re.findall(r"^\| `([A-Z_]+)` \|(.*)\|$", PAGE, re.MULTILINE)
    columns = [
        {name: cells.split("|")[column].strip().strip("`") for name, cells in rows if cells.split("|")[column].strip()}
        for column in range(3)
    ]
    development, test, production = (load(file=file, environment=variables) for variables in columns)
    assert [one.guard.hold for one in (development, test, production)] == [0, 0, 300]
    assert [one.log.format for one in (development, test, production)] == ["text", "json", "json"]
    assert {one.proxy.http_listen for one in (development, test, production)} == {("8080",)}
    assert production.consul.address == "https://127.0.0.1:8501"


async def test_an_output_that_is_taken_away_stops_what_is_new_and_a_restart_brings_all_back(
    consul: ConsulAgent, any_nginx: NginxServer, make_sidecar: Callable[..., Sidecar]
) -> None:
    """nginx goes on, /readyz says why nothing new comes, and no request is lost on the way back."""
    sidecar = make_sidecar(consul, any_nginx, reload__gap="0ms")
    with App("web-1") as one, App("web-2") as two:
        consul.register("web", id="web-1", port=one.port, tags=[ROUTE])
        sidecar.start()
        async with steady_load(sidecar, HOST) as tally:
            await asyncio.to_thread(lose_and_come_back, consul, sidecar, two)
    assert tally.by_instance.keys() == {"web-1", "web-2"}


def lose_and_come_back(consul: ConsulAgent, sidecar: Sidecar, two: App) -> None:
    for path in sidecar.output.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    consul.register("web", id="web-2", port=two.port, tags=[ROUTE])
    process.wait_until(lambda: sidecar.request("/readyz")[0] == 503, what="a sidecar that is not ready")
    reasons = str(sidecar.request("/readyz")[1]["reasons"])
    told = block("text", "taken away").strip().removeprefix("/var/lib/proxygen")
    assert f"{sidecar.output}{told}" in reasons
    assert two.requests == 0
    sidecar.stop()
    sidecar.start()
    process.wait_until(lambda: two.requests, what="requests at the new instance")
    assert sidecar.generation() == 1
    assert (sidecar.output / "state" / "memory.json").exists()
