"""Frameworks that own the process: registered once the port answers, withdrawn while it still does."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxygen.registration import Registration
from proxygen.registration.frameworks import serving
from tests.harness import process
from tests.harness.consul import ConsulAgent
from tests.harness.ports import free_port
from tests.harness.watching_passing import watching_passing
from tests.integration.waiting import until

ROOT = Path(__file__).parents[2]

OPTIONS = 'name="web", id="web-1", address="127.0.0.1", drain={drain},'

OWN_LIFESPAN = """
from proxygen.registration import Registration
from proxygen.registration.frameworks import with_asgi

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

app = with_asgi(own, Registration(name="web", port=8000))
"""

KEPT_LIFESPAN = (
    OWN_LIFESPAN
    + """
inner = app

async def app(scope, receive, send):
    if scope["type"] != "lifespan":
        await inner(scope, receive, send)
        return
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})
"""
)

WSGI = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "5")])
    return [b"hello"]
"""


def example(page: str, holds: str) -> str:
    """The piece of Python on a page of ours that holds this text."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    (found,) = [block for block in blocks if holds in block]
    return str(found)


class Running:
    """An application as its operator starts it."""

    def __init__(self, consul: ConsulAgent, directory: Path, command: list[str], port: int) -> None:
        self.consul = consul
        self.port = port
        self.log = directory / "log"
        environment = {**os.environ, "CONSUL_HTTP_ADDR": consul.address, "PYTHONPATH": f"{ROOT}:{directory}"}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=directory, env=environment, stdout=log, stderr=log)

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
    """Start an application made of these files by a command, on a port that is free here."""
    started: list[Running] = []

    def start(files: dict[str, str], *command: str, drain: int = 3) -> Running:
        port = free_port()
        for name, text in files.items():
            here = re.sub(r"80[08]0", str(port), text).replace('name="web",', OPTIONS.format(drain=drain))
            # A page's path is not every server's; and the test waits for the first answer.
            here = here.replace('HttpCheck("/healthz")', 'HttpCheck("/", interval=1)')
            (tmp_path / name).write_text(here, encoding="utf-8")
        started.append(Running(consul, tmp_path, [word.format(port=port) for word in command], port))
        return started[-1]

    yield start
    for running in started:
        if running.process.poll() is None:
            process.stop(running.process)


def with_aiohttp(start: Callable[..., Running], **options: int) -> Running:
    return start({"app.py": example("README.md", "with_aiohttp")}, sys.executable, "app.py", **options)


def with_uvicorn(start: Callable[..., Running], app: str = "", *options: str, drain: int = 3) -> Running:
    text = app or example("docs/how-to/register.md", "with_asgi")
    command = [sys.executable, "-m", "uvicorn", "--port", "{port}", *options, "app:app"]
    return start({"app.py": text}, *command, drain=drain)


def with_hypercorn(start: Callable[..., Running]) -> Running:
    text = example("docs/how-to/register.md", "with_asgi")
    command = [sys.executable, "-m", "hypercorn", "--bind", "127.0.0.1:{port}", "--workers", "2"]
    return start({"app.py": text}, *command, "app:app")


def with_gunicorn(start: Callable[..., Running], **options: int) -> Running:
    conf = example("docs/how-to/register.md", "with_gunicorn") + "control_socket_disable = True\n"
    return start({"app.py": WSGI, "gunicorn.conf.py": conf}, sys.executable, "-m", "gunicorn", "app:app", **options)


@pytest.mark.parametrize(
    ("framework", "code"), [(with_aiohttp, 0), (with_uvicorn, -signal.SIGTERM), (with_gunicorn, 0)]
)
def test_one_line_registers_once_and_leaves_before_the_port_closes(
    consul: ConsulAgent, start: Callable[..., Running], framework: Callable[..., Running], code: int
) -> None:
    """In Consul once, whatever the number of workers; on SIGTERM in maintenance while requests are still answered."""
    running = framework(start)
    running.until_passing()
    assert consul.get("/v1/agent/services").keys() == {"web-1"}
    running.process.send_signal(signal.SIGTERM)
    running.until_withdrawn()
    assert says_hello(running.port), running.said
    assert running.process.wait(60) == code, running.said
    assert consul.get("/v1/agent/services") == {}


def says_hello(port: int) -> bool:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
        return bool(answer.read().strip() == b"hello")


def test_an_applications_own_lifespan_runs_within_the_registration(
    consul: ConsulAgent, start: Callable[..., Running]
) -> None:
    running = with_uvicorn(start, OWN_LIFESPAN)
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
    running = framework(start, drain=3600)
    running.until_passing()
    running.process.send_signal(signal.SIGTERM)
    running.until_withdrawn()
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(60) == 0, running.said
    assert consul.get("/v1/agent/services") == {}


def test_an_address_that_cannot_be_ends_an_application_at_its_start(start: Callable[..., Running]) -> None:
    running = with_uvicorn(start, OWN_LIFESPAN.replace('name="web"', 'name="web" , address="interface:nosuch0"'))
    assert running.process.wait(60) != 0
    assert "interface:nosuch0" in running.said


@pytest.mark.incident("T71")
@pytest.mark.parametrize(
    ("app", "options"),
    [(OWN_LIFESPAN, ("--lifespan", "off")), (KEPT_LIFESPAN, ())],
    ids=["switched off", "kept by an application around it"],
)
def test_an_application_that_gets_no_lifespan_says_so_at_its_first_request(
    consul: ConsulAgent, start: Callable[..., Running], app: str, options: tuple[str, ...]
) -> None:
    """The server sends no lifespan, or an application around ours keeps it. Requests are answered, and one line says
    that nothing is registered and what to do."""
    running = with_uvicorn(start, app, *options)
    running.until(lambda: "Uvicorn running" in running.said, "the server")
    assert [says_hello(running.port) for _ in range(3)] == [True] * 3
    running.until(lambda: "not registered" in running.said, "the warning")
    assert running.said.count("not registered") == 1
    assert "--lifespan on" in running.said
    assert consul.get("/v1/agent/services") == {}


def test_who_gets_a_lifespan_is_told_nothing_of_it(consul: ConsulAgent, start: Callable[..., Running]) -> None:
    running = with_uvicorn(start, OWN_LIFESPAN)
    running.until_passing()
    assert says_hello(running.port)
    assert "not registered" not in running.said


# --- several processes under one port, and servers that end the application without a signal --------------------------


@pytest.mark.timeout(300)
async def test_workers_that_share_an_id_are_one_instance_for_as_long_as_one_lives(
    consul: ConsulAgent, start: Callable[..., Running]
) -> None:
    """uvicorn's, killed one after the other and then replaced by its reload: the entry stays, and goes at the end."""
    running = await asyncio.to_thread(with_uvicorn, start, "", "--workers", "2")
    await asyncio.to_thread(running.until_passing)
    await until(lambda: running.said.count("startup complete") == 2, "both workers")
    async with watching_passing(consul, "web") as seen:
        await until(lambda: seen.requests > 10, "load")
        first = worker_ids(running)
        for number, worker in enumerate(first, start=3):
            os.kill(worker, signal.SIGKILL)
            await until(lambda: running.said.count("startup complete") == number, running.said)  # noqa: B023
        running.process.send_signal(signal.SIGHUP)
        await until(lambda: running.said.count("Finished server process") == 2, running.said)
        after = seen.requests
        await until(lambda: seen.requests > after + 100, "load after it")
    # A connection that a killed worker had taken ends with it.
    assert len(seen.failures) <= len(first), seen.failures
    assert seen.is_passing
    assert not seen.empty
    running.process.send_signal(signal.SIGTERM)
    await asyncio.to_thread(running.until_withdrawn)
    assert await asyncio.to_thread(running.process.wait, 60) == 0
    assert consul.get("/v1/agent/services") == {}
    assert not re.search("WARN|ERROR|Traceback", running.said)


