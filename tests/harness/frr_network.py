"""Hosts whose routes FRR carries, with leases that are handed out here: what Consul would tell is said by hand."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network

from proxygen.network.config import parse_config
from proxygen.network.fabric import Fabric, Member, Underlay
from proxygen.network.frr.backend import BgpBackend, OspfBackend
from tests.harness import process
from tests.harness.frr import FrrRouter
from tests.harness.hosts import Container, Host, Lab

_NETWORK = IPv4Network("10.99.0.0/16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Station:
    """A host of the network, with all that is on it."""

    host: Host
    router: FrrRouter
    underlay: Underlay
    backend: BgpBackend | OspfBackend
    member: Member
    container: Container

    @property
    def subnet(self) -> str:
        return str(self.member.subnet)

    def knows(self, other: Station) -> bool:
        """Tell whether its kernel has a route to another's subnet, by that host."""
        routes = self.host.routes("exact", other.subnet)
        return any(route.get("gateway") == str(other.host.address) for route in routes)

    def until_knows(self, *others: Station, timeout: float = 180.0) -> None:
        for other in others:
            what = f"{self.host.label} having a route to {other.subnet}"
            process.wait_until(lambda other=other: self.knows(other), what=what, timeout=timeout)  # type: ignore[misc]

    def until_gives_up(self, other: Station, *, timeout: float = 180.0) -> None:
        """Wait until its FRR counts another as gone."""
        what = f"{self.host.label} counting {other.host.label} as gone"
        process.wait_until(lambda: not self.has_session(other), what=what, timeout=timeout)

    def has_session(self, other: Station) -> bool:
        """Tell whether its FRR hears from another's."""
        if isinstance(self.backend, BgpBackend):
            return bool(self.router.peers()[str(other.host.address)]["state"] == "Established")
        neighbours = self.router.show("show ip ospf neighbor json")["neighbors"]
        return any(entry["address"] == str(other.host.address) for found in neighbours.values() for entry in found)

    def until_forgets(self, other: Station, *, timeout: float = 180.0) -> None:
        what = f"{self.host.label} having no route to {other.subnet}"
        process.wait_until(lambda: not self.host.routes("exact", other.subnet), what=what, timeout=timeout)


class FrrNetwork:
    """Stations on one Ethernet; each joins with the next subnet. None of them can send or hear multicast."""

    def __init__(self, lab: Lab, kind: type[BgpBackend] | type[OspfBackend]) -> None:
        self._lab = lab
        self._kind = kind
        self._config = parse_config(f'{{"Network": "{_NETWORK}", "Backend": {{"Type": "{kind.type}"}}}}')
        self.stations: list[Station] = []
        self._routers: list[FrrRouter] = []
        self._numbers = itertools.count(1)

    async def join(self) -> Station:
        """Start another host."""
        host = self._lab.host()
        host.drop_multicast()
        number = next(self._numbers)
        subnet = IPv4Network((int(_NETWORK.network_address) + 256 * number, 24))
        host.attach_bridge(subnet)
        router = FrrRouter(host, "bgpd" if self._kind is BgpBackend else "ospfd")
        self._routers.append(router)
        router.start()
        address = IPv4Interface(f"{host.address}/24")
        underlay = Underlay(link=Host.LINK, index=2, address=address, mtu=1500, mac="02:00:00:00:00:01")
        backend = self._kind(underlay, router.place, node=host.label)
        told = await backend.prepare()
        assert told.public_ip is not None
        member = Member(
            host_id=f"host{number:02}",
            node=told.node,
            subnet=subnet,
            public_ip=told.public_ip,
            backend_type=told.backend_type,
            backend_data=told.backend_data or {},
        )
        container = host.container()
        self.stations.append(
            Station(host=host, router=router, underlay=underlay, backend=backend, member=member, container=container)
        )
        return self.stations[-1]

    def seen_by(self, station: Station, *strangers: Member) -> Fabric:
        """Return the network as a host sees it, with members that no host stands behind."""
        others = [one.member for one in self.stations if one is not station]
        return Fabric(
            config=self._config,
            own=station.member,
            others=tuple(sorted((*others, *strangers), key=lambda member: member.subnet)),
        )

    async def tell(self, *stations: Station) -> None:
        """Let hosts, or all of them, see the network as it is."""
        for station in stations or tuple(self.stations):
            assert await station.backend.carry(self.seen_by(station)) == ()

    async def leave(self, station: Station) -> None:
        """Take a host out for good: its part of FRR goes, and then its lease."""
        await station.backend.withdraw()
        self.stations.remove(station)

    async def restore(self, count: int) -> list[Station]:
        """Make of the network what it is after so many hosts joined and were told of each other; return them."""
        for newcomer in self.stations[count:]:
            newcomer.router.stop()
            newcomer.host.remove()
        del self.stations[count:]
        for station in self.stations:
            station.host.mend()
            station.host.readdress()
            station.router.revive()
        while len(self.stations) < count:
            await self.join()
        await self.tell()
        for one, other in self.pairs():
            one.until_knows(other)
        return list(self.stations)

    def pairs(self) -> Iterator[tuple[Station, Station]]:
        return ((one, other) for one in self.stations for other in self.stations if one is not other)

    def until_all_reach_all(self, *, timeout: float = 180.0) -> None:
        """Wait until every container has an answer of every other."""
        for one, other in self.pairs():
            one.container.until_pings(other.container.address, timeout=timeout)

    def stop(self) -> None:
        for router in self._routers:
            router.stop()
