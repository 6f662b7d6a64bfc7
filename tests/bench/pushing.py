"""What pushed servers cost each request, and what pushes do to clients: ``python -m tests.bench.pushing``.

First two nginx pass the same requests on to the same instances, second by second in turns: one balances by Lua, the
other has the same modules and balances itself. Then one is pushed to under load, while WebSockets and gRPC streams are
open. wrk sends the load; where it is not on PATH, a slow client of Python's own does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from aiohttp import ClientSession, ClientWebSocketResponse

from proxygen.kit.templating import Templates
from proxygen.proxy.plan import plan_routes
from proxygen.proxy.plan.types import Policy
from proxygen.proxy.render.renderer import Renderer
from proxygen.proxy.render.surroundings import Snippets, Surroundings
from tests.bench.options import add_consul
from tests.bench.upstreams import Upstreams
from tests.harness import process
from tests.harness.app import App, echoes
from tests.harness.consul import ConsulAgent
from tests.harness.gateways import GrpcEcho, RpcStream
from tests.harness.load import Load
from tests.harness.nginx import NginxServer
from tests.harness.ports import free_port
from tests.harness.sidecar import Sidecar
from tests.harness.tools import LUA, NginxBinary, find_lua_nginx, missing
from tests.integration.certificates import Authority
from tests.integration.waiting import answers, call, until
from tests.proxy.plan.catalogs import catalog, instance

HOST: Final = "web.example.com"
_NO_LOG: Final = "access_log /dev/null combined if=0;"
_QUIET: Final = f"keepalive_timeout 1h; keepalive_requests 1000000000; {_NO_LOG}"
_CONNECTIONS: Final = 16
_RESAMPLED: Final = 10_000


# --- what it costs a request


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A median, and where 95 of 100 medians of as many samples would lie."""

    least: float
    middle: float
    most: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of Lua's balancer, by pairs of neighbouring seconds."""

    loss: Interval
    """The part of the requests a second that is lost."""
    cpu: Interval
    """The part by which a request costs nginx's worker more."""
    requests: int
    """A second, with Lua."""


def cost(binary: NginxBinary, directory: Path, *, pairs: int, instances: int = 3, method: str = "") -> Cost:
    names = [f"instance-{number}" for number in range(instances)]
    with (
        Upstreams(directory / "upstreams", names) as upstreams,
        _serving(binary, directory / "lua", upstreams, method, pushed=True) as ours,
        _serving(binary, directory / "own", upstreams, method, pushed=False) as other,
    ):
        for each in (ours, other):
            each.second()
        seconds = [other.second()]
        for _ in range(pairs):
            seconds += [ours.second(), other.second()]
    told, plain = seconds[1::2], seconds[::2]
    lost, more = [], []
    for place, (requests, cpu) in enumerate(told):
        before, after = plain[place], plain[place + 1]
        lost.append(1 - 2 * requests / (before[0] + after[0]))
        more.append(2 * cpu / (before[1] + after[1]) - 1)
    return Cost(loss=interval(lost), cpu=interval(more), requests=round(statistics.median(each for each, _ in told)))


def interval(values: Sequence[float]) -> Interval:
    """Return the median with its 95 % interval, by resampling: what else the machine does is no normal noise."""
    draw = random.Random(1)
    medians = sorted(statistics.median(draw.choices(values, k=len(values))) for _ in range(_RESAMPLED))
    least, most = (medians[int(part * _RESAMPLED)] for part in (0.025, 0.975))
    return Interval(least=least, middle=statistics.median(values), most=most)


@dataclass(frozen=True, slots=True)
class _Server:
    nginx: NginxServer
    port: int

    def second(self) -> tuple[float, float]:
        """Send for a second; return the requests a second and the worker's CPU for each."""
        (worker,) = self.nginx.workers()
        began, before = time.monotonic(), _cpu(worker)
        requests = _send(self.port)
        passed = time.monotonic() - began
        return requests / passed, (_cpu(worker) - before) / requests


@contextmanager
def _serving(
    binary: NginxBinary, directory: Path, upstreams: Upstreams, method: str, *, pushed: bool
) -> Iterator[_Server]:
    """An nginx of one worker that serves one service by what is rendered."""
    port, output = free_port(), directory / "output"
    nginx = NginxServer(binary, directory / "nginx", output=output, workers=1, modules=LUA, http=_QUIET)
    nginx.conf.write_text(nginx.conf.read_text().replace(f"    access_log {nginx.directory}/access.log;\n", ""))
    tags = [f"route={HOST}", *([f"balance={method}"] if method else [])]
    members = [
        instance("web", number, *tags, address="127.0.0.1", port=each)
        for number, each in enumerate(upstreams.ports.values(), 1)
    ]
    around = Surroundings(http=(f"127.0.0.1:{port}",), https=(), pushed=pushed)
    rendered = Renderer(Templates(), around, Snippets()).render(plan_routes(catalog(*members), Policy()))
    for path, content in rendered.contents.items():
        target = output / "current" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    nginx.start()
    try:
        yield _Server(nginx, port)
    finally:
        nginx.stop()