def worker_ids(running: Running) -> list[int]:
    return [int(found) for found in re.findall(r"Started server process \[(\d+)\]", running.said)]


def test_a_reloader_registers_what_it_starts_anew(consul: ConsulAgent, start: Callable[..., Running]) -> None:
    running = with_uvicorn(start, "", "--reload")
    running.until_passing()
    file = running.log.parent / "app.py"

    def reloads() -> bool:
        # What is written before its first look is no change.
        found = "Reloading" in running.said
        if not found:
            file.touch()
        return found

    running.until(reloads, "the reload")
    running.until_withdrawn()
    running.until(lambda: len(worker_ids(running)) > 1, "a second worker")
    running.until_passing()
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(60) == 0, running.said
    assert consul.get("/v1/agent/services") == {}


def test_a_worker_that_is_told_to_end_while_it_leaves_still_leaves(
    consul: ConsulAgent, start: Callable[..., Running]
) -> None:
    """hypercorn tells its workers to end without a signal, and sends SIGTERM twice to those that outlive the first."""
    running = with_hypercorn(start)
    running.until_passing()
    running.until(lambda: running.said.count("Running on") == 2, "both workers")
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(60) == 0, running.said
    assert consul.get("/v1/agent/services") == {}


def test_a_second_signal_cuts_the_drain_of_a_server_that_ends_by_itself(
    consul: ConsulAgent, start: Callable[..., Running]
) -> None:
    """As after its last request; the first signal is not meant for the drain, which has begun by then."""
    running = with_uvicorn(start, "", "--limit-max-requests", "3", drain=3600)
    running.until_withdrawn()
    running.process.send_signal(signal.SIGTERM)
    running.process.send_signal(signal.SIGINT)
    running.process.wait(60)
    assert consul.get("/v1/agent/services") == {}


async def test_a_signal_that_is_ignored_stays_ignored(consul: ConsulAgent) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        async with serving(Registration(name="web", port=1, address="127.0.0.1", consul=consul.address)):
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
