"""What a tenant or a stranger does who means harm, for the fault scenarios and for the bench of what it costs."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

from proxygen.proxy.admin.place import SOCKET_NAME
from tests.harness.consul import ConsulAgent
from tests.harness.sidecar import Sidecar


def colliding(count: int, domain: str = "example.com") -> list[str]:
    """Hosts with one hash in nginx: 31 * ord("c") + ord("0") is 31 * ord("a") + ord("n")."""
    halves = itertools.product(("c0", "an"), repeat=9)
    return [f"{''.join(parts)}.{domain}" for parts in itertools.islice(halves, count)]


def colliding_hosts(consul: ConsulAgent, port: int) -> None:
    """Three services with 87 hosts each that nginx cannot tell apart."""
    hosts = colliding(261)
    for n in range(3):
        tags = [f"proxygen.route={host}" for host in hosts[87 * n : 87 * n + 87]]
        consul.register(f"evil{n}", id=f"evil{n}-1", port=port, tags=tags[:67])
        consul.register(f"evil{n}", id=f"evil{n}-2", port=port, tags=tags[67:])


def many_routes(consul: ConsulAgent, port: int, count: int = 1_000) -> None:
    consul.register("routes", port=port, tags=[f"proxygen.route=h{n}.test/p" for n in range(count)])


def many_ports(consul: ConsulAgent, port: int, count: int) -> None:
    for n in range(count):
        tags = ["proxygen.protocol=tcp", f"proxygen.listen={1_100 + n}"]
        consul.register("ports", id=f"ports-{n}", port=port, tags=tags)


def unknown_tags(consul: ConsulAgent, port: int, instances: int, count: int) -> None:
    for n in range(instances):
        junk = [f"proxygen.junk{n}-{k}=x" for k in range(count)]
        consul.register("junk", id=f"junk-{n}", port=port, tags=["proxygen.route=junk.test", *junk])


@contextmanager
def idle_connections(sidecar: Sidecar, count: int, listener: str = "port") -> Iterator[None]:
    """Connections to the admin API, by its port or its socket, that say nothing."""
    with ExitStack() as stack:
        for _ in range(count):
            family = socket.AF_INET if listener == "port" else socket.AF_UNIX
            connection = stack.enter_context(closing(socket.socket(family)))
            path = str(sidecar.output / "state" / SOCKET_NAME)
            connection.connect(("127.0.0.1", sidecar.admin) if listener == "port" else path)
        yield
