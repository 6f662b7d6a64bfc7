"""A real nginx with an operator's nginx.conf in a directory of its own."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.harness import process, seen
from tests.harness.tools import NginxBinary


class NginxServer:
    """nginx as an operator runs it: its own conf, pid file and error log, and the two includes of OUTPUT/current.

    ``main``, ``http`` and ``stream`` are text for those contexts. ``modules`` are Debian's loadable ones beside
    stream (``ndk_http`` and ``ngx_http_lua`` are both needed for Lua); a static binary ignores them.
    """

    def __init__(
        self,
        binary: NginxBinary,
        directory: Path,
        *,
        output: Path,
        main: str = "",
        http: str = "",
        stream: str = "",
        modules: Sequence[str] = (),
        workers: int = 2,
        connections: int = 1024,
    ) -> None:
        self.binary = binary
        self.directory = directory
        self.output = output
        self.conf = directory / "nginx.conf"
        self.pid_file = directory / "nginx.pid"
        self.error_log = directory / "error.log"
        self._process: subprocess.Popen[bytes] | None = None
        (directory / "temp").mkdir(parents=True, exist_ok=True)
        self.conf.write_text(self._conf(main, http, stream, modules, workers, connections), encoding="utf-8")

    def _conf(self, main: str, http: str, stream: str, modules: Sequence[str], workers: int, connections: int) -> str:
        loaded = ("ngx_stream", *modules) if self.binary.modules else ()
        lines = [f"load_module {self.binary.modules}/{name}_module.so;" for name in loaded]
        if os.getuid() == 0:
            # Workers of the default user could not read a temporary directory of root's.
            lines.append("user root;")
        lines += [
            f"worker_processes {workers};",
            f"pid {self.pid_file};",
            f"error_log {self.error_log} notice;",
            *(["worker_shutdown_timeout 10s;"] if "worker_shutdown_timeout" not in main else []),
            main,
            f"events {{ worker_connections {connections}; }}",
            "http {",
            "    default_type text/plain;",
            f"    access_log {self.directory}/access.log;",
            *(
                f"    {kind}_temp_path {self.directory}/temp/{kind};"
                for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            ),
            http,
            f"    include {self.output}/current/http.d/*.conf;",
            "}",
            "stream {",
            stream,
            f"    include {self.output}/current/stream.d/*.conf;",
            "}",
        ]
        return "\n".join(line for line in lines if line) + "\n"

    @property
    def pid(self) -> int:
        """The master's process id."""
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def command(self) -> list[str]:
        """nginx's binary, prefix and conf, to which ``-t`` or ``-s reload`` can be added."""
        return [str(self.binary.path), "-p", str(self.directory), "-c", str(self.conf), "-e", str(self.error_log)]

    def start(self, *, within: Sequence[str] = ()) -> None:
        """Start in the foreground, so that the master is our child, and wait until its workers live.

        ``within`` is a command that starts the one that follows it in another place, such as a namespace.
        """
        command = [*within, *self.command, "-g", "daemon off;"]
        self._process = process.start(command, log=self.directory / "stderr.log")
        seen.log(self.error_log, self._process)
        try:
            process.wait_until(self._ready, what=f"nginx ({self.binary.name})")
        except TimeoutError:
            self.kill()
            raise

    def _ready(self) -> bool:
        if not self.running:
            raise RuntimeError(f"nginx ended at once:\n{self.errors()}{(self.directory / 'stderr.log').read_text()}")
        return self.pid_file.read_text().strip() == str(self.pid) and bool(self.workers())

    def workers(self) -> frozenset[int]:
        """Return the process ids of the master's children that have not ended, draining ones included."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return frozenset(int(child) for child in children if process.is_alive(int(child)))

    def accepting(self) -> frozenset[int]:
        """Return the workers that are not shutting down."""
        return frozenset(pid for pid in self.workers() if b"shutting down" not in _command_line(pid))

    def reload(self) -> None:
        """Send HUP; nothing is proven by it."""
        self.send_signal(signal.SIGHUP)

    def send_signal(self, which: signal.Signals) -> None:
        os.kill(self.pid, which)

    def errors(self) -> str:
        return self.error_log.read_text(errors="replace") if self.error_log.exists() else ""

    def stop(self) -> None:
        """Stop at once, open connections or not."""
        if self._process is not None:
            self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the master and its workers, as a lost host would."""
        if self._process is not None:
            self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        assert self._process is not None
        orphans = self.workers() if self.running else frozenset()
        process.stop(self._process, how)
        for pid in orphans:
            # The number may belong to somebody else by now.
            if b"nginx" in _command_line(pid):
                os.kill(pid, signal.SIGKILL)

    def restart(self) -> None:
        self.stop()
        self.start()


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
