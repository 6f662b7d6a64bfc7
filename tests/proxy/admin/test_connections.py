"""The admin API's connections: bounded, none idle for long, and no client keeps another out by saying nothing."""

from __future__ import annotations

import asyncio
import errno
import resource
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from proxygen.proxy.admin import connections, stream
from proxygen.proxy.admin.client import connect
from proxygen.proxy.admin.connections import RESERVE, affordable
from proxygen.proxy.admin.server import serving
from proxygen.settings import AdminSettings
from tests.harness.ports import free_port
from tests.proxy.admin.sidecar import RememberingSidecar

pytestmark = pytest.mark.incident("T49")

MOST: Final = 16
GET: Final = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"

Opened = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Place:
    """A sidecar's port, and the connections that a test opens to it."""

    def __init__(self, port: int, stack: AsyncExitStack) -> None:
        self.port: Final = port
        self._stack: Final = stack
        # asyncio ends a connection whose reader nobody holds.
        self._opened: Final[list[Opened]] = []

    async def open(self, said: bytes = b"") -> Opened:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._stack.callback(writer.transport.abort)
        self._opened.append((reader, writer))
        writer.write(said)
        return reader, writer

    async def metrics(self) -> dict[tuple[str, ...], float]:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{self.port}/metrics") as answer:
            families = text_string_to_metric_families(await answer.text())
            return {
                (sample.name, *sample.labels.values()): sample.value for family in families for sample in family.samples
            }


@asynccontextmanager
async def place(directory: Path, *, idle: float = 60.0) -> AsyncIterator[Place]:
    port = free_port()
    settings = AdminSettings(listen=f"127.0.0.1:{port}", max_connections=MOST, idle=idle)
    async with serving(RememberingSidecar(), settings, directory), AsyncExitStack() as stack:
        yield Place(port, stack)


async def ended(opened: Opened) -> bool:
    """Whether the other side closed it: wait until it does."""
    async with asyncio.timeout(30):
        try:
            return await opened[0].read() == b""
        except ConnectionError:
            return True


async def answered(opened: Opened) -> str:
    """Read one answer to its end and return its first line; of one without a length, the head."""
    async with asyncio.timeout(30):
        head = (await opened[0].readuntil(b"\r\n\r\n")).decode()
        lengths = [line.split(":")[1] for line in head.splitlines() if line.lower().startswith("content-length:")]
        await opened[0].readexactly(int(lengths[0]) if lengths else 0)
        return head.splitlines()[0]


async def test_at_the_limit_the_longest_idle_makes_room(short_directory: Path) -> None:
    async with place(short_directory) as door:
        idle = [await door.open() for _ in range(MOST)]
        # The first one is no longer the longest idle once it was answered.
        idle[0][1].write(GET)
        assert "200" in await answered(idle[0])
        newcomer = await door.open(GET)
        assert "200" in await answered(newcomer)
        assert await ended(idle[1])
        idle[0][1].write(GET)
        assert "200" in await answered(idle[0])


async def test_a_flood_of_idle_connections_keeps_nobody_out_and_is_counted(short_directory: Path) -> None:
    async with place(short_directory) as door:
        for _ in range(5 * MOST):
            await door.open()
        found = await door.metrics()
        assert found["proxygen_admin_connections", "tcp"] == MOST
        assert found["proxygen_admin_turned_away_total", "tcp", "made_room"] == 4 * MOST + 1
        assert found["proxygen_admin_turned_away_total", "unix", "made_room"] == 0


async def test_what_is_at_work_is_not_closed(short_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that follows the events has said all that it will; it is not idle."""
    # That a follower is gone is seen when it is written to.
    monkeypatch.setattr(stream, "HEARTBEAT", 0.2)
    async with place(short_directory) as door:
        followers = [await door.open(b"GET /api/v1/events HTTP/1.1\r\nHost: a\r\n\r\n") for _ in range(MOST)]
        for follower in followers:
            assert "200" in await answered(follower)
        assert await ended(await door.open(GET))
        followers[0][1].transport.abort()
        async with asyncio.timeout(30):
            while True:
                newcomer = await door.open(GET)
                try:
                    assert "200" in await answered(newcomer)
                    break
                except (asyncio.IncompleteReadError, ConnectionError):
                    # The sidecar has not seen yet that the follower is gone.
                    await asyncio.sleep(0.01)
        assert not any(follower[0].at_eof() for follower in followers[1:])


async def test_a_flood_of_the_port_does_not_touch_the_socket(short_directory: Path) -> None:
    port = free_port()
    settings = AdminSettings(listen=f"127.0.0.1:{port}", max_connections=MOST)
    async with serving(RememberingSidecar(), settings, short_directory), AsyncExitStack() as stack:
        crowd = Place(port, stack)
        for _ in range(MOST):
            await crowd.open(b"GET /api/v1/events HTTP/1.1\r\nHost: a\r\n\r\n")
        async with connect(settings, short_directory) as client:
            assert (await client.status()).version


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nHost: a\r\n", GET], ids=["nothing", "half a request", "one"])
async def test_a_connection_without_a_whole_request_is_closed_in_time(short_directory: Path, said: bytes) -> None:
    async with place(short_directory, idle=1.0) as door:
        opened = await door.open(said)
        if said == GET:
            assert "200" in await answered(opened)
        assert await ended(opened)


async def test_a_failed_accept_is_counted_and_logged_once(
    short_directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """asyncio's own server says it up to a hundred times at once, and again each second."""
    monkeypatch.setattr(connections, "_PAUSE", 0.0)
    async with place(short_directory) as door:
        loop = asyncio.get_running_loop()
        accept, failures = loop.sock_accept, 50

        async def failing(listener: socket.socket) -> tuple[socket.socket, object]:
            nonlocal failures
            accepted = await accept(listener)
            if failures and listener.family == socket.AF_INET:
                failures -= 1
                accepted[0].close()
                raise OSError(errno.EMFILE, "Too many open files")
            return accepted

        assert "200" in await answered(await door.open(GET))
        monkeypatch.setattr(loop, "sock_accept", failing)
        # It waits in the true accept once more.
        assert "200" in await answered(await door.open(GET))
        for _ in range(50):
            assert await ended(await door.open())
        found = await door.metrics()
        assert found["proxygen_admin_turned_away_total", "tcp", "not_accepted"] == 50
    said = capsys.readouterr()
    assert (said.out + said.err).count("admin connections not accepted") == 1


def test_a_reserve_is_kept_from_both_listeners(monkeypatch: pytest.MonkeyPatch) -> None:
    def limited(to: int) -> Callable[[int], tuple[int, int]]:
        return lambda _what: (to, to)

    for limit, most in ((1024, 300), (512, 128), (128, 8), (resource.RLIM_INFINITY, 300), (RESERVE, 8)):
        monkeypatch.setattr(resource, "getrlimit", limited(limit))
        assert affordable(300) == most
