"""`proxygen network up` as hosts start it, and the files and commands around it."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from proxygen.network.agent.place import StateDirectory
from proxygen.network.agent.status import read_status
from proxygen.network.files import SubnetFile, read_subnet_env
from tests.harness import process, warm
from tests.harness.hosts import Host
from tests.harness.sidecar import to_toml


class NetworkAgent:
    """The agent of one host. ``settings`` are knobs by ``slice.name``; they win over what the harness sets.

    Consul is the host's own, at 127.0.0.1:8500. Times are short, as far as the settings allow it.
    """

    def __init__(self, host: Host, settings: Mapping[str, object] | None = None) -> None:
        self.host = host
        self.directory = host.directory / "network"
        self.directory.mkdir()
        self.log = self.directory / "agent.log"
        self.config = self.directory / "proxygen.toml"
        self.subnet_file = self.directory / "run" / "subnet.env"
        self._process: process.Started | None = None
        knobs: dict[str, object] = {
            # All namespaces have the machine's id.
            "network.host_id": f"id-of-{host.label}",
            "network.node": host.label,
            "network.interface": host.LINK,
            "network.state": str(self.directory / "state"),
            "network.subnet_file": str(self.subnet_file),
            "network.docker_file": str(self.directory / "run" / "docker_opts.env"),
            "network.ttl": "10s",
            "network.lock_delay": "1s",
            "network.resync": "2s",
            "log.format": "json",
            "log.level": "debug",
            **(settings or {}),
        }
        self.config.write_text(to_toml(knobs), encoding="utf-8")

    def start(self) -> None:
        command: list[str | Path] = ["network", "up", "--config", self.config]
        self._process = warm.start(command, log=self.log, namespace=self.host.name)

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def lease(self, *, timeout: float = 180.0) -> SubnetFile:
        """Wait until the host has its subnet and has told so, and return what it told."""
        try:
            process.wait_until(self._has_lease, what=f"a subnet of {self.host.label}", timeout=timeout)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.tail()}") from error
        return read_subnet_env(self.subnet_file.read_text(encoding="ascii"))

    def _has_lease(self) -> bool:
        if not self.running:
            raise RuntimeError(f"the agent of {self.host.label} ended:\n{self.tail()}")
        return self.subnet_file.exists()

    def start_docker(self) -> None:
        """Give the host's bridge what the agent says, as Docker does when it starts after it."""
        lease = self.lease()
        self.host.attach_bridge(lease.subnet, mtu=lease.mtu)

    def command(self, *arguments: str | Path, timeout: float = 180.0) -> subprocess.CompletedProcess[str]:
        """Run another command of ``proxygen network`` on the host, with the same settings."""
        command = ["network", *arguments, "--config", self.config]
        return warm.run(command, timeout=timeout, namespace=self.host.name)

    def status(self) -> dict[str, Any] | None:
        """Return what the running agent says, as ``proxygen network status --json`` has it under ``agent``.

        It is read as the command reads it, without the second that a process takes: tests ask until it is so.
        """
        said = read_status(StateDirectory(path=self.directory / "state"))
        return None if said is None else msgspec.to_builtins(said)

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:]) if self.log.exists() else ""

    def stop(self) -> int:
        """Ask for a clean end and return the exit code."""
        assert self._process is not None
        return process.stop(self._process)

    def kill(self) -> None:
        if self._process is not None:
            process.stop(self._process, signal.SIGKILL)
