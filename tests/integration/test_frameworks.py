"""Frameworks that own the process: registered once the port answers, withdrawn while it still does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import process
from tests.harness.consul import ConsulAgent
from tests.harness.ports import free_port

ROOT = Path(__file__).parents[2]

HEAD = """
from proxygen.registration import HttpCheck, ProxyTags, Registration
from proxygen.registration.frameworks import serving, with_aiohttp, with_asgi, with_gunicorn
import os
PORT = int(os.environ["PORT"])
def registration(**options):
    return Registration(name="web", id="web-1", port=PORT, tags=ProxyTags(route=["app.example.com"]),
                        check=HttpCheck("/", interval=1), drain=3, **{"address": "127.0.0.1"} | options)
"""

AIOHTTP = """
from aiohttp import web
async def hello(request):
    return web.Response(text="hello")
app = web.Application()
app.router.add_get("/", hello)
app.cleanup_ctx.append(with_aiohttp(registration()))
web.run_app(app, host="127.0.0.1", port=PORT, print=None)
"""

ASGI = """
async def hello(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})
app = with_asgi(hello, registration())
"""

LIFESPAN = """
async def own(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})
        return
    await receive()
    print("own startup", flush=True)
    await send({"type": "lifespan.startup.complete"})
    await receive()
    print("own shutdown", flush=True)
    await send({"type": "lifespan.shutdown.complete"})
app = with_asgi(own, registration())
"""

HOOK = """
bind = f"127.0.0.1:{PORT}"
workers = 2
control_socket_disable = True
when_ready = with_gunicorn(registration())
"""

WSGI = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "5")])
    return [b"hello"]
"""


class Running:
    """An application as its operator starts it."""

    def __init__(self, consul: ConsulAgent, directory: Path, command: list[str], port: int) -> None:
        self.consul = consul
        self.port = port
        self.log = directory / "log"
        environment = {**os.environ, "CONSUL_HTTP_ADDR": consul.address, "PYTHONPATH": f"{ROOT}:{directory}"}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=directory, env={**environment, "PORT": str(port)}, stdout=log, stderr=log
            )

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def until(self, condition: Callable[[], object], what: str) -> None:
        try:
            process.wait_until(condition, what=what, timeout=60)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.said}") from error

    def checks(self) -> dict[str, Any]:
        return dict(self.consul.get("/v1/agent/checks"))

    def until_passing(self) -> None:
        self.until(lambda: [check["Status"] for check in self.checks().values()] == ["passing"], "passing")

    def until_withdrawn(self) -> None:
        self.until(lambda: "_service_maintenance:web-1" in self.checks(), "withdrawn")


@pytest.fixture
def start(consul: ConsulAgent, tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Start an application made of these files by a command, which finds its port in PORT."""
    started: list[Running] = []

    def start(files: dict[str, str], *command: str) -> Running:
        for name, text in files.items():
            (tmp_path / name).write_text(text, encoding="utf-8")
        port = free_port()
        started.append(Running(consul, tmp_path, [word.format(port=port) for word in command], port))
        return started[-1]

    yield start
    for running in started:
        if running.process.poll() is None:
            process.stop(running.process)


def with_aiohttp(start: Callable[..., Running]) -> Running:
    return start({"app.py": HEAD + AIOHTTP}, sys.executable, "app.py")


def with_uvicorn(start: Callable[..., Running], app: str = ASGI) -> Running:
    return start({"app.py": HEAD + app}, sys.executable, "-m", "uvicorn", "--port", "{port}", "app:app")


def with_gunicorn(start: Callable[..., Running]) -> Running:
    files = {"app.py": WSGI, "gunicorn.conf.py": HEAD + HOOK}
    return start(files, sys.executable, "-m", "gunicorn", "app:app")


@pytest.mark.parametrize(
    ("framework", "code"), [(with_aiohttp, 0), (with_uvicorn, -signal.SIGTERM), (with_gunicorn, 0)]
)
def test_one_line_registers_once_and_leaves_before_the_port_closes(
    consul: ConsulAgent, start: Callable[..., Running], framework: Callable[..., Running], code: int
) -> None:
    """In Consul once, whatever the number of workers; on SIGTERM in maintenance while requests are still answered."""
    running = framework(start)
    running.until_passing()
    (service,) = consul.get("/v1/agent/services").values()
    assert service["Tags"] == ["proxygen.route=app.example.com"]
    running.process.send_signal(signal.SIGTERM)
    running.until_withdrawn()
    assert says_hello(running.port), running.said
    assert running.process.wait(60) == code, running.said
    assert consul.get("/v1/agent/services") == {}


def says_hello(port: int) -> bool:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
        return bool(answer.read() == b"hello")


def test_an_applications_own_lifespan_runs_within_the_registration(
    consul: ConsulAgent, start: Callable[..., Running]
) -> None:
    running = with_uvicorn(start, LIFESPAN)
    running.until_passing()
    assert "own startup" in running.said
    running.process.send_signal(signal.SIGTERM)
    running.until_withdrawn()
    assert "own shutdown" not in running.said
    running.process.wait(60)
    assert "own shutdown" in running.said
    assert consul.get("/v1/agent/services") == {}


@pytest.mark.parametrize("framework", [with_aiohttp, with_gunicorn])
def test_a_second_signal_does_not_wait_for_the_drain(
    consul: ConsulAgent, start: Callable[..., Running], framework: Callable[..., Running]
) -> None:
    running = framework(start)
    running.until_passing()
    running.process.send_signal(signal.SIGTERM)
    running.until_withdrawn()
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(60) == 0, running.said
    assert consul.get("/v1/agent/services") == {}


def test_an_address_that_cannot_be_ends_an_application_at_its_start(start: Callable[..., Running]) -> None:
    wrong = ASGI.replace("registration()", "registration(address='interface:nosuch0')")
    running = with_uvicorn(start, wrong)
    assert running.process.wait(60) != 0
    assert "interface:nosuch0" in running.said
