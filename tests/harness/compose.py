"""A Compose project that podman-compose runs on the tests' own engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Final

from tests.harness import process
from tests.harness.engine import Engine
from tests.harness.ports import free_ports
from tests.harness.tools import missing

COMPOSE: Final = Path(__file__).parents[2] / "deploy" / "compose"
HOST: Final = "app.localhost"
"""The host that the example application is routed by."""


def plain_podman(engine: Engine, scratch: Path) -> dict[str, str]:
    """Return the environment in which a bare ``podman`` and podman-compose use this engine, as a user types them."""
    given = dict(option.removeprefix("--").split("=", 1) for option in engine.options)
    storage = scratch / "storage.conf"
    storage.write_text(
        f'[storage]\ndriver = "{given["storage-driver"]}"\n'
        f'graphroot = "{given["root"]}"\nrunroot = "{given["runroot"]}"\n'
        + (f'[storage.options]\nadditionalimagestores = ["{engine.images}"]\n' if engine.images else "")
    )
    containers = scratch / "containers.conf"
    text = Path(engine.environment["CONTAINERS_CONF"]).read_text()
    own = f'[engine]\ncgroup_manager = "{given["cgroup-manager"]}"\ntmp_dir = "{given["tmpdir"]}"\n'
    containers.write_text(text.replace("[engine]\n", own))
    return {"CONTAINERS_CONF": str(containers), "CONTAINERS_STORAGE_CONF": str(storage)}


def podman_compose() -> Path:
    """Return the one of the tests' own environment: Debian 12's is too old for the file."""
    found = Path(sys.executable).parent / "podman-compose"
    if not found.exists():
        missing("podman-compose (PyPI)")
    return found


class Project:
    """deploy/compose/compose.yaml under a name, ports and images of its own."""

    def __init__(self, engine: Engine, name: str, scratch: Path, **variables: str) -> None:
        self.name = name
        self.port, self._admin = free_ports(2)
        self._files: tuple[str, ...] = ("compose.yaml",)
        self._environment = {
            **os.environ,
            **plain_podman(engine, scratch),
            "PROJECT": name,
            "HTTP_BIND": f"127.0.0.1:{self.port}",
            "ADMIN_BIND": f"127.0.0.1:{self._admin}",
            "PROXYGEN_ADMIN_LISTEN": "0.0.0.0:18081",
            **variables,
        }

    def override(self, *files: str) -> None:
        """Use these files beside compose.yaml from now on."""
        self._files = ("compose.yaml", *files)

    def compose(self, *arguments: str, variables: Mapping[str, str] | None = None, timeout: float = 120.0) -> str:
        """Run podman-compose to its end, and return its standard output. Raise RuntimeError when it fails."""
        files = [option for name in self._files for option in ("-f", name)]
        return self._run([str(podman_compose()), *files, *arguments], variables or {}, timeout)

    def podman(self, *arguments: str, timeout: float = 60.0) -> str:
        return self._run(["podman", *arguments], {}, timeout)

    def set_share(self, share: str) -> None:
        """Write the canary's share where `proxygen canary set` writes it, in a fraction of its time."""
        value = json.dumps({"canary": share})
        self.podman("exec", self.container("consul"), "consul", "kv", "put", "proxygen/canary/web", value)

    def status(self) -> dict[str, Any]:
        """The sidecar's report; empty where no sidecar answers."""
        _, body = self._get(self._admin, "/api/v1/status")
        report: dict[str, Any] = json.loads(body) if body else {}
        return report

    def container(self, service: str) -> str:
        named = service == "pod" or (service == "nginx" and "compose.docker-api.yaml" in self._files)
        return f"{self.name}-{service}" if named else f"{self.name}_{service}_1"

    def inspect(self, service: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.podman("inspect", self.container(service)))[0]
        return found

    def pid(self, service: str) -> int:
        """The container's first process as the host knows it; 0 while it is stopped."""
        return int(self.inspect(service)["State"]["Pid"])

    def started(self, service: str) -> str:
        return str(self.inspect(service)["State"]["StartedAt"])

    def wait_for_generation(self, after: int = 0, *, timeout: float = 30.0) -> int:
        """Wait until a newer generation is live and the sidecar is ready; return its number."""

        def live() -> int:
            report = self.status()
            number = int((report.get("live") or {"number": 0})["number"])
            return number if report.get("state") == "ready" and number > after else 0

        process.wait_until(live, what=f"a generation after {after}", timeout=timeout)
        return live() or self.wait_for_generation(after, timeout=timeout)

    def answers(self) -> bool:
        """Whether the application is reached through nginx."""
        return self._get(self.port, "/")[0] == HTTPStatus.OK

    def version(self) -> str:
        """The version of the application that answers now."""
        return str(json.loads(self._get(self.port, "/")[1] or "{}").get("version"))

    def _get(self, port: int, path: str) -> tuple[int, str]:
        """Return status and body; 0 and nothing where nobody answers."""
        connection = HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", path, headers={"Host": HOST})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except (OSError, HTTPException):
            return 0, ""
        finally:
            connection.close()

    def down(self) -> None:
        self.compose("down", "--volumes", "--timeout=1")

    def _run(self, command: list[str], variables: Mapping[str, str], timeout: float) -> str:
        environment = {**self._environment, **variables}
        done = subprocess.run(
            command, cwd=COMPOSE, env=environment, capture_output=True, text=True, timeout=timeout, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {(done.stdout + done.stderr)[-4000:]}")
        return done.stdout
