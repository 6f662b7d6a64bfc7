"""What a service manager is told, as it arrives at a real socket."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from proxygen.kit.notify import CommandState, Notifier, keep_telling, work_until
from tests.model.clock import simulated_time


class Manager:
    """The service manager's end."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self._socket.setblocking(False)

    def heard(self) -> list[str]:
        """Return the datagrams since the last call."""
        datagrams = []
        while True:
            try:
                datagrams.append(self._socket.recv(65536).decode())
            except BlockingIOError:
                return datagrams

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, short_directory: Path) -> Iterator[Manager]:
    address = str(short_directory / "notify") if request.param == "path" else f"@proxygen-{os.getpid()}"
    manager = Manager(address)
    yield manager
    manager.close()


def test_each_word_is_one_datagram(manager: Manager) -> None:
    notifier = Notifier(manager.address)
    before = time.monotonic_ns() // 1000
    notifier.ready()
    assert notifier.is_ready
    notifier.reloading()
    assert not notifier.is_ready
    notifier.beat()
    notifier.stopping()
    ready, reloading, beat, stopping = manager.heard()
    assert (ready, beat) == ("READY=1", "WATCHDOG=1")
    assert stopping.splitlines()[0] == "STOPPING=1"
    first, _, moment = reloading.partition("\nMONOTONIC_USEC=")
    assert first == "RELOADING=1"
    assert before <= int(moment) <= time.monotonic_ns() // 1000


def test_a_status_cannot_say_another_word(manager: Manager) -> None:
    """It quotes what Consul and nginx say: a line break in it would begin a word of its own."""
    assert Notifier(manager.address).status("refused\nREADY=1\x1b[2J" + "\udcff" + "x" * 5000)
    (datagram,) = manager.heard()
    assert datagram.startswith("STATUS=refused READY=1 [2J")
    assert "\n" not in datagram
    assert len(datagram) < 500


def test_the_variables_are_taken_out_of_what_children_see(manager: Manager) -> None:
    environment = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}
    notifier = Notifier.adopt(environment)
    assert environment == {}
    assert notifier.watchdog == 3.0
    notifier.ready()
    assert manager.heard() == ["READY=1"]


@pytest.mark.parametrize(
    "environment",
    [
        {"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"},  # an ancestor's
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {},
    ],
)
def test_a_watchdog_that_is_not_ours_is_none(environment: dict[str, str]) -> None:
    assert Notifier.adopt(environment).watchdog is None


@pytest.mark.parametrize("address", ["", "/nowhere/at/all", "vsock:2:1234", "nonsense", "/" + "x" * 300])
def test_nobody_is_told_where_nobody_listens(address: str) -> None:
    notifier = Notifier.adopt({"NOTIFY_SOCKET": address})
    notifier.ready()
    assert not notifier.is_ready


def test_a_manager_that_does_not_read_stops_nobody(manager: Manager) -> None:
    notifier = Notifier(manager.address)
    for _ in range(10_000):
        if not notifier.status("full"):
            break
    else:
        pytest.fail("the socket's queue never filled")
    notifier.ready()
    assert not notifier.is_ready, "what did not get through is said again"


class Work:
    """A command as it is told of."""

    def __init__(self) -> None:
        self.condition = CommandState(is_ready=False, text="starting")
        self.looks = 0

    def look(self) -> CommandState:
        self.looks += 1
        return self.condition


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    with simulated_time() as loop:
        yield loop
        rest = asyncio.all_tasks(loop)
        for task in rest:
            task.cancel()
        loop.run_until_complete(asyncio.wait(rest))


def heard_within(seconds: float, loop: asyncio.AbstractEventLoop, manager: Manager) -> list[str]:
    """What comes to the manager while the loop turns for so long."""
    loop.run_until_complete(asyncio.sleep(seconds))
    return manager.heard()


def test_ready_is_said_once_and_again_after_a_reload(loop: asyncio.AbstractEventLoop, manager: Manager) -> None:
    work, notifier = Work(), Notifier(manager.address)
    loop.create_task(keep_telling(notifier, work.look))
    assert heard_within(60, loop, manager) == ["STATUS=starting"]
    work.condition = CommandState(is_ready=True, text="generation 1")
    assert heard_within(0.3, loop, manager) == ["STATUS=generation 1", "READY=1"]
    assert heard_within(60, loop, manager) == []
    notifier.reloading()
    assert heard_within(1.2, loop, manager)[1:] == ["READY=1"]


def test_the_watchdog_hears_us_while_the_work_moves(loop: asyncio.AbstractEventLoop, manager: Manager) -> None:
    work, notifier = Work(), Notifier(manager.address, watchdog=0.4)
    loop.create_task(keep_telling(notifier, work.look))
    beats = [heard_within(0.4, loop, manager).count("WATCHDOG=1") for _ in range(25)]
    # At half of its period, or at the look that follows: there are eight in a period.
    assert 39 <= sum(beats) <= 51
    work.condition = CommandState(is_ready=True, text="a pass hangs", is_well=False)
    heard_within(0.1, loop, manager)
    assert "WATCHDOG=1" not in heard_within(60, loop, manager)


async def test_the_watchdog_hears_nothing_while_the_loop_does_not_turn(manager: Manager) -> None:
    telling = asyncio.create_task(keep_telling(Notifier(manager.address, watchdog=0.1), Work().look))
    await asyncio.sleep(0.01)
    assert "WATCHDOG=1" in manager.heard()
    time.sleep(0.15)  # noqa: ASYNC251 - this is what it is about
    assert manager.heard() == []
    telling.cancel()


async def test_a_condition_that_cannot_be_found_out_ends_nothing(manager: Manager) -> None:
    def look() -> CommandState:
        raise OSError("no such process")

    telling = asyncio.create_task(keep_telling(Notifier(manager.address, watchdog=30.0), look))
    await asyncio.sleep(0.1)
    assert manager.heard() == ["STATUS=state unknown: OSError: no such process", "READY=1", "WATCHDOG=1"]
    assert not telling.done()
    telling.cancel()


async def test_nothing_is_looked_at_where_nobody_listens() -> None:
    work = Work()
    telling = asyncio.create_task(keep_telling(Notifier(""), work.look))
    await asyncio.sleep(0.05)
    assert work.looks == 0
    assert not telling.done()
    telling.cancel()


def test_a_stop_is_told_and_then_ends_the_work(manager: Manager) -> None:
    heard_at_its_end: list[str] = []

    async def work() -> NoReturn:
        try:
            await asyncio.Event().wait()
            raise AssertionError("it is only ever cancelled")
        finally:
            heard_at_its_end.extend(manager.heard())

    with simulated_time() as loop:
        stop = asyncio.Event()
        loop.call_later(5, stop.set)
        state = CommandState(is_ready=True, text="at work")
        loop.run_until_complete(work_until(stop, work(), Notifier(manager.address), lambda: state))
    assert heard_at_its_end == ["STATUS=at work", "READY=1", "STOPPING=1\nSTATUS=stopping"]


def test_work_that_fails_is_an_error_and_no_stop(manager: Manager) -> None:
    async def work() -> NoReturn:
        await asyncio.sleep(1)
        raise OSError("no socket")

    state = CommandState(is_ready=True, text="at work")
    with simulated_time() as loop:
        whole = work_until(asyncio.Event(), work(), Notifier(manager.address), lambda: state)
        with pytest.raises(OSError, match="no socket"):
            loop.run_until_complete(whole)
    assert manager.heard() == ["STATUS=at work", "READY=1"]
