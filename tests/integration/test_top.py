"""`proxygen top` beside a real sidecar: in a pipe, and in a terminal of its own."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.harness import warm
from tests.harness.app import App
from tests.harness.beside import Beside, beside_nginx
from tests.harness.process import is_alive
from tests.harness.sidecar import Sidecar
from tests.integration.waiting import ROUTE


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Beside]:
    with beside_nginx(tmp_path_factory.mktemp("top")) as beside:
        yield beside


@pytest.fixture(scope="module")
def running(beside: Beside) -> Iterator[Sidecar]:
    """A sidecar that serves `web`; all that is here only looks at it."""
    with App("web-1") as app:
        beside.consul.register("web", port=app.port, tags=[ROUTE])
        beside.sidecar.start()
        yield beside.sidecar


def test_in_a_pipe_it_prints_one_look(running: Sidecar) -> None:
    done = running.command("top", "--once")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("healthy\n")
    assert "web      served  1/1" in done.stdout


def test_in_a_pipe_it_asks_for_once(running: Sidecar) -> None:
    done = running.command("top")
    assert done.returncode == 2
    assert "--once" in done.stderr


def test_in_a_terminal_it_shows_services_until_q(running: Sidecar) -> None:
    terminal, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"}
    command = [*warm.COLD, "top", "--config", str(running.config)]
    process = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True
    )
    os.close(slave)
    try:
        assert "healthy" in _read(terminal, "1/1")
        os.write(terminal, b"q")
        _read(terminal, "\x1b[?1049l")
        assert process.wait(60) == 0
    finally:
        if is_alive(process.pid):
            process.send_signal(signal.SIGKILL)
        process.wait()
        os.close(terminal)


def _read(terminal: int, words: str) -> str:
    """Read until these words have been written."""
    seen, end = "", time.monotonic() + 60
    while words not in seen:
        ready, _, _ = select.select([terminal], [], [], max(0.0, end - time.monotonic()))
        assert ready, f"{words!r} was not shown: {seen[-2000:]!r}"
        try:
            seen += os.read(terminal, 65_536).decode(errors="replace")
        except OSError:
            break
    return seen
