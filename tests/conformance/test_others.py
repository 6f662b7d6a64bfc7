"""Whatever one client's requests meet, nobody else pays for it: a property, under load.

One client sends requests that each instance hangs up on, lets time out, or answers with too much. The others send
ordinary ones meanwhile, each on a connection of its own, so that every worker is asked.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.conformance.case import Sent
from tests.conformance.instance import Record, Scripted, Switch
from tests.conformance.sending import exchange
from tests.conformance.site import Service, Site, proxied
from tests.conformance.wire import Connection
from tests.harness.ports import free_port
from tests.harness.tools import NginxBinary

_COUNTS: Final = (2, 3, 5)
_WORKERS: Final = (1, 2, 4)
_POISONS: Final = (
    Sent(does="hang-up"),
    Sent(does="hang-up-early"),
    Sent(method="POST", body=b"x", does="hang-up"),
    Sent(method="PUT", body=b"x", does="hang-up"),
    Sent(does="headers:40960"),
    Sent(method="POST", body=b"x", does="headers:40960"),
    Sent(does="half"),
    Sent(method="POST", body=b"x", does="silent"),
    Sent(does="silent"),
    Sent(headers=("Accept: text/event-stream",), does="hang-up"),
)
_SHAPES: Final = {
    "plain": ((), ()),
    "least-conn": (("balance=least_conn",), ()),
    "random": (("balance=random",), ()),
    "ip-hash": (("balance=ip_hash",), ()),
    "hash": (("balance=hash:$uri",), ()),
    "canary": ((), ("canary=50%",)),
    "sticky": (("sticky=cookie",), ("canary=50%",)),
    "more-fails": (("max-fails=3", "fail-timeout=1m"), ()),
    "unsafe": (("retries-unsafe=true",), ()),
}
"""Tags of all instances, and more of all but the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """An nginx with so many workers, and a service for each shape and number of instances."""

    site: Site
    streams: dict[int, tuple[int, tuple[Switch, ...]]]
    """By number of instances the port on which nginx listens, and the instances."""

    @staticmethod
    def host(shape: str, count: int) -> str:
        return f"{shape}-{count}.req.example.com"


_PACE: Final = 0.03
"""Seconds between two requests of the others: many enough for each worker to be asked while a poison is at work."""

_CASES: Final = [
    *((workers, "plain", count) for workers in _WORKERS for count in _COUNTS),
    *((2, shape, 2) for shape in _SHAPES if shape != "plain"),
]
"""Each number of workers and instances for the plain service; for the others two instances, where a failure costs
most."""


@pytest.fixture(scope="module")
def fleet(
    request: pytest.FixtureRequest, binary: NginxBinary, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    with ExitStack() as stack:
        record = Record()
        names = [f"instance-{number}" for number in range(max(_COUNTS))]
        ports = [stack.enter_context(Scripted(name, record)).port for name in names]
        services = [
            Service(
                name=f"{shape}-{count}",
                # An ordinary request that waits so long on a busy machine is sent to another instance.
                tags=(f"route={Fleet.host(shape, count)}", "timeout=2s", *tags),
                second=second,
                ports=tuple(ports[:count]),
            )
            for shape, (tags, second) in _SHAPES.items()
            for count in _COUNTS
        ]
        streams = {count: _stream(count, stack) for count in _COUNTS}
        for count, (port, switches) in streams.items():
            # As many as it takes to come to the last of them.
            tags = ("protocol=tcp", f"listen={port}", "retries=20")
            services.append(Service(name=f"stream-{count}", tags=tags, ports=tuple(switch.port for switch in switches)))
        directory: Path = tmp_path_factory.mktemp(f"fleet-{binary.name}-{request.param}")
        site = stack.enter_context(proxied(binary, directory, services, record, workers=request.param))
        yield Fleet(site=site, streams=streams)


def _stream(count: int, stack: ExitStack) -> tuple[int, tuple[Switch, ...]]:
    switches = tuple(Switch(f"stream-{number}") for number in range(count))
    for switch in switches:
        switch.open()
        stack.callback(switch.close)
    return free_port(), switches


@pytest.mark.parametrize(("fleet", "shape", "count"), _CASES, indirect=["fleet"], scope="module")
def test_one_clients_failures_cost_nobody_else_anything(fleet: Fleet, shape: str, count: int) -> None:
    seed = f"{shape} {count} {fleet.site.nginx.binary.name}"
    chosen = random.Random(seed)
    poisons = [chosen.choice(_POISONS) for _ in range(4)]
    host = Fleet.host(shape, count)
    over = threading.Event()
    got: Counter[int | None] = Counter()

    def poison() -> None:
        for sent in poisons:
            exchange(fleet.site, host, sent, "http")
        over.set()

    thread = threading.Thread(target=poison)
    thread.start()
    while not over.is_set():
        got[_ordinary(fleet.site, host, chosen)] += 1
        over.wait(_PACE)
    thread.join()
    # What the last of them left behind meets these.
    for _ in range(8):
        got[_ordinary(fleet.site, host, chosen)] += 1
    assert set(got) == {200}, (got, poisons)


def _ordinary(site: Site, host: str, chosen: random.Random) -> int | None:
    sent = Sent(target=f"/{chosen.randrange(1000)}", method=chosen.choice(("GET", "GET", "POST")))
    return exchange(site, host, sent, "http").status


@pytest.mark.parametrize(
    ("fleet", "count"),
    [(workers, count) for workers in _WORKERS for count in _COUNTS],
    indirect=["fleet"],
    scope="module",
)
def test_a_stream_is_served_as_soon_as_an_instance_listens_again(fleet: Fleet, count: int) -> None:
    """Each instance was asked in vain, and no other than that is known of it."""
    port, switches = fleet.streams[count]
    chosen = random.Random(count)
    for _ in range(2):
        for switch in switches:
            switch.close()
        for _ in range(6):
            assert _greeting(port) == b""
        back = chosen.choice(switches)
        back.open()
        assert {_greeting(port) for _ in range(8)} == {back.name.encode()}
        for switch in switches:
            if switch is not back:
                switch.open()
        assert b"" not in {_greeting(port) for _ in range(8)}


def _greeting(port: int) -> bytes:
    with Connection(port=port) as connection:
        return connection.read(8)
