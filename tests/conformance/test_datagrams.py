"""UDP: each worker of nginx has sessions of its own, so a client's datagrams must all reach the same worker."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.conformance.instance import Record
from tests.conformance.site import Service, Site, proxied
from tests.harness import process
from tests.harness.app import UdpEcho
from tests.harness.ports import free_port
from tests.harness.tools import NginxBinary

_CLIENTS: Final = 24
_DATAGRAMS: Final = 20
"""Of each client. All clients send at once, so that both workers are awake."""


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def site(binary: NginxBinary, tmp_path: Path, port: int) -> Iterator[Site]:
    with ExitStack() as stack:
        echoes = [stack.enter_context(UdpEcho(f"echo-{number}")) for number in range(3)]
        service = Service(
            name="names", tags=("protocol=udp", f"listen={port}"), ports=tuple(echo.port for echo in echoes)
        )
        yield stack.enter_context(proxied(binary, tmp_path, [service], Record(), workers=2))


@contextmanager
def _clients(port: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(_CLIENTS)]
        for client in clients:
            client.settimeout(20)
            client.connect(("127.0.0.1", port))
        yield clients


def _answering(clients: list[socket.socket]) -> list[set[str]]:
    """Which instances answer each client."""
    found: list[set[str]] = [set() for _ in clients]
    for _ in range(_DATAGRAMS):
        for client in clients:
            client.send(b"x")
        for client, names in zip(clients, found, strict=True):
            names.add(client.recv(100).partition(b":")[0].decode())
    return found


def _reload(site: Site) -> None:
    before = site.nginx.workers()
    site.nginx.reload()
    process.wait_until(
        lambda: len(site.nginx.accepting()) == 2 and not before & site.nginx.accepting(), what="new workers"
    )


def test_a_client_stays_with_one_instance(site: Site, port: int) -> None:
    with _clients(port) as clients:
        answering = _answering(clients)
    assert [names for names in answering if len(names) > 1] == []
    assert len(set.union(*answering)) == 3


def test_a_reload_from_a_generation_that_shares_the_socket_and_back_to_it(site: Site, port: int) -> None:
    """As at an upgrade of proxygen, and at a rollback to what the older one wrote."""
    (stream,) = (path for path in site.nginx.output.glob("current/stream.d/*.conf") if "listen" in path.read_text())
    ours = stream.read_text()
    for text in (ours.replace(" reuseport", ""), ours, ours.replace(" reuseport", ""), ours):
        stream.write_text(text)
        _reload(site)
        with _clients(port) as clients:
            answering = _answering(clients)
    assert [names for names in answering if len(names) > 1] == []
    assert "[emerg]" not in site.nginx.errors()
