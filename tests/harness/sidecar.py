"""`proxygen run` as its users start it: a process of its own beside a Consul and an nginx."""

from __future__ import annotations

import json
import signal
import subprocess
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from proxygen.settings.retired import RETIRED
from tests.harness import process, warm
from tests.harness.consul import ConsulAgent
from tests.harness.nginx import NginxServer
from tests.harness.ports import free_port
from tests.harness.tail import JsonLines


class Sidecar:
    """The process, its ports, its log and its admin API.

    ``settings`` are knobs by ``slice.name``; they win over what the harness sets. ``http`` and ``https`` are the
    ports on which virtual servers listen.
    """

    def __init__(
        self,
        consul: ConsulAgent | str,
        nginx: NginxServer,
        directory: Path,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        self.http = free_port()
        self.https = free_port()
        self.admin = free_port()
        self.output = nginx.output
        self.log = directory / "sidecar.log"
        self.config = directory / "proxygen.toml"
        self._lines = JsonLines(self.log)
        self._process: process.Started | None = None
        address = consul if isinstance(consul, str) else consul.address
        knobs: dict[str, object] = {
            "consul.address": address,
            "proxy.http_listen": f"127.0.0.1:{self.http}",
            "proxy.https_listen": f"127.0.0.1:{self.https}",
            "nginx.binary": str(nginx.binary.path),
            "nginx.conf": str(nginx.conf),
            "nginx.prefix": str(nginx.directory),
            "nginx.stamp": f"127.0.0.1:{free_port()}",
            "output.directory": str(nginx.output),
            "admin.listen": f"127.0.0.1:{self.admin}",
            "log.format": "json",
            "log.level": "debug",
            **(settings or {}),
        }
        without_effect = knobs.keys() & RETIRED.keys()
        assert not without_effect, without_effect
        directory.mkdir(parents=True, exist_ok=True)
        self.config.write_text(to_toml(knobs), encoding="utf-8")

    def start(self, *, ready: bool = True, within: Sequence[str] = (), cold: bool = False) -> None:
        """Start, and wait until a generation is live and Consul's data is fresh.

        ``within`` is a command that starts the one that follows it in another place, such as a namespace. ``cold``: by
        an interpreter of its own (`tests.harness.warm`).
        """
        command: list[str | Path] = ["run", "--config", self.config]
        if within or cold:
            self._process = process.start([*within, *warm.COLD, *command], log=self.log)
        else:
            self._process = warm.start(command, log=self.log)
        if ready:
            self.wait_ready()

    def wait_ready(self, timeout: float = process.PATIENCE) -> None:
        try:
            process.wait_until(self._is_ready, what="the sidecar ready", timeout=timeout)
        except TimeoutError as error:
            raise TimeoutError(f"{error}: {self._why_not()}\n{self.tail()}") from error

    def _is_ready(self) -> bool:
        if not self.running:
            raise RuntimeError(f"the sidecar ended:\n{self.tail()}")
        return self.request("/readyz")[0] == 200

    def _why_not(self) -> object:
        """What the sidecar says itself, where it says anything."""
        try:
            return self.request("/readyz")[1], self.status()["consul"]
        except OSError as error:
            return error

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def request(self, path: str) -> tuple[int, Any]:
        """Return status and JSON body of the admin API. Raise OSError while it does not listen."""
        with _OPENER.open(f"http://127.0.0.1:{self.admin}{path}", timeout=20) as answer:
            return answer.status, json.loads(answer.read())

    def status(self) -> Any:
        return self.request("/api/v1/status")[1]

    def page(self) -> str:
        """The overview in HTML, as a browser without scripts gets it."""
        with _OPENER.open(f"http://127.0.0.1:{self.admin}/", timeout=20) as answer:
            text: str = answer.read().decode()
            return text

    def generation(self) -> int | None:
        """Return the number that ``current`` names."""
        link = self.output / "current"
        return int(link.readlink().name) if link.is_symlink() else None

    def events(self) -> list[dict[str, Any]]:
        """Return the log's lines so far."""
        return self._lines.so_far()

    def proven(self) -> list[int]:
        """Return the generations that went live and were proven, in that order."""
        return [event["generation"] for event in self.events() if event.get("event") == "generation applied"]

    def applies(self) -> int:
        """Return how many generations went live."""
        return len(self.proven())

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:]) if self.log.exists() else ""

    def command(
        self, *arguments: str, timeout: float = 2 * process.PATIENCE, config: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run another proxygen command with the same settings, or those of another file."""
        return warm.run([*arguments, "--config", config or self.config], timeout=timeout)

    def stop(self) -> int:
        """Ask for a clean end and return the exit code."""
        assert self._process is not None
        return process.stop(self._process)

    def kill(self) -> None:
        if self._process is not None:
            process.stop(self._process, signal.SIGKILL)


class _Quiet(urllib.request.HTTPErrorProcessor):
    """Hand 4xx and 5xx over as answers."""

    def http_response(self, request: Any, response: Any) -> Any:
        return response

    https_response = http_response


_OPENER: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}), _Quiet)


def to_toml(knobs: Mapping[str, object]) -> str:
    tables: dict[str, list[str]] = {}
    for key, value in knobs.items():
        table, _, name = key.partition(".")
        # JSON's strings, numbers, booleans and arrays are TOML's too; a mapping becomes an inline table.
        text = json.dumps(value) if not isinstance(value, dict) else _inline(value)
        tables.setdefault(table, []).append(f"{name} = {text}")
    return "\n".join(f"[{table}]\n" + "\n".join(lines) + "\n" for table, lines in tables.items())


def _inline(table: Mapping[str, object]) -> str:
    return "{ " + ", ".join(f"{json.dumps(key)} = {json.dumps(value)}" for key, value in table.items()) + " }"
