"""What happens to the process itself and to its disk."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

import pytest

from tests.faults.history import assert_pauses_grew, has_given_up_often
from tests.harness.app import App
from tests.harness.consul import ConsulAgent
from tests.harness.footprint import Footprint
from tests.harness.namespace import MountNamespace
from tests.harness.nginx import NginxServer
from tests.harness.sidecar import Sidecar
from tests.integration.waiting import ROUTE, answers, call, outcome, said, steady_load, until

MakeSidecar = Callable[..., Sidecar]
Saw = Callable[[str], None]

NEW: Final = "new.example.com"
MIB: Final = 1 << 20
GROUP: Final = 5
"""Signals: the passes of half of them, were each half a MiB, would be three times as large as what is allowed."""


# --- T23 --------------------------------------------------------------------------------------------------------------


@pytest.mark.incident("T23")
@pytest.mark.slow
async def test_t23_a_thousand_hangups_leave_no_trace(
    consul: ConsulAgent, running: NginxServer, make_sidecar: MakeSidecar, saw: Saw
) -> None:
    """Injects SIGHUP 1,000 times, while requests go on. File descriptors, threads and memory are what they were
    after the first half; no generation was made, and nginx was left alone."""
    # Else signals that follow each other closely are one pass, every two seconds.
    sidecar = make_sidecar(consul, running, reload__settle="0ms")
    with App("web-1") as app:
        consul.register("web", port=app.port, tags=[ROUTE])
        sidecar.start()
        reloads = running.errors().count("(SIGHUP) received")
        async with steady_load(sidecar):
            await _hang_up(sidecar, 500)
            first = Footprint.of(sidecar.pid)
            await _hang_up(sidecar, 500)
            last = Footprint.of(sidecar.pid)
        passes = len(said(sidecar, "nothing to change"))
        saw(f"{passes} passes; after 500: {first}; after 1,000: {last}")
        assert passes >= 1000 / GROUP
        assert last.descriptors <= first.descriptors + 3
        assert last.threads <= first.threads + 3
        # Python collects cycles when a quarter of all objects may be waste; a pipeline kept alive is half a MiB each.
        assert last.memory <= first.memory + 16 * MIB
        assert sidecar.generation() == 1
        assert running.errors().count("(SIGHUP) received") == reloads
        consul.register("new", port=app.port, tags=[f"proxygen.route={NEW}"])
        await answers(sidecar, NEW)


async def _hang_up(sidecar: Sidecar, times: int) -> None:
    """Send so many signals, in groups of which each is heard, and wait until the last was dealt with."""
    for _ in range(times // GROUP):
        before = len(said(sidecar, "nothing to change"))
        for _ in range(GROUP):
            os.kill(sidecar.pid, signal.SIGHUP)
            await asyncio.sleep(0.005)
        await until(lambda: len(said(sidecar, "nothing to change")) > before, "a pass")  # noqa: B023
    quiet_since = len(sidecar.events())
    for _ in range(60):
        await asyncio.sleep(1)
        if len(sidecar.events()) == quiet_since:
            return
        quiet_since = len(sidecar.events())
    raise AssertionError("still busy a minute after the last signal")


# --- T28 --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(running_in: tuple[MountNamespace, NginxServer]) -> MountNamespace:
    return running_in[0]


@pytest.fixture
def running_in(server: NginxServer) -> Iterator[tuple[MountNamespace, NginxServer]]:
    """A running nginx whose OUTPUT is a file system of one megabyte, in a mount namespace of its own."""
    server.output.mkdir()
    with MountNamespace() as namespace:
        namespace.run("mount", "-t", "tmpfs", "-o", "size=1m", "none", server.output)
        server.start(within=namespace.within)
        yield namespace, server
        server.stop()


@pytest.fixture
def sidecar(
    consul: ConsulAgent, running_in: tuple[MountNamespace, NginxServer], make_sidecar: MakeSidecar
) -> Iterator[Sidecar]:
    """A sidecar beside that nginx, not started."""
    namespace, server = running_in
    sidecar = make_sidecar(consul, server)
    sidecar.output = namespace.seen(server.output)
    yield sidecar
    # Before the namespace goes.
    sidecar.kill()


@pytest.mark.incident("T28")
async def test_t28_a_full_disk_stops_no_request_and_mends_itself(
    consul: ConsulAgent, disk: MountNamespace, sidecar: Sidecar, saw: Saw
) -> None:
    """Injects a file that fills the file system of OUTPUT. What is live serves, the reason is told once per attempt
    and on `/readyz`, and the change goes live by itself when the file is gone."""
    with App("web-1") as app:
        consul.register("web", port=app.port, tags=[ROUTE])
        sidecar.start(within=disk.within)
        filler = sidecar.output / "filler"
        async with steady_load(sidecar):
            await call(_fill, filler)
            consul.register("new", port=app.port, tags=[f"proxygen.route={NEW}"])
            event = await outcome(sidecar, "candidate rejected")
            saw(event["reason"])
            assert "its file system is full" in event["reason"]
            code, body = sidecar.request("/readyz")
            assert code == 503
            assert any("its file system is full" in reason for reason in body["reasons"])
            assert sidecar.generation() == 1
            await until(lambda: has_given_up_often(sidecar), "attempts", timeout=60)
            assert_pauses_grew(said(sidecar, "candidate rejected"))
            filler.unlink()
            await answers(sidecar, NEW)
            await until(lambda: sidecar.request("/readyz")[0] == 200, "ready again")


def _fill(filler: os.PathLike[str]) -> None:
    with suppress(OSError), open(filler, "wb", buffering=0) as file:
        while True:
            file.write(b"x" * 1024)


@pytest.mark.incident("T28")
async def test_t28_an_output_that_becomes_read_only_stops_no_request_and_mends_itself(
    consul: ConsulAgent, disk: MountNamespace, sidecar: Sidecar, server: NginxServer, saw: Saw
) -> None:
    """Injects a read-only mount over OUTPUT, as when a kernel gives up on a disk. The change goes live when it can be
    written again."""
    with App("web-1") as app:
        consul.register("web", port=app.port, tags=[ROUTE])
        sidecar.start(within=disk.within)
        async with steady_load(sidecar):
            # A second mount on top: the lock is open for writing, which forbids to remount the first one.
            disk.run("mount", "--bind", server.output, server.output)
            disk.run("mount", "-o", "remount,bind,ro", server.output)
            consul.register("new", port=app.port, tags=[f"proxygen.route={NEW}"])
            event = await outcome(sidecar, "candidate rejected")
            saw(event["reason"])
            assert "it is read-only" in event["reason"]
            assert any("it is read-only" in reason for reason in sidecar.request("/readyz")[1]["reasons"])
            assert sidecar.generation() == 1
            disk.run("umount", server.output)
            await answers(sidecar, NEW)
            await until(lambda: sidecar.request("/readyz")[0] == 200, "ready again")
