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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from tests.bench.contenders import PUSHED, ConsulTemplate, Contender, Maker, Proxygen, find_consul_template
from tests.bench.fleet import CANARY, NAMES, NEWCOMER, Fleet
from tests.bench.options import add_consul
from tests.bench.probe import until_answered_by, until_not_answered_by, until_served, write
from tests.bench.report import COLD_START, Record, as_json, table
from tests.bench.upstreams import Upstreams
from tests.harness.consul import ConsulAgent
from tests.harness.tools import find_lua_nginx, find_nginx


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of change."""

    name: str
    make: Callable[[Fleet, str], None]
    is_felt: bool
    """By answers of the instance; else by their end."""
    instance: str = NEWCOMER
    before: tuple[Callable[[Fleet, str], None], ...] = ()
    """What there is of the service before it changes."""


def _fail(fleet: Fleet, service: str) -> None:
    fleet.set_health(service, "critical")


def _pass(fleet: Fleet, service: str) -> None:
    fleet.set_health(service, "passing")


def _give_share(fleet: Fleet, service: str) -> None:
    fleet.set_share(service, "100%")


KINDS: Final = (
    Kind(name="registered", make=Fleet.add, is_felt=True),
    Kind(name="critical", make=_fail, is_felt=False, before=(Fleet.add,)),
    Kind(name="passing again", make=_pass, is_felt=True, before=(Fleet.add, _fail)),
    Kind(name="deregistered", make=Fleet.remove, is_felt=False, before=(Fleet.add,)),
    Kind(name="weight to 0", make=Fleet.drain, is_felt=False, before=(Fleet.add,)),
    Kind(name="weight back to 1", make=Fleet.add, is_felt=True, before=(Fleet.drain,)),
    Kind(
        name="canary to 100 % in KV",
        make=_give_share,
        is_felt=True,
        instance=CANARY,
        before=(Fleet.add_canary,),
    ),
    Kind(
        name="canary off again",
        make=Fleet.unset_share,
        is_felt=False,
        instance=CANARY,
        before=(Fleet.add_canary, _give_share),
    ),
)

Round = Sequence[tuple[Kind, str]]
"""Each change of another service."""


def quiet(size: int) -> float:
    """Seconds between two changes: a lone change is measured, not one that waits for the end of the one before."""
    return 1.0 + size / 2_000


def limits(size: int) -> dict[str, object]:
    """Let a client hold a connection for each service, as consul-template does; Consul's default is 200 in all.

    Consul does not start unless it may open as many files.
    """
    return {"limits": {"http_max_conns_per_client": size + 1_000}}


async def measure(contender: Contender, fleet: Fleet, rounds: Sequence[Round], record: Record) -> None:
    """Let a contender start from nothing and feel each change of each round."""
    _prepare(fleet, rounds[0])
    try:
        begun = time.perf_counter()
        await asyncio.to_thread(contender.start)
        record.seconds[COLD_START].append(await until_served(contender, fleet.sample, begun))
        await asyncio.sleep(2 * quiet(fleet.size))
        for number, samples in enumerate(rounds):
            if number:
                await asyncio.to_thread(_tidy, fleet, rounds[number - 1])
                await asyncio.to_thread(_prepare, fleet, samples)
                await asyncio.sleep(2 * quiet(fleet.size))
            record.started.append(contender.usage())
            for kind, service in samples:
                await _change(contender, fleet, kind, service, record)
            record.ended.append(contender.usage())
    finally:
        contender.stop()
        _tidy(fleet, rounds[-1])


async def _change(contender: Contender, fleet: Fleet, kind: Kind, service: str, record: Record) -> None:
    seen = until_answered_by if kind.is_felt else until_not_answered_by
    writing = asyncio.create_task(write(partial(kind.make, fleet), service), name=kind.name)
    begun = time.perf_counter()
    record.seconds[kind.name].append(await seen(contender, service, kind.instance, begun))
    await writing
    record.changes += 1
    await asyncio.sleep(quiet(fleet.size))


def _prepare(fleet: Fleet, samples: Round) -> None:
    for kind, service in samples:
        for step in kind.before:
            step(fleet, service)


def _tidy(fleet: Fleet, samples: Round) -> None:
    for kind, service in samples:
        if kind.instance == CANARY:
            fleet.unset_share(service)
        fleet.remove(service, kind.instance)


def rounds_of(services: Sequence[str], first: int, changes: int) -> list[Round]:
    """So many changes of each kind, each of a service that none before it changed: of so many services that there are
    no more of them, the next round begins with the first again."""
    kinds = [kind for _ in range(changes) for kind in KINDS]
    size = len(services)
    samples = [(kind, services[(first + place) % size]) for place, kind in enumerate(kinds)]
    return [samples[place : place + size] for place in range(0, len(samples), size)]


async def compare(
    fleet: Fleet, makers: Mapping[str, Maker], directory: Path, *, turns: int, changes: int
) -> dict[str, Record]:
    """Give each contender its turns, one after the other."""
    records = {name: Record() for name in makers}
    for turn in range(turns):
        for name, make in makers.items():
            rounds = rounds_of(fleet.services, turn * changes * len(KINDS), changes)
            say(f"  {fleet.size} services, turn {turn + 1} of {turns}: {name}")
            place = Path(tempfile.mkdtemp(dir=directory))
            await measure(make(place), fleet, rounds, records[name])
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
    """Return proxygen first, then with an nginx that has Lua, and consul-template in both ways where it is on PATH."""
    binary = find_nginx(nginx)
    if binary is None:
        raise SystemExit(f"nginx ({nginx}) is not installed here")
    makers: dict[str, Maker] = {"proxygen": partial(Proxygen, consul, binary)}
    with_lua = find_lua_nginx()
    if nginx == "debian" and with_lua is not None:
        makers[PUSHED] = partial(Proxygen, consul, with_lua, pushed=True)
    else:
        say("nginx has no http Lua module: everything is reloaded")
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
    parser.add_argument("--changes", type=int, default=8, help="changes of each kind in each turn")
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