def _cpu(pid: int) -> float:
    """Seconds that it ran, to the nanosecond."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def _send(port: int) -> int:
    """Send for a second and return how many requests were answered, every one of them well."""
    if shutil.which("wrk") is None:
        tally = asyncio.run(
            Load("127.0.0.1", port, headers={"Host": HOST}, clients=_CONNECTIONS, keepalive=True).send_for(1)
        )
        assert not tally.failed, tally.failures
        return tally.ok
    done = _read_wrk(subprocess.run(_wrk(port, 1), check=True, capture_output=True, text=True).stdout)
    assert not done.failed
    return done.requests


def _wrk(port: int, seconds: int) -> list[str]:
    return ["wrk", "-t1", f"-c{_CONNECTIONS}", f"-d{seconds}s", "-H", f"Host: {HOST}", f"http://127.0.0.1:{port}/"]


def _start_wrk(port: int) -> subprocess.Popen[str] | None:
    """Send until it is interrupted."""
    if shutil.which("wrk") is None:
        return None
    return subprocess.Popen(_wrk(port, 600), stdout=subprocess.PIPE, text=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sent:
    requests: int
    failed: int


def _read_wrk(text: str) -> _Sent:
    requests = re.search(r"(\d+) requests in", text)
    assert requests is not None, text
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    failed = int(refused[1]) if refused else 0
    return _Sent(requests=int(requests[1]), failed=failed + sum(map(int, errors.groups() if errors else ())))


# --- what pushes do to clients


@dataclass(slots=True, kw_only=True)
class Pushed:
    """What came of many pushes under load."""

    pushes: int = 0
    seconds: float = 0.0
    requests: int = 0
    failed: int = 0
    sockets_cut: int = 0
    streams_cut: int = 0
    reloads: int = 0
    new_workers: int = 0
    milliseconds: dict[str, float] | None = None
    """From the write in Consul to the proof, by quantile."""


SERVICES: Final = ("web", "sockets", "rpc")
_SOCKETS: Final = 8
_STREAMS: Final = 3
"""Of the echo's four threads one answers what else is asked."""


async def pushed_under_load(binary: NginxBinary, directory: Path, *, pushes: int) -> Pushed:
    """Change one instance of each service in turns, each change once the one before is proven."""
    nginx = NginxServer(
        binary, directory / "nginx", output=directory / "output", modules=LUA, http=_NO_LOG, connections=4096
    )
    nginx.conf.write_text(nginx.conf.read_text().replace(f"    access_log {nginx.directory}/access.log;\n", ""))
    consul, authority = ConsulAgent(directory / "consul"), Authority()
    certificates = directory / "certificates"
    certificates.mkdir()
    authority.issue(certificates, "rpc", "rpc.example.com")
    settings = {"proxy.certificates": str(certificates), "log.level": "info"}
    sidecar = Sidecar(consul, nginx, directory / "sidecar", settings)
    async with AsyncExitStack() as stack:
        await call(_start, consul, directory, stack)
        stack.callback(nginx.stop)
        nginx.start()
        stack.callback(sidecar.kill)
        await call(sidecar.start, cold=True)
        for service in SERVICES[:2]:
            await answers(sidecar, f"{service}.example.com")
        await until(lambda: sidecar.events()[-1].get("event") == "generation applied", "the first generation")
        streams = _Streams(sidecar, authority)
        await streams.open(stack)
        return await _push(consul, nginx, sidecar, streams, pushes)


def _start(consul: ConsulAgent, directory: Path, stack: AsyncExitStack) -> None:
    """Consul, and of each service an instance that stays and one that comes and goes."""
    stack.callback(consul.kill)
    consul.start()
    upstreams = stack.enter_context(Upstreams(directory / "upstreams", ["web-stays", "web-changes"]))
    ports = {
        **upstreams.ports,
        **{name: stack.enter_context(App(name)).port for name in ("sockets-stays", "sockets-changes")},
        **{name: stack.enter_context(GrpcEcho(name)).port for name in ("rpc-stays", "rpc-changes")},
    }
    for name, port in ports.items():
        service, _, role = name.partition("-")
        speaks = ["proxygen.protocol=grpc", "proxygen.tls=auto"] if service == "rpc" else []
        status = "passing" if role == "stays" else "critical"
        tags = [f"proxygen.route={service}.example.com", *speaks]
        consul.register(service, id=name, port=port, tags=tags, status=status)


