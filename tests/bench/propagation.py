"""How long a change in Consul takes to be felt by nginx's clients, beside consul-template.

``python -m tests.bench.propagation`` measures at 10, 200 and 1,000 services; ``--sizes 10000 --turns 1 --changes 2`` at
10,000 in about a quarter of an hour. All contenders watch the same Consul in turns: each starts from nothing, is
measured for some changes, and ends; then the next one. So whatever else the machine does meets all of them, and none is
slowed by another.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.bench.contenders import ConsulTemplate, Contender, Maker, Proxygen, find_consul_template
from tests.bench.fleet import CANARY, NAMES, NEWCOMER, Fleet
from tests.bench.options import add_consul
from tests.bench.probe import until_answered_by, until_not_answered_by, until_served, write
from tests.bench.report import COLD_START, Record, as_json, table
from tests.bench.upstreams import Upstreams
from tests.harness.consul import ConsulAgent
from tests.harness.tools import find_nginx


def quiet(size: int) -> float:
    """Seconds between two changes: a lone change is measured, not one that waits for the end of the one before."""
    return 1.0 + size / 2_000


def limits(size: int) -> dict[str, object]:
    """Let a client hold a connection for each service, as consul-template does; Consul's default is 200 in all.

    Consul does not start unless it may open as many files.
    """
    return {"limits": {"http_max_conns_per_client": size + 1_000}}


async def measure(contender: Contender, fleet: Fleet, changed: Sequence[str], record: Record) -> None:
    """Let a contender start from nothing and feel every kind of change on each of the services."""
    for service in changed:
        fleet.add_canary(service)
    try:
        begun = time.perf_counter()
        await asyncio.to_thread(contender.start)
        record.seconds[COLD_START].append(await until_served(contender, fleet.sample, begun))
        await asyncio.sleep(2 * quiet(fleet.size))
        record.started.append(contender.usage())
        for service in changed:
            await _change(contender, fleet, service, record)
        record.ended.append(contender.usage())
    finally:
        contender.stop()
        for service in changed:
            fleet.remove(service, CANARY)


async def _change(contender: Contender, fleet: Fleet, service: str, record: Record) -> None:
    felt = partial(until_answered_by, contender, service)
    gone = partial(until_not_answered_by, contender, service)
    steps = (
        ("registered", felt, NEWCOMER, fleet.add, (service,)),
        ("critical", gone, NEWCOMER, fleet.set_health, (service, "critical")),
        ("passing again", felt, NEWCOMER, fleet.set_health, (service, "passing")),
        ("deregistered", gone, NEWCOMER, fleet.remove, (service,)),
        ("canary to 100 % in KV", felt, CANARY, fleet.set_share, (service, "100%")),
        ("canary off again", gone, CANARY, fleet.unset_share, (service,)),
    )
    for change, seen, name, make, arguments in steps:
        writing = asyncio.create_task(write(make, *arguments), name=change)
        begun = time.perf_counter()
        record.seconds[change].append(await seen(name, begun))
        await writing
        record.changes += 1
        await asyncio.sleep(quiet(fleet.size))


async def compare(
    fleet: Fleet, makers: Mapping[str, Maker], directory: Path, *, turns: int, changes: int
) -> dict[str, Record]:
    """Give each contender its turns, one after the other."""
    records = {name: Record() for name in makers}
    for turn in range(turns):
        for name, make in makers.items():
            first = turn * changes
            changed = [fleet.services[(first + number) % fleet.size] for number in range(changes)]
            say(f"  {fleet.size} services, turn {turn + 1} of {turns}: {name}")
            place = Path(tempfile.mkdtemp(dir=directory))
            await measure(make(place), fleet, changed, records[name])
    return records


@contextmanager
def fleet_of(size: int, directory: Path) -> Iterator[Fleet]:
    """A Consul of its own with so many services, and their upstreams."""
    consul = ConsulAgent(directory / "consul", config=limits(size))
    with Upstreams(directory / "upstreams", NAMES) as upstreams:
        consul.start()
        try:
            fleet = Fleet(consul, upstreams, size)
            fleet.register()
            yield fleet
        finally:
            consul.kill()


def makers_for(consul: ConsulAgent, nginx: str) -> dict[str, Maker]:
    """Return proxygen first, and consul-template in both ways where it is on PATH."""
    binary = find_nginx(nginx)
    if binary is None:
        raise SystemExit(f"nginx ({nginx}) is not installed here")
    makers: dict[str, Maker] = {"proxygen": partial(Proxygen, consul, binary)}
    program = find_consul_template()
    if program is None:
        say("consul-template is not on PATH: proxygen is measured alone")
    else:
        makers["consul-template"] = partial(ConsulTemplate, program, consul, binary, checked=False)
        makers["consul-template, -t"] = partial(ConsulTemplate, program, consul, binary, checked=True)
    return makers


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.propagation", description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 200, 1000], help="numbers of services")
    parser.add_argument("--turns", type=int, default=4, help="starts from nothing of each contender")
    parser.add_argument("--changes", type=int, default=8, help="services changed in each turn, in six ways each")
    parser.add_argument("--nginx", choices=["debian", "wheel"], default="debian", help="which nginx")
    parser.add_argument("--contenders", nargs="+", metavar="NAME", help="only these: proxygen, consul-template, ...")
    parser.add_argument("--json", type=Path, help="write all figures to this file too")
    add_consul(parser)
    arguments = parser.parse_args()
    # Whoever ends the bench ends what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    figures = {}
    for size in arguments.sizes:
        with tempfile.TemporaryDirectory(prefix="proxygen-bench-") as folder:
            directory = Path(folder)
            with fleet_of(size, directory) as fleet:
                makers = makers_for(fleet.consul, arguments.nginx)
                if arguments.contenders:
                    makers = {name: make for name, make in makers.items() if name in arguments.contenders}
                (directory / "turns").mkdir()
                records = asyncio.run(
                    compare(fleet, makers, directory / "turns", turns=arguments.turns, changes=arguments.changes)
                )
        print("\n".join(table(size, records)), flush=True)
        figures[str(size)] = as_json(records)
        if arguments.json:
            arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
