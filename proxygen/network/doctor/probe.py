"""Whether other hosts answer by the data plane, and if not, in which direction packets are lost.

The probe is a ping to an address inside the other host's subnet from an address inside our own. So it takes the very
way of containers' packets: route, neighbour, forwarding entry, the backend's UDP port, and all of that back again.
A process that listens on a port of its own would prove that port and nothing else.

Where it fails, two more pings tell the direction. One has our underlay's address as its source: it goes out by the
data plane, and its answer comes back without. The other goes to the member's underlay address from inside our subnet:
only its answer comes by the data plane.

What it cannot tell: what a firewall does to TCP alone; what happens between a member's bridge and its containers; and,
where the member drops pings, anything. WireGuard takes no packet whose source is not in the sender's subnet, so there
the direction stays untold.
"""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from proxygen.kit.programs import run
from proxygen.network.config import WireGuard
from proxygen.network.doctor.facts import Direction, KernelFacts, ProbeFacts, ProbeResult
from proxygen.network.fabric import Fabric, Member, Underlay

_MOST: Final = 200
"""Members that are probed; of more, the report says how many were not."""
_AT_ONCE: Final = 20
_PINGS: Final = ("ping", "-n", "-q", "-c", "3", "-i", "0.2", "-W", "2")
"""One answer is enough: the first ping may wait for ARP, and a busy machine loses some."""
_PATIENCE: Final = 20.0
_HEADERS: Final = 28
"""Bytes of IP's and ICMP's, which `ping -s` does not count."""


class Prober:
    """Probes members, some at a time. Everything raises ProgramUnavailable where there is no ping."""

    def __init__(self, fabric: Fabric, underlay: Underlay, *, source: IPv4Address, largest: int) -> None:
        self._fabric = fabric
        self._underlay = underlay
        self._source = source
        self._largest = largest
        self._turn = asyncio.Semaphore(_AT_ONCE)

    async def probe(self) -> ProbeFacts:
        """Probe all members, those that live first."""
        members = sorted(self._fabric.others, key=lambda member: (not member.lives, member.subnet))
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._probe_in_turn(member), name=f"probe of {member.subnet}")
                for member in members[:_MOST]
            ]
        return ProbeFacts(reached=tuple(task.result() for task in tasks), others=max(0, len(members) - _MOST))

    async def _probe_in_turn(self, member: Member) -> ProbeResult:
        async with self._turn:
            return await self._probe(member)

    async def _probe(self, member: Member) -> ProbeResult:
        place = int(self._source) - int(self._fabric.own.subnet.network_address)
        target = find_target(member.subnet, place)
        carried, largest, underlay = await asyncio.gather(
            self._pings(target, source=self._source),
            self._pings(target, source=self._source, size=self._largest),
            self._pings(member.public_ip, source=self._underlay.address.ip),
        )
        return ProbeResult(
            member=member,
            target=target,
            carried=carried,
            largest=self._largest,
            largest_carried=largest,
            underlay=underlay,
            lost=await self._direction(member, target) if underlay and not carried else None,
        )

    async def _direction(self, member: Member, target: IPv4Address) -> Direction:
        if isinstance(self._fabric.config.backend, WireGuard):
            return Direction.UNTOLD
        out, back = await asyncio.gather(
            self._pings(target, source=self._underlay.address.ip), self._pings(member.public_ip, source=self._source)
        )
        if out == back:
            return Direction.UNTOLD if out else Direction.BOTH
        return Direction.BACK if out else Direction.OUT

    async def _pings(self, target: IPv4Address, *, source: IPv4Address, size: int | None = None) -> bool:
        sized = () if size is None else ("-M", "do", "-s", str(size - _HEADERS))
        done = await run((*_PINGS, *sized, "-I", str(source), str(target)), timeout=_PATIENCE)
        return done.returncode == 0


def find_source(fabric: Fabric, kernel: KernelFacts) -> IPv4Address | None:
    """Return the address of ours to probe from: the backend's device's before the bridge's; None: there is none."""
    own = fabric.own.subnet
    inside = [address.ip for _, address in kernel.addresses if address.ip in own]
    return min(inside, default=None)


def find_target(subnet: IPv4Network, place: int) -> IPv4Address:
    """Return the address at the same place as our own source: .0 of a backend's device, .1 of a bridge."""
    return subnet[min(place, subnet.num_addresses - 1)]