class _Streams:
    """WebSockets and gRPC streams that stay open, all of instances that stay."""

    def __init__(self, sidecar: Sidecar, authority: Authority) -> None:
        self._sidecar = sidecar
        self._authority = authority
        self._sockets: list[ClientWebSocketResponse] = []
        self._rpcs: list[RpcStream] = []

    async def open(self, stack: AsyncExitStack) -> None:
        session = await stack.enter_async_context(ClientSession())
        for _ in range(_SOCKETS):
            url = f"http://127.0.0.1:{self._sidecar.http}/"
            self._sockets.append(await session.ws_connect(url, headers={"Host": "sockets.example.com"}))
            assert await self._sockets[-1].receive_str(timeout=10) == "sockets-stays"
        for _ in range(_STREAMS):
            self._rpcs.append(RpcStream(self._sidecar.https, "rpc.example.com", self._authority.pem))
            stack.callback(self._rpcs[-1].close)
        assert await self.cut() == (0, 0)

    async def cut(self) -> tuple[int, int]:
        """How many of the two kinds do not answer any more."""
        sockets = await asyncio.gather(*map(echoes, self._sockets))
        rpcs = await asyncio.gather(*(call(stream.is_open) for stream in self._rpcs))
        return sockets.count(False), rpcs.count(False)


async def _push(consul: ConsulAgent, nginx: NginxServer, sidecar: Sidecar, streams: _Streams, pushes: int) -> Pushed:
    workers, reloads = nginx.workers(), nginx.errors().count(", reconfiguring")
    found, took = Pushed(), []
    async with _load(sidecar, found):
        began = time.monotonic()
        for number in range(pushes):
            service, status = SERVICES[number % 3], "critical" if number // 3 % 2 else "passing"
            written, applied = time.monotonic(), sidecar.applies()
            await call(consul.set_check, f"{service}-changes", status)
            while sidecar.applies() == applied:
                assert time.monotonic() < written + process.PATIENCE, sidecar.tail()
                await asyncio.sleep(0.002)
            took.append(time.monotonic() - written)
            found.pushes += sidecar.events()[-1].get("by") == "push"
        found.seconds = time.monotonic() - began
    found.sockets_cut, found.streams_cut = await streams.cut()
    found.reloads = nginx.errors().count(", reconfiguring") - reloads
    found.new_workers = len(nginx.workers() - workers)
    ordered = sorted(took)
    found.milliseconds = {f"p{part}": round(ordered[len(ordered) * part // 100] * 1000, 1) for part in (50, 90, 99)}
    return found


@asynccontextmanager
async def _load(sidecar: Sidecar, found: Pushed) -> AsyncIterator[None]:
    """Clients with keep-alive that count what failed; as many requests as nginx can answer where wrk is here."""
    careful = Load("127.0.0.1", sidecar.http, headers={"Host": HOST}, keepalive=True, pause=0.01)
    task = asyncio.create_task(careful.send(10_000_000), name="careful clients")
    fast = _start_wrk(sidecar.http)
    await careful.until_more(100)
    try:
        yield
    finally:
        careful.stop()
        tally = await task
        found.requests, found.failed = tally.total, tally.failed
        if fast is not None:
            # At an interrupt it tells what it saw so far.
            fast.send_signal(signal.SIGINT)
            sent = _read_wrk((await call(fast.communicate, timeout=30))[0])
            found.requests, found.failed = found.requests + sent.requests, found.failed + sent.failed


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.pushing", description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=30, help="alternations of seconds; 0 leaves the comparison out")
    parser.add_argument("--instances", type=int, default=3)
    parser.add_argument("--method", default="", help="of the tag balance, such as least_conn")
    parser.add_argument("--pushes", type=int, default=300, help="under load; 0 leaves them out")
    parser.add_argument("--json", type=Path, help="write all figures to this file too")
    add_consul(parser)
    arguments = parser.parse_args()
    binary = find_lua_nginx()
    if binary is None:
        missing("nginx with libnginx-mod-http-lua")
    figures: dict[str, object] = {}
    with tempfile.TemporaryDirectory(prefix="proxygen-bench-") as folder:
        if arguments.pairs:
            found = cost(
                binary,
                Path(folder) / "cost",
                pairs=arguments.pairs,
                instances=arguments.instances,
                method=arguments.method,
            )
            figures["cost"] = asdict(found)
            print(f"{binary.name}: {arguments.pairs} pairs, {found.requests} requests/s with Lua")
            for name, each in (("requests/s lost", found.loss), ("CPU of a request, more", found.cpu)):
                print(f"  {name:24} {each.middle:.1%}, 95 % interval {each.least:.1%} to {each.most:.1%}")
        if arguments.pushes:
            (Path(folder) / "load").mkdir()
            pushed = asyncio.run(pushed_under_load(binary, Path(folder) / "load", pushes=arguments.pushes))
            figures["pushes"] = asdict(pushed)
            print(
                f"{pushed.pushes} pushes in {pushed.seconds:.1f} s under {pushed.requests / pushed.seconds:.0f} "
                f"requests/s: {pushed.failed} of {pushed.requests} failed, {pushed.sockets_cut} of {_SOCKETS} "
                f"WebSockets and {pushed.streams_cut} of {_STREAMS} gRPC streams cut, {pushed.reloads} reloads, "
                f"{pushed.new_workers} new workers; from Consul to proof {pushed.milliseconds}"
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
