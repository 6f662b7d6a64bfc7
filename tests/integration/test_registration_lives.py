"""Two lives under one id against a real Consul: the entry follows its owner."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from proxygen.registration import Registration, TtlCheck
from tests.harness import process
from tests.harness.consul import ConsulAgent
from tests.harness.entrypoint import Entrypoint
from tests.harness.ports import free_port
from tests.harness.watching_passing import watching_passing
from tests.integration.test_frameworks import WSGI, Running, example
from tests.integration.waiting import until

QUICK = TtlCheck(1.5)


def registration(consul: ConsulAgent, **changes: Any) -> Registration:
    values: dict[str, Any] = {"name": "web", "port": 8080, "id": "web-1", "address": "127.0.0.1", "drain": 0, **changes}
    return Registration(consul=consul.address, **{"check": QUICK, **values})


def held(consul: ConsulAgent) -> Any:
    return consul.get("/v1/agent/service/web-1")


def statuses(consul: ConsulAgent) -> dict[str, str]:
    return {id: check["Status"] for id, check in consul.get("/v1/agent/checks").items()}


async def test_a_predecessor_leaves_what_its_successor_holds(consul: ConsulAgent) -> None:
    async with registration(consul) as old:
        new = registration(consul, plain_tags=["v2"])
        await new.start()
        await until(lambda: held(consul)["Tags"] == ["v2"], "the successor's entry")
        await old.leave()
        assert held(consul)["Tags"] == ["v2"]
        assert statuses(consul) == {"web-1:ttl": "passing"}
        await new.leave()
        assert held(consul) is None


async def test_an_older_life_holds_the_entry_again_when_the_newer_one_leaves(consul: ConsulAgent) -> None:
    """A roll back: no maintenance in between, and the entry says what the older life says."""
    async with registration(consul, plain_tags=["v1"]) as old:
        async with registration(consul, plain_tags=["v2"]):
            await until(lambda: held(consul)["Tags"] == ["v2"], "the successor's entry")
        await until(lambda: held(consul)["Tags"] == ["v1"], "the older life's entry")
        assert old.registered
        assert statuses(consul) == {"web-1:ttl": "passing"}
    assert held(consul) is None


async def test_another_instance_waits_until_the_first_one_leaves(
    consul: ConsulAgent, caplog: pytest.LogCaptureFixture
) -> None:
    first = registration(consul)
    await first.start()
    second = registration(consul, port=8081)
    await second.start()
    assert not second.registered
    await until(lambda: "the id is held by another" in caplog.text, "the refusal")
    assert held(consul)["Port"] == 8080
    await first.leave()
    assert held(consul)["Port"] == 8081
    assert statuses(consul) == {"web-1:ttl": "passing"}
    await second.leave()
    assert held(consul) is None


OTHERS: list[dict[str, Any]] = [
    {"Name": "billing", "Port": 9000},
    {"Name": "web", "Port": 9000},
    {"Name": "web", "Port": 8080, "Check": {"CheckID": "service:web-1", "TTL": "24h", "Status": "passing"}},
    {"Name": "web", "Port": 8080, "Meta": {"registrator-host": "other"}},
]


@pytest.mark.parametrize("other", OTHERS, ids=["another name", "another port", "another's check", "a container"])
async def test_an_id_that_another_owner_holds_is_refused_and_taken_once_it_is_free(
    consul: ConsulAgent, caplog: pytest.LogCaptureFixture, other: dict[str, Any]
) -> None:
    consul.put("/v1/agent/service/register", {"ID": "web-1", "Address": "127.0.0.1", **other})
    before = held(consul)
    entry = registration(consul)
    async with entry:
        assert not entry.registered
        assert "web-1" in caplog.text
    assert held(consul) == before
    entry = registration(consul)
    async with entry:
        await asyncio.to_thread(consul.deregister, "web-1")
        await until(lambda: entry.registered, "the freed id taken")
    assert held(consul) is None


async def test_a_life_that_is_not_seen_takes_over_without_a_fight(
    consul: ConsulAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in another container: the address decides. The older one is silent, and back once the newer one has left."""
    monkeypatch.setattr("proxygen.registration.lives.Lives._others", lambda _self: ())
    async with registration(consul) as old:
        async with registration(consul, address="127.0.0.2") as new:
            await until(lambda: not old.registered, "the older life aside")
            assert held(consul)["Address"] == "127.0.0.2"
            assert new.registered
        await until(lambda: old.registered and held(consul)["Address"] == "127.0.0.1", "the older life back")
    assert held(consul) is None


@pytest.mark.incident("T54")
def test_an_entrypoint_does_not_take_anothers_id(consul: ConsulAgent, tmp_path: Path) -> None:
    """The command runs on, and the other's entry is as it was."""
    consul.register("billing", id="web-1", port=9000)
    before = held(consul)
    options = ("--name", "web", "--port", free_port(), "--address", "127.0.0.1", "--id", "web-1", "--drain", "0s")
    running = Entrypoint(consul, tmp_path / "log", (*options, "--check-process", "--", "sleep", "1000"))
    try:
        running.until_said("the id is held by another")
        assert running.stop() == 128 + signal.SIGTERM
    finally:
        running.kill()
    assert held(consul) == before


