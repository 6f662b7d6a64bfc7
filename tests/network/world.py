"""Hosts that lease subnets from a model Consul in simulated time, and the laws that hold at every moment of it."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from itertools import combinations
from pathlib import Path
from typing import Any, Final, cast

from proxygen.kit.errors import ProxygenError
from proxygen.network.choice import Standing
from proxygen.network.collect import Collector
from proxygen.network.lease import SubnetLease
from proxygen.network.memory import AgentMemory
from proxygen.network.records import Attributes, KeyEntry, View, read_view
from proxygen.network.session import Terms
from proxygen.network.status import LeaseStatus
from proxygen.network.store import PREFIX, NetworkStore
from tests.model.clock import simulated_time
from tests.network.model import ConsulModel, Link

TERMS: Final = Terms(ttl=10, lock_delay=10, grace=400)
NETWORK: Final = "10.9.0.0/24"
_MEMORY: Final = Path("/dev/shm")


class Machine:
    """A host with its own clock of boots, disk, and way to Consul; its agent may run or not."""

    def __init__(self, consul: ConsulModel, host_id: str, disk: Path, number: int) -> None:
        self.host_id = host_id
        self.link = Link(consul)
        self.public_ip = IPv4Address(f"192.0.2.{number}")
        self.disk = disk
        self.boots = 1
        self.number = number
        self.lease: SubnetLease | None = None
        self.subnet: IPv4Network | None = None
        """What its containers got since it booted."""
        self._tasks: list[asyncio.Task[Any]] = []

    @property
    def status(self) -> LeaseStatus | None:
        return None if self.lease is None else self.lease.status

    @property
    def runs(self) -> bool:
        return bool(self._tasks)

    def start(self, changed: Any) -> None:
        store = NetworkStore(cast("Any", self.link), deadline=TERMS.deadline)
        memory = AgentMemory(self.disk, boot=f"{self.number}:{self.boots}")
        attributes = Attributes(node=f"node-{self.number}", public_ip=self.public_ip)
        lease = SubnetLease(store, self.host_id, attributes, memory=memory, terms=TERMS)
        collector = Collector(store, lambda: lease.session, terms=TERMS)
        self.lease = lease

        async def watch() -> None:
            while True:
                await lease.moved()
                changed()

        self._tasks = [asyncio.ensure_future(one) for one in (lease.keep(), collector.run(), watch())]

    async def kill(self) -> None:
        """End the agent as kill -9 does; the containers go on."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended

    async def reboot(self) -> None:
        await self.kill()
        self.boots += 1
        self.lease = self.subnet = None

    async def leave(self, *, release: bool) -> None:
        await self.kill()
        assert self.lease is not None
        if release:
            # People take the containers away first.
            self.subnet = None
        with suppress(ProxygenError):
            await (self.lease.release() if release else self.lease.close())


@dataclass
class World:
    """All hosts, one Consul, and an operator."""

    consul: ConsulModel = field(default_factory=lambda: ConsulModel(chance=random.Random(7)))
    machines: list[Machine] = field(default_factory=list)
    lost_data: bool = False
    has_doubles: bool = False

    def __post_init__(self) -> None:
        # What is drawn at random in the code itself is the same each time, too.
        random.seed(7)
        self._time = simulated_time()
        self.loop = self._time.__enter__()
        self._disk = Path(tempfile.mkdtemp(prefix="leases-", dir=_MEMORY if _MEMORY.is_dir() else None))
        self._broken: list[str] = []
        self._seen = 0
        """Consul's index at the last look."""
        self.consul.watch = self.check

    def close(self) -> None:
        try:
            self.loop.run_until_complete(self._end())
        finally:
            # Whatever went wrong: a clock that stays behind would stand still in the next world.
            self._time.__exit__(None, None, None)
            shutil.rmtree(self._disk)

    async def _end(self) -> None:
        for machine in self.machines:
            await machine.kill()

    def run(self, work: Any) -> None:
        self.loop.run_until_complete(work)
        assert not self._broken, self._broken[0]

    def wait_until(self, holds: Callable[[], bool], *, within: float) -> None:
        """Wait in steps of a quarter of a second, which costs no time."""
        for _ in range(round(within * 4)):
            if holds():
                return
            self.wait(0.25)
        raise AssertionError(f"not within {within:g} s: {[machine.status for machine in self.machines]}")

    def wait(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))
        self.check()
        assert not self._broken, self._broken[0]

    # --- what people do

    def configure(self, subnet_len: int = 28, *, new: bool = False) -> None:
        self.consul.put(f"{PREFIX}/config", json.dumps({"Network": NETWORK, "SubnetLen": subnet_len}))
        if new:
            self.consul.put(f"{PREFIX}/settled", "new")

    def reserve(self, name: str, value: str) -> None:
        self.consul.put(f"{PREFIX}/reservations/{name}", value)

    def add(self, host_id: str = "", *, double_of: Machine | None = None, runs: bool = True) -> Machine:
        number = len(self.machines) + 1
        host_id = host_id or f"host{number}" if double_of is None else double_of.host_id
        machine = Machine(self.consul, host_id, self._disk / f"{number}", number)
        if double_of is not None:
            self.has_doubles = True
            with suppress(FileNotFoundError):
                shutil.copy(double_of.disk, machine.disk)
        self.machines.append(machine)
        if runs:
            self.start(machine)
        return machine

    def start(self, machine: Machine) -> None:
        self.loop.call_soon(machine.start, self.check)
        self.wait(0)

    def wipe(self) -> None:
        self.consul.wipe()
        self._seen = 0
        self.lost_data = True

    # --- the laws

    def view(self) -> View:
        entries = [
            KeyEntry(
                key=name,
                value=(key.value or "").encode(),
                session=key.session,
                create_index=key.created,
                modify_index=key.modified,
            )
            for name, key in self.consul.keys.items()
        ]
        return read_view(PREFIX, entries)

    def check(self) -> None:
        """Note the first law that is broken; what runs inside a task could not raise to anybody."""
        self._broken += self._breaches()

    def _breaches(self) -> Iterator[str]:
        if self.consul.index != self._seen:
            self._seen = self.consul.index
            for one, other in combinations(self.view().records, 2):
                if one.overlaps(other):
                    yield f"records overlap: {one} and {other}"
        relying = [
            (machine, status.subnet)
            for machine in self.machines
            if (status := machine.status) is not None
            and status.subnet is not None
            and self._relies(machine, status.standing)
        ]
        for (one, first), (other, second) in combinations(relying, 2):
            # Two agents on one machine are one host.
            if one.disk != other.disk and first.overlaps(second):
                yield f"{one.host_id} ({one.number}) has {first}, and {other.host_id} ({other.number}) {second}"
        for machine in self.machines:
            status = machine.status
            if status is None or status.subnet is None:
                continue
            if machine.subnet not in (None, status.subnet):
                yield f"{machine.host_id} lives, and its {machine.subnet} became {status.subnet}"
            machine.subnet = status.subnet

    def _relies(self, machine: Machine, standing: Standing) -> bool:
        """Tell whether a host may rely on it that nobody else has its subnet.

        One that holds always may. One that Consul does not confirm of late may until the grace is over; but not where
        all was lost, because nobody can ask it then, nor where a copy lives under its id: Consul cannot tell the two
        apart, and what the copy gives up (by a release, by a config that does not offer it) goes to others.
        """
        if standing is Standing.HELD:
            return True
        has_double = any(one.host_id == machine.host_id and one.disk != machine.disk for one in self.machines)
        return standing is Standing.UNCONFIRMED and not self.lost_data and not has_double
