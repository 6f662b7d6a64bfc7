"""The demo is a system of its own: on a busy machine, and beside another one of its user's."""

from __future__ import annotations

import socket
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from proxygen.demo.system import _Ports, _start, _until


def test_no_port_is_one_that_linux_gives_to_clients() -> None:
    """Such a port may be taken between the moment that the demo found it free and nginx's bind."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = _Ports()
    taken = [ports.take() for _ in range(50)]
    assert len(set(taken)) == len(taken)
    assert max(taken) < first


def test_the_wanted_port_is_taken_where_it_is_free() -> None:
    ports = _Ports()
    free = ports.take()
    with socket.create_server(("127.0.0.1", 0)) as other:
        busy = other.getsockname()[1]
        assert _Ports().take(busy) != busy
    assert _Ports().take(free) == free


USERS = ("CONSUL_HTTP_ADDR", "CONSUL_HTTP_TOKEN", "NGINX", "PROXYGEN_CONFIG", "PROXYGEN_PROXY_SEED")


async def test_what_its_user_set_for_another_system_reaches_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable would win over the demo's settings file, and its sidecar watch the user's own Consul."""
    for name in (*USERS, "TZ"):
        monkeypatch.setenv(name, "theirs")
    log = tmp_path / "log"
    async with AsyncExitStack() as stack:
        await _start(stack, ("/usr/bin/env",), log)

        async def has_said() -> bool:
            return "TZ=theirs" in log.read_text()

        await _until(has_said, "env", log)
    assert {line.partition("=")[0] for line in log.read_text().splitlines()}.isdisjoint(USERS)
