"""`proxygen registrator` as a process of its own."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.harness import process, warm
from tests.harness.consul import ConsulAgent
from tests.harness.engine import Engine
from tests.harness.fake_engine import FakeEngine


class Registrator:
    """The process and its log; ``options`` are further flags."""

    def __init__(self, consul: ConsulAgent, engine: Engine | FakeEngine, log: Path, *options: object) -> None:
        self.log = log
        self._command = [
            *("registrator", "--consul-address", consul.address),
            *("--registrator-engine", engine.url, "--registrator-address", "127.0.0.1"),
            *map(str, options),
        ]
        self._process: process.Started | None = None

    def start(self) -> None:
        self._process = warm.start(self._command, log=self.log)

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        assert self._process is not None
        return process.stop(self._process, how)

    def kill(self) -> None:
        if self._process is not None:
            process.stop(self._process, signal.SIGKILL)
