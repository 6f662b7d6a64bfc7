"""Who speaks to whom, and about what: the same on every host from the same fabric. Pure.

Seniority orders the hosts: since when each is in the network, which it says in its lease. Newcomers come last, so that
what they change is about themselves. The two oldest are hubs; more are when those do not live. The fifty oldest are the
core.

- BGP: all hosts are in one autonomous system. Those of the core have sessions with one another; everybody has one with
  each hub, which reflects routes. Nothing changes for the others when the 51st host comes or goes.
- OSPF without point-to-multipoint: hubs know everybody and are the designated routers, the others know the hubs alone.
  Packets go straight between any two.
- OSPF with point-to-multipoint: adjacencies as BGP's sessions. Beyond the core packets go by way of a hub.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from proxygen.network.fabric import Fabric, Member, Underlay, check_host, is_near, told
from proxygen.network.frr.version import POINT_TO_MULTIPOINT, FrrVersion

SINCE: Final = "Since"
"""The key in BackendData of the time, in seconds of Unix, at which a host came into the network."""
VERSION: Final = "FRR"
"""The key of its FRR's version."""
HUBS: Final = 2
CORE: Final = 50
"""A mesh of 50 has 1,225 sessions; of 100 it has four times as many."""
AUTONOMOUS_SYSTEM: Final = 4_200_000_000
"""The first that RFC 6996 leaves to private use. Inside of one no host passes on what it heard, but for hubs."""
HUB_PRIORITY: Final = 10
_ENDLESS: Final = 1 << 62


class Group(Enum):
    """A peer-group. Who is passive waits to be called: two that call each other race on a restart."""

    PEER = "PROXYGEN"
    CLIENT = "PROXYGEN-CLIENT"
    PASSIVE_CLIENT = "PROXYGEN-CLIENT-PASSIVE"
    PASSIVE_PEER = "PROXYGEN-PASSIVE"


class OspfNetwork(Enum):
    """What OSPF takes the Ethernet for; neither kind sends multicast."""

    NON_BROADCAST = "non-broadcast"
    POINT_TO_MULTIPOINT = "point-to-multipoint non-broadcast"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRouting:
    """What a host says, and what it believes."""

    router_id: IPv4Address
    own: IPv4Network
    network: IPv4Network
    shortest: int
    longest: int
    """Prefix lengths of leases: more than one only after the config's SubnetLen was changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BgpPeer:
    """Another BGP speaker."""

    address: IPv4Address
    group: Group


@dataclass(frozen=True, slots=True, kw_only=True)
class BgpDesign:
    """What a host's bgpd is to be."""

    says: HostRouting
    reflects: bool
    """Whether it passes on what it hears."""
    peers: tuple[BgpPeer, ...]
    """By address."""

    @property
    def neighbours(self) -> tuple[IPv4Address, ...]:
        """Whom this host talks BGP with: all members, or the reflectors."""
        return tuple(peer.address for peer in self.peers)

    def without(self, refused: Iterable[IPv4Address]) -> BgpDesign:
        """The same, but for peers that FRR refused."""
        left_out = frozenset(refused)
        peers = tuple(peer for peer in self.peers if peer.address not in left_out)
        return BgpDesign(says=self.says, reflects=self.reflects, peers=peers)


@dataclass(frozen=True, slots=True, kw_only=True)
class OspfNeighbour:
    """Another OSPF router."""

    address: IPv4Address
    priority: int
    """Above 0: it may be the designated router."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OspfDesign:
    """What a host's ospfd is to be."""

    says: HostRouting
    link: str
    link_network: IPv4Network
    network: OspfNetwork
    priority: int | None
    """None where there is no designated router."""
    routers: tuple[OspfNeighbour, ...]
    """By address."""

    @property
    def neighbours(self) -> tuple[IPv4Address, ...]:
        return tuple(router.address for router in self.routers)

    def without(self, refused: Iterable[IPv4Address]) -> OspfDesign:
        """The same, but for routers that FRR refused."""
        left_out = frozenset(refused)
        return OspfDesign(
            says=self.says,
            link=self.link,
            link_network=self.link_network,
            network=self.network,
            priority=self.priority,
            routers=tuple(router for router in self.routers if router.address not in left_out),
        )


Design = BgpDesign | OspfDesign


def design_bgp(fabric: Fabric, underlay: Underlay) -> tuple[BgpDesign, tuple[str, ...]]:
    """Work out a host's BGP, and a problem for each member that it cannot speak to."""
    others, problems = _reachable(fabric, underlay)
    hubs, core = _hubs(fabric.own, others), _core(fabric.own, others)
    own = fabric.own
    peers = [
        BgpPeer(
            address=member.public_ip,
            # The direction hangs on the addresses alone: views that differ for a while never wait for each other.
            group=_group(
                is_client=own.host_id in hubs and member.host_id not in hubs, waits=own.public_ip > member.public_ip
            ),
        )
        for member in others
        if _speak(own, member, hubs, core)
    ]
    peers.sort(key=lambda peer: peer.address)
    design = BgpDesign(says=_announcement(fabric), reflects=own.host_id in hubs, peers=tuple(peers))
    return design, problems


