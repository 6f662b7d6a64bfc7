"""What it takes to bring the kernel to so many hosts, next to ``ip -batch``: ``python -m tests.bench.routing``.

Both do the same in a namespace of their own, in turns: iproute2 reads the entries from a file and knows nothing of what
is there; a pass of ours reads what is there, compares, and then changes the difference. Then ours passes again, with
nothing to do, and with one host more.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from statistics import median
from typing import Final

from proxygen.network.fabric import Member
from tests.harness.hosts import Host, Lab
from tests.network.backends.fabrics import member, vtep
from tests.network.backends.nodes import HOST_GW, VXLAN, Node, make_node

SIZE: Final = 1000
TURNS: Final = 5
CONFIGS: Final = {"host-gw": HOST_GW, "vxlan": VXLAN}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Medians, in seconds."""

    backend: str
    hosts: int
    entries: int
    batch: float
    """``ip -batch``, and ``bridge -batch`` where there is forwarding, to bare tables."""
    from_nothing: float
    unchanged: float
    one_more: float

    @property
    def ratio(self) -> float:
        """Ours as a multiple of theirs."""
        return self.from_nothing / self.batch

    def __str__(self) -> str:
        return (
            f"{self.backend:8} {self.hosts:6} hosts {self.entries:6} entries   ip -batch {self.batch * 1000:6.0f} ms"
            f"   ours {self.from_nothing * 1000:6.0f} ms (x{self.ratio:.1f})"
            f"   nothing to do {self.unchanged * 1000:5.0f} ms   one host more {self.one_more * 1000:5.0f} ms"
        )


async def measure(backend: str, size: int, turns: int) -> Figures:
    others = [_member(number) for number in range(size + 1)]
    async with _two_hosts(CONFIGS[backend]) as (node, rival):
        await node.carry()
        await rival.carry()
        files = _write_batches(backend, rival.host, others[:size])
        entries = sum(len(file.read_text().splitlines()) for _, file in files)
        times: dict[str, list[float]] = {name: [] for name in ("batch", "from_nothing", "unchanged", "one_more")}
        for _ in range(turns):
            times["batch"].append(_timed(lambda: _run_batches(rival.host, files)))
            times["from_nothing"].append(await _carried(node, others[:size]))
            _expect_the_same(node.host, rival.host)
            times["unchanged"].append(await _carried(node, others[:size]))
            times["one_more"].append(await _carried(node, others))
            await node.carry()
            await rival.carry()
    return Figures(
        backend=backend,
        hosts=size,
        entries=entries,
        **{name: median(values) for name, values in times.items()},
    )


def _member(number: int) -> Member:
    """Make one of many hosts: the subnets begin with 10.100.0.0/24, the addresses with 192.0.2.10."""
    network = IPv4Network((int(IPv4Address("10.100.0.0")) + (number << 8), 24))
    address = IPv4Address(int(IPv4Address("192.0.2.10")) + number)
    return member(number + 10, ip=str(address), data=vtep(number + 10), subnet=str(network))


@contextlib.asynccontextmanager
async def _two_hosts(config: str) -> AsyncIterator[tuple[Node, Node]]:
    wide = config.replace("10.99.0.0/16", "10.0.0.0/8")
    with tempfile.TemporaryDirectory() as directory, Lab(Path(directory) / "lab") as lab:
        segment = lab.segment("192.0.0.0/16")
        hosts = lab.hosts(2, segment=segment)
        async with contextlib.AsyncExitStack() as stack:
            yield await make_node(stack, hosts[0], 1, wide), await make_node(stack, hosts[1], 2, wide)


def _write_batches(backend: str, host: Host, others: Sequence[Member]) -> list[tuple[str, Path]]:
    """Return programs with their files; what a route needs comes first, as with ours."""
    routes, neighbours, forwards = [], [], []
    for one in others:
        first, mac = one.subnet.network_address, one.backend_data["VtepMAC"]
        if backend == "host-gw":
            routes.append(f"route replace {one.subnet} via {one.public_ip} dev eth0 proto 225")
        else:
            neighbours.append(f"neigh replace {first} lladdr {mac} nud permanent dev pxvx1")
            forwards.append(f"fdb replace {mac} dst {one.public_ip} dev pxvx1 self permanent")
            routes.append(f"route replace {one.subnet} via {first} dev pxvx1 onlink proto 225")
    written = []
    for program, name, lines in (("bridge", "forwards", forwards), ("ip", "rest", [*neighbours, *routes])):
        if lines:
            path = host.directory / name
            path.write_text("\n".join(lines) + "\n")
            written.append((program, path))
    return written


def _run_batches(host: Host, files: Sequence[tuple[str, Path]]) -> None:
    for program, path in files:
        host.run(program, "-batch", path)


def _timed(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


async def _carried(node: Node, others: Sequence[Member]) -> float:
    started = time.perf_counter()
    problems = await node.carry(*others)
    spent = time.perf_counter() - started
    if problems:
        raise RuntimeError(f"{len(problems)} problems, such as {problems[0]}")
    return spent


def _expect_the_same(ours: Host, theirs: Host) -> None:
    """Both have made the same routes: otherwise the figures compare two different things."""
    if ours.ip("route", "show", "proto", "225") != theirs.ip("route", "show", "proto", "225"):
        raise RuntimeError("the two did not make the same routes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=SIZE, help=f"remote hosts; default {SIZE}")
    parser.add_argument("--turns", type=int, default=TURNS, help=f"default {TURNS}")
    arguments = parser.parse_args()
    for backend in CONFIGS:
        print(asyncio.run(measure(backend, arguments.size, arguments.turns)), flush=True)


if __name__ == "__main__":
    main()
