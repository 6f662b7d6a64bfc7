"""What systemd hears of a real sidecar; `tests/deploy/test_systemd.py` asks systemd itself."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness.consul import ConsulAgent
from tests.harness.nginx import NginxServer
from tests.harness.process import wait_until
from tests.harness.sidecar import Sidecar

MakeSidecar = Callable[..., Sidecar]


class Manager:
    def __init__(self, path: Path) -> None:
        self.within = ("env", f"NOTIFY_SOCKET={path}", "WATCHDOG_USEC=2000000")
        self.words: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(0.05)

    def has_heard(self, word: str) -> bool:
        while True:
            try:
                self.words += self._socket.recv(65536).decode().splitlines()
            except TimeoutError:
                return word in self.words

    def says(self) -> str:
        """The newest status."""
        self.has_heard("")
        return next((word[7:] for word in reversed(self.words) if word.startswith("STATUS=")), "")

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(short_directory: Path) -> Iterator[Manager]:
    manager = Manager(short_directory / "notify")
    yield manager
    manager.close()


@pytest.fixture
def sidecar(any_sidecar: Sidecar) -> Sidecar:
    return any_sidecar


def start_notifying(consul: ConsulAgent, sidecar: Sidecar, manager: Manager) -> None:
    """Start beside the manager, with one service to serve, and wait for the first word that it is ready."""
    consul.register("web", port=1, tags=["proxygen.route=web.example.com"])
    sidecar.start(ready=False, within=manager.within)
    wait_until(lambda: manager.has_heard("READY=1"), what="READY=1")


def test_the_sidecar_says_when_it_is_ready_reloads_and_stops(
    consul: ConsulAgent, sidecar: Sidecar, manager: Manager
) -> None:
    start_notifying(consul, sidecar, manager)
    assert sidecar.generation() is not None, "what Consul says is live by then"
    assert "WATCHDOG=1" in manager.words
    assert any(word.startswith("STATUS=ready; generation 1; 1 services") for word in manager.words)
    manager.words.clear()
    os.kill(sidecar.pid, signal.SIGHUP)
    wait_until(lambda: manager.has_heard("READY=1"), what="READY=1 after a reload")
    assert manager.words.index("RELOADING=1") < manager.words.index("READY=1")
    sidecar.stop()
    assert manager.has_heard("STOPPING=1")


def test_settings_that_change_just_before_the_signal_are_ready_in_the_end(
    consul: ConsulAgent, sidecar: Sidecar, manager: Manager
) -> None:
    """The watch on the file has begun anew by then, and the signal finds a sidecar that finishes what is pending."""
    start_notifying(consul, sidecar, manager)
    settings = sidecar.config.read_text()
    for number, pause in enumerate((0.0, 0.02, 0.05, 0.1, 0.15, 0.2)):
        sidecar.config.write_text(f"{settings}\n[guard]\nhold = '{12 + number}m'\n")
        time.sleep(pause)
        manager.words.clear()
        os.kill(sidecar.pid, signal.SIGHUP)
        wait_until(lambda: manager.has_heard("READY=1"), what=f"READY=1 after a pause of {pause:g} s")
        wait_until(lambda: manager.says().startswith("ready;"), what=f"ready after a pause of {pause:g} s")


def test_a_start_without_consul_and_without_a_catalog_on_disk_is_ready_all_the_same(
    nginx: NginxServer, make_sidecar: MakeSidecar, manager: Manager
) -> None:
    sidecar = make_sidecar("127.0.0.1:1", nginx)
    sidecar.start(ready=False, within=manager.within)
    wait_until(lambda: manager.has_heard("READY=1"), what="READY=1")
    assert any(word.startswith("STATUS=starting; no generation is live yet; Consul has not") for word in manager.words)


def test_what_the_sidecar_starts_is_not_the_service(
    consul: ConsulAgent, nginx: NginxServer, make_sidecar: MakeSidecar, manager: Manager, tmp_path: Path
) -> None:
    seen = tmp_path / "seen.json"
    program = f"import json, os; open({str(seen)!r}, 'w').write(json.dumps(dict(os.environ)))"
    command = [sys.executable, "-c", program]
    sidecar = make_sidecar(consul, nginx, nginx__reload="command", nginx__reload_command=command)
    consul.register("web", port=1, tags=["proxygen.route=web.example.com"])
    sidecar.start(ready=False, within=manager.within)
    wait_until(lambda: seen.exists() and seen.stat().st_size, what="the reload's command")
    assert {"NOTIFY_SOCKET", "WATCHDOG_USEC"}.isdisjoint(json.loads(seen.read_text()))