def design_ospf(fabric: Fabric, underlay: Underlay, version: FrrVersion) -> tuple[OspfDesign, tuple[str, ...]]:
    """Work out a host's OSPF, and a problem for each member that it cannot speak to.

    ``version`` is its own FRR's. The oldest of the network decides: hosts of two kinds of network do not understand
    each other.
    """
    others, problems = _reachable(fabric, underlay)
    hubs, core = _hubs(fabric.own, others), _core(fabric.own, others)
    own = fabric.own
    meets = min([version, *_versions((own, *others))]) >= POINT_TO_MULTIPOINT
    priorities = {member.host_id: HUB_PRIORITY if member.host_id in hubs else 0 for member in (own, *others)}
    routers = [
        OspfNeighbour(address=member.public_ip, priority=0 if meets else priorities[member.host_id])
        for member in others
        if (_speak(own, member, hubs, core) if meets else hubs & {own.host_id, member.host_id})
    ]
    routers.sort(key=lambda router: router.address)
    design = OspfDesign(
        says=_announcement(fabric),
        link=underlay.link,
        link_network=underlay.address.network,
        network=OspfNetwork.POINT_TO_MULTIPOINT if meets else OspfNetwork.NON_BROADCAST,
        priority=None if meets else priorities[own.host_id],
        routers=tuple(routers),
    )
    return design, problems


def _announcement(fabric: Fabric) -> HostRouting:
    lengths = {fabric.config.subnet_len, fabric.own.subnet.prefixlen, *(one.subnet.prefixlen for one in fabric.others)}
    return HostRouting(
        router_id=fabric.own.public_ip,
        own=fabric.own.subnet,
        network=fabric.config.network,
        shortest=min(lengths),
        longest=max(lengths),
    )


def _speak(own: Member, member: Member, hubs: frozenset[str], core: frozenset[str]) -> bool:
    both = {own.host_id, member.host_id}
    return bool(both & hubs) or both <= core


def _group(*, is_client: bool, waits: bool) -> Group:
    if is_client:
        return Group.PASSIVE_CLIENT if waits else Group.CLIENT
    return Group.PASSIVE_PEER if waits else Group.PEER


def _hubs(own: Member, others: Iterable[Member]) -> frozenset[str]:
    """Choose the oldest two, and as many of those that live as make two: who is merely out of sight stays a hub."""
    first, *rest = _by_seniority(own, others)
    chosen = [first, *rest[: HUBS - 1]]
    for member in rest[HUBS - 1 :]:
        if sum(one.lives for one in chosen) >= HUBS:
            break
        if member.lives:
            chosen.append(member)
    return frozenset(member.host_id for member in chosen)


def _core(own: Member, others: Iterable[Member]) -> frozenset[str]:
    return frozenset(member.host_id for member in _by_seniority(own, others)[:CORE])


def _by_seniority(own: Member, others: Iterable[Member]) -> list[Member]:
    return sorted((own, *others), key=lambda member: (_since(member.backend_data), member.host_id))


def _since(data: Mapping[str, object]) -> int:
    since = data.get(SINCE)
    if isinstance(since, bool) or not isinstance(since, int) or not 0 <= since < _ENDLESS:
        return _ENDLESS
    return since


def _versions(members: Iterable[Member]) -> Iterable[FrrVersion]:
    """Yield what members say their FRR is; who says nothing readable is taken for one like ours."""
    for member in members:
        said = member.backend_data.get(VERSION)
        try:
            yield FrrVersion.parse(said if isinstance(said, str) else "")
        except ValueError:
            continue


def _reachable(fabric: Fabric, underlay: Underlay) -> tuple[tuple[Member, ...], tuple[str, ...]]:
    """Return the members that a packet can be handed to, and a problem for each of the others."""
    found: list[Member] = []
    problems: list[str] = []
    taken: dict[IPv4Address, Member] = {}
    for member in sorted(fabric.others, key=lambda one: (_since(one.backend_data), one.host_id)):
        why = _unreachable(member, underlay, taken)
        if why:
            problems.append(told(member, why))
        else:
            taken[member.public_ip] = member
            found.append(member)
    return tuple(found), tuple(sorted(problems))


def _unreachable(member: Member, underlay: Underlay, taken: Mapping[IPv4Address, Member]) -> str:
    address = member.public_ip
    if address in taken:
        return f"its PublicIP {address} is also that of {taken[address].subnet}"
    why = check_host(member, underlay)
    if why or is_near(address, underlay):
        return why
    return (
        f"its PublicIP {address} is not on {underlay.link}'s network {underlay.address.network}, and FRR's hosts must "
        "share one; vxlan crosses routers"
    )
