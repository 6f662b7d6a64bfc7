"""The demo finds ports that stay its own on a busy machine."""

from __future__ import annotations

import socket
from pathlib import Path

from proxygen.demo.system import _Ports


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