def test_what_was_killed_is_taken_over_under_another_name(consul: ConsulAgent, tmp_path: Path) -> None:
    """Its port is ours now, so it cannot live. The entry under its name goes with the same write."""
    place = ("--port", free_port(), "--address", "127.0.0.1", "--id", "web-1", "--drain", "0s", "--check-process")
    old = Entrypoint(consul, tmp_path / "old.log", ("--name", "web", *place, "--", "sleep", "1000"))
    try:
        process.wait_until(lambda: consul.get("/v1/health/service/web?passing"), what="the old name")
    finally:
        old.kill()
    new = Entrypoint(consul, tmp_path / "new.log", ("--name", "shop", *place, "--", "sleep", "1000"))
    try:
        new.until_said("registered")
        assert "refused" not in new.said
        process.wait_until(lambda: consul.get("/v1/health/service/shop?passing"), what="the new name")
        assert consul.get("/v1/health/service/web") == []
        assert new.stop() == 128 + signal.SIGTERM
    finally:
        new.kill()
    assert held(consul) is None


async def test_another_name_at_the_same_place_waits_while_the_first_one_lives(
    consul: ConsulAgent, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = registration(consul), registration(consul, name="shop")
    async with first:
        async with second:
            assert not second.registered
            assert "a living instance of this host" in caplog.text
            assert held(consul)["Service"] == "web"
            await first.leave()
            assert held(consul)["Service"] == "shop"
        assert held(consul) is None


# --- gunicorn's upgrade -----------------------------------------------------------------------------------------------


@pytest.fixture
def gunicorn(consul: ConsulAgent, tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """gunicorn with the page's own configuration, on a port that is free here."""
    started: list[Running] = []

    def start(more: str = "") -> Running:
        port = free_port()
        conf = example("docs/how-to/register.md", "with_gunicorn").replace("8000", str(port))
        conf = conf.replace('name="web",', 'name="web", id="web-1", address="127.0.0.1",')
        (tmp_path / "app.py").write_text(WSGI, encoding="utf-8")
        (tmp_path / "gunicorn.conf.py").write_text(
            conf.replace("/healthz", "/") + 'pidfile = "pid"\ncontrol_socket_disable = True\n' + more, encoding="utf-8"
        )
        # The script: `python -m gunicorn` cannot start itself again, its package's `http` would hide Python's.
        command = [str(Path(sys.executable).with_name("gunicorn")), "app:app"]
        started.append(Running(consul, tmp_path, command, port))
        return started[-1]

    yield start
    for name in ("pid", "pid.2", "pid.oldbin"):
        file = tmp_path / name
        if file.exists():
            process.wait_until(partial(_has_ended, int(file.read_text())), what="the end", timeout=60)
    for running in started:
        if running.process.poll() is None:
            process.stop(running.process)


def _has_ended(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.NoSuchProcess):
        return True


async def upgraded(running: Running, master: int, directory: Path) -> int:
    """Send USR2, and return the new master once it has workers."""
    os.kill(master, signal.SIGUSR2)
    file = directory / "pid.2"
    await until(lambda: file.exists() and file.read_text().strip(), f"a new master\n{running.said}", timeout=60)
    new = int(file.read_text())
    await until(lambda: len(psutil.Process(new).children()) == 4, "its workers", timeout=60)
    await until(lambda: lives(new), f"the new master's life\n{running.said}", timeout=60)
    return new


def lives(pid: int) -> bool:
    """Whether the process has a life in the kernel's table."""
    table = Path("/proc/net/unix").read_text(encoding="utf-8")
    return any("@proxygen/registration/" in line and line.endswith(f"/{pid}") for line in table.splitlines())


@pytest.mark.incident("T65")
@pytest.mark.timeout(300)
async def test_t65_a_gunicorn_upgrade_is_never_without_a_passing_instance(
    consul: ConsulAgent, gunicorn: Callable[..., Running], tmp_path: Path
) -> None:
    # In the foreground gunicorn keeps its workers on WINCH, and ends them without grace on QUIT.
    running = await asyncio.to_thread(gunicorn, "daemon = True\n")
    await asyncio.to_thread(running.until_passing)
    old = int((tmp_path / "pid").read_text())
    async with watching_passing(consul, "web") as seen:
        await until(lambda: seen.requests > 10, "load")
        new = await upgraded(running, old, tmp_path)
        os.kill(old, signal.SIGWINCH)
        await until(lambda: not psutil.Process(old).children()[1:], "its workers gone", timeout=60)
        os.kill(old, signal.SIGQUIT)
        await until(lambda: not psutil.pid_exists(old), "the old master gone", timeout=60)
        after = seen.requests
        await until(lambda: seen.requests > after + 300, "load after it")
    seen.require_no_gap()
    os.kill(new, signal.SIGTERM)
    await until(lambda: held(consul) is None, "gone", timeout=60)


@pytest.mark.incident("T65")
@pytest.mark.timeout(300)
async def test_t65_a_gunicorn_upgrade_that_is_rolled_back_and_a_reload_leave_it_in_service(
    consul: ConsulAgent, gunicorn: Callable[..., Running], tmp_path: Path
) -> None:
    running = await asyncio.to_thread(gunicorn)
    await asyncio.to_thread(running.until_passing)
    async with watching_passing(consul, "web") as seen:
        await until(lambda: seen.requests > 10, "load")
        new = await upgraded(running, running.process.pid, tmp_path)
        os.kill(new, signal.SIGQUIT)
        await until(lambda: not lives(new), f"the new master has left\n{running.said}", timeout=60)
        os.kill(running.process.pid, signal.SIGHUP)
        await until(lambda: "Handling signal: hup" in running.said, "the reload", timeout=60)
        after = seen.requests
        await until(lambda: seen.requests > after + 300, "load after it")
    seen.require_no_gap()
    running.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(running.process.wait, 60) == 0
    assert held(consul) is None
