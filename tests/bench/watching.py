"""What watching a large Consul costs, and how soon each kind of change is seen.

``python -m tests.bench.watching`` registers 1,000 services of three instances in a Consul of its own that has its
default limits, spread over a hundred nodes and then all on the agent's own, and watches them as the sidecar does. The
watch has this process to itself while its CPU time is counted; what churns is a child.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from proxygen.catalog import Catalog, Health, Instance, ServiceName
from proxygen.settings import ConsulSettings
from tests.bench.options import add_consul
from tests.bench.report import quantile
from tests.consul.watching import Watching, watching
from tests.harness.consul import ConsulAgent

CHURN_RATE: Final = 20.0
"""Unrelated registrations a second, one every 50 ms."""
_WRITERS: Final = 8
_PROCESSES: Final = multiprocessing.get_context("fork")
_QUIET: Final = (0.2, 0.8)
"""Seconds between two changes, drawn at random: what is measured is a lone change at any moment."""
_LOST_AFTER: Final = 30.0


class Writer:
    """Writes services to one Consul: to the catalog, on nodes that no agent owns, or to its agent."""

    def __init__(self, consul: ConsulAgent, nodes: int) -> None:
        self._consul = consul
        self._nodes = nodes

    def register(
        self,
        service: str,
        number: int,
        *,
        port: int = 8000,
        weight: int = 1,
        meta: Mapping[str, str] = MappingProxyType({}),
        status: str | None = "passing",
        tag: str = "",
    ) -> None:
        """Register an instance; without a status it has no check."""
        tags = [tag or f"proxygen.route={service}.example.com"]
        identity = f"{service}-{number}"
        if not self._nodes:
            self._consul.register(
                service, id=identity, port=port, tags=tags, meta=meta, weights=(weight, 1), status=status
            )
            return
        body: dict[str, object] = {
            "Node": self._node(service, number),
            "Address": "127.0.0.1",
            "Service": {
                "ID": identity,
                "Service": service,
                "Address": "127.0.0.1",
                "Port": port,
                "Tags": tags,
                "Meta": dict(meta),
                "Weights": {"Passing": weight, "Warning": 1},
            },
        }
        if status is not None:
            # A check named serfHealth would make the leader remove a node without an agent.
            body["Check"] = {"CheckID": f"check:{identity}", "Name": "alive", "Status": status, "ServiceID": identity}
        self._consul.put("/v1/catalog/register", body)

    def set_health(self, service: str, number: int, *, status: str) -> None:
        if self._nodes:
            self.register(service, number, status=status)
        else:
            self._consul.set_check(f"{service}-{number}", status)

    def deregister(self, service: str, number: int) -> None:
        identity = f"{service}-{number}"
        if self._nodes:
            body = {"Node": self._node(service, number), "ServiceID": identity}
            self._consul.put("/v1/catalog/deregister", body)
        else:
            self._consul.deregister(identity)

    def _node(self, service: str, number: int) -> str:
        return f"bench-{(int(service.rpartition('-')[2]) + number) % self._nodes:03d}"


def churn(writer: Writer) -> None:
    """Register services that nobody routes, and change their Meta, for ever."""
    began = time.monotonic()
    for count in itertools.count():
        time.sleep(max(0.0, began + count / CHURN_RATE - time.monotonic()))
        writer.register(f"job-{count % 40:04d}", 0, tag="batch", meta={"run": str(count)})


def services(size: int) -> list[str]:
    return [f"service-{number:04d}" for number in range(size)]


def fill(writer: Writer, size: int) -> None:
    with ThreadPoolExecutor(_WRITERS) as pool:
        list(pool.map(lambda one: writer.register(*one), itertools.product(services(size), range(3))))


@contextmanager
def churning(writer: Writer) -> Iterator[None]:
    process = _PROCESSES.Process(target=churn, args=(writer,), daemon=True)
    process.start()
    try:
        yield
    finally:
        process.terminate()
        process.join()


Seen = Callable[[tuple[Instance, ...]], bool]


def changes(service: str, phase: int) -> dict[str, tuple[str, dict[str, Any], Seen]]:
    """Return what may be done to a service, by kind: `Writer`'s method, its keywords, and by what it is seen.

    In each phase something else, so that a service may be changed again.
    """

    def has(number: int, **facts: object) -> Seen:
        return lambda found: any(
            one.id == f"{service}-{number}" and all(getattr(one, name) == value for name, value in facts.items())
            for one in found
        )

    status = ("critical", "warning")[phase]
    fresh = 10 + phase
    return {
        "health": ("set_health", {"number": 0, "status": status}, has(0, health=Health(status))),
        "new instance": ("register", {"number": fresh}, has(fresh)),
        "new, without a check": ("register", {"number": fresh + 10, "status": None}, has(fresh + 10)),
        "Meta": ("register", {"number": 1, "meta": {"phase": f"{phase}"}}, has(1, meta=(("phase", f"{phase}"),))),
        "weight": ("register", {"number": 1, "weight": fresh}, has(1, weight_passing=fresh)),
        "port": ("register", {"number": 0, "port": 9000 + phase}, has(0, port=9000 + phase)),
        "deregistration": ("deregister", {"number": 2 - phase}, partial(_lacks, f"{service}-{2 - phase}")),
    }


def _lacks(identity: str, found: tuple[Instance, ...]) -> bool:
    return all(one.id != identity for one in found)


class Meter:
    """What the watch did since some moment."""

    def __init__(self, one: Watching) -> None:
        self._one = one
        self._began = time.monotonic()
        self._cpu = _cpu()
        self._statistics = one.client.statistics

    def read(self) -> dict[str, float]:
        seconds = time.monotonic() - self._began
        now = self._one.client.statistics
        return {
            "bytes a second": round((now.received - self._statistics.received) / seconds),
            "requests a second": round((now.requests - self._statistics.requests) / seconds, 2),
            "CPU %": round((_cpu() - self._cpu) / seconds * 100, 2),
        }


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def connections(consul: ConsulAgent) -> int:
    """Return how many TCP connections to the agent this process has open, idle ones included."""
    port = f":{consul.http_port:04X}"
    lines = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    inodes = {fields[9] for fields in map(str.split, lines) if fields[2].endswith(port) and fields[3] == "01"}
    found = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            found += os.readlink(descriptor).removeprefix("socket:[").removesuffix("]") in inodes
        except OSError:
            continue
    return found


async def latencies(one: Watching, writer: Writer, size: int, count: int, phase: int) -> dict[str, list[float]]:
    """Make ``count`` changes of each kind, each in some service; return the seconds from the write to the catalog."""
    chance = random.Random(1)
    steps = [(kind, service) for kind in changes("", phase) for service in chance.sample(services(size), count)]
    chance.shuffle(steps)
    taken: dict[str, list[float]] = {}
    for kind, service in steps:
        await asyncio.sleep(chance.uniform(*_QUIET))
        method, keywords, seen = changes(service, phase)[kind]
        begun = time.monotonic()
        writing = asyncio.create_task(asyncio.to_thread(getattr(writer, method), service, **keywords))
        await one.until(partial(_shows, service, seen), within=_LOST_AFTER)
        taken.setdefault(kind, []).append(time.monotonic() - begun)
        await writing
    return taken


def _shows(service: str, seen: Seen, catalog: Catalog) -> bool:
    return seen(catalog.services[ServiceName(service)])


async def rival(consul: ConsulAgent, size: int) -> int:
    """Hold a long poll for each service on a connection of its own; return how many the agent refused."""

    async def is_refused(service: str) -> bool:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", consul.http_port)
            writer.write(
                f"GET /v1/health/service/{service}?index=1000000&wait=10s HTTP/1.1\r\nHost: x\r\n\r\n".encode()
            )
            async with asyncio.timeout(3):
                answer = await reader.read(100)
        except TimeoutError:
            writer.close()
            return False
        except OSError:
            return True
        writer.close()
        return not answer or b" 429 " in answer

    return sum(await asyncio.gather(*map(is_refused, services(size))))


async def measure(consul: ConsulAgent, writer: Writer, arguments: argparse.Namespace) -> dict[str, Any]:
    """Watch one Consul through a quiet time, single changes, and a time when unrelated services churn."""
    begun = time.monotonic()
    async with watching(ConsulSettings(address=consul.address)) as one:
        await one.until(lambda catalog: len(catalog.services) == arguments.services, within=120)
        figures: dict[str, Any] = {"seconds to the first catalog": round(time.monotonic() - begun, 2)}
        await asyncio.sleep(3)
        seen = partial(latencies, one, writer, arguments.services)
        figures["quiet"] = await _consumed(one, arguments.seconds)
        figures["seen, ms"] = _table(await seen(arguments.changes, phase=0))
        sockets = connections(consul)
        with churning(writer):
            await asyncio.sleep(3)
            figures["churning"] = await _consumed(one, arguments.seconds)
            figures["seen while churning, ms"] = _table(await seen(max(1, arguments.changes // 3), phase=1))
        statistics = one.client.statistics
    return figures | {
        "connections": max(sockets, connections(consul)),
        "failed requests": statistics.failures,
        "429": statistics.refused,
        "peak memory, MiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


async def _consumed(one: Watching, seconds: float) -> dict[str, float]:
    meter = Meter(one)
    await asyncio.sleep(seconds)
    return meter.read()


def _table(taken: Mapping[str, list[float]]) -> dict[str, dict[str, int]]:
    everything = list(itertools.chain(*taken.values()))
    return {
        kind: {f"p{part * 100:g}": round(quantile(values, part) * 1000) for part in (0.5, 0.9, 0.99)}
        | {"max": round(max(values) * 1000)}
        for kind, values in (*taken.items(), ("all", everything))
    }


def _show(title: str, figures: Mapping[str, Any]) -> None:
    print(title)
    for name, value in figures.items():
        if isinstance(value, Mapping) and all(isinstance(one, Mapping) for one in value.values()):
            print(f"  {name}")
            for kind, row in value.items():
                print(f"    {kind:22}", json.dumps(row), flush=True)
        else:
            print(f"  {name}: {json.dumps(value)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], prog="python -m tests.bench.watching")
    parser.add_argument("--services", type=int, default=1000, help="each with three instances")
    parser.add_argument("--nodes", type=int, nargs="+", default=[100, 0], help="0: all on the agent's own node")
    parser.add_argument("--changes", type=int, default=150, help="of each kind; a third of them while others churn")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long costs are counted")
    add_consul(parser)
    arguments = parser.parse_args()
    # What runs is ended on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    for nodes in arguments.nodes:
        with tempfile.TemporaryDirectory() as directory:
            consul = ConsulAgent(Path(directory))
            consul.start()
            try:
                writer = Writer(consul, nodes)
                fill(writer, arguments.services)
                figures = asyncio.run(measure(consul, writer, arguments))
                figures["a long poll for each service: refused"] = asyncio.run(rival(consul, arguments.services))
            finally:
                consul.kill()
        _show(f"{nodes} nodes" if nodes else "the agent's node", figures)


if __name__ == "__main__":
    main()
