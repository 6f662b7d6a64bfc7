"""The network as one host sees it at one moment, and what a backend makes of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Protocol

from proxygen.network.config import NetworkConfig
from proxygen.network.records import Attributes, Record, View


@dataclass(frozen=True, slots=True, kw_only=True)
class Underlay:
    """The host's interface through which it reaches the others, and its address there."""

    link: str
    index: int
    address: IPv4Interface
    """The host's own address with the network that its link is on."""
    mtu: int
    mac: str
    elsewhere: IPv4Address | None = None
    """Where the others reach the host, if a router translates that address into the host's own."""

    @property
    def public_ip(self) -> IPv4Address:
        """What the others are told."""
        return self.elsewhere or self.address.ip


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A host of the network."""

    host_id: str
    node: str
    """Its name, for people."""
    subnet: IPv4Network
    public_ip: IPv4Address
    backend_type: str
    backend_data: Mapping[str, object] = field(default_factory=dict)
    """As the lease has it: hostile until the backend has read it."""
    lives: bool = True
    """False: its agent does not answer to Consul. Its routes stay; only the end of its lease withdraws them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fabric:
    """All hosts of the network. Backends bring the host's data plane to exactly this."""

    config: NetworkConfig
    own: Member
    others: tuple[Member, ...]
    """By subnet."""
    problems: tuple[str, ...] = ()
    """Leases that no route can be made for, and why, one line each."""


class Backend(Protocol):
    """One way of carrying packets across hosts.

    Every method may be called again at any time, and after any crash: what is as it should be is left alone.
    They raise NetworkError for what stops the backend; what concerns one member only is a problem that is returned.
    """

    @property
    def mtu(self) -> int:
        """The largest packet that containers may send, in bytes; known once `prepare` has been called."""

    async def prepare(self) -> Attributes:
        """Make what this host needs before it has a lease, and return what others must know of it."""

    async def carry(self, fabric: Fabric) -> tuple[str, ...]:
        """Bring the data plane to the fabric, and no further. Return what could not be done, one line each."""

    async def stirred(self) -> None:
        """Return once something outside may have undone what `carry` did. A backend without eyes never returns."""

    async def withdraw(self) -> None:
        """Remove all that is ours, and nothing else."""


def see_fabric(view: View, config: NetworkConfig, own: Member) -> Fabric:
    """Return what a host sees in Consul's keys, with its own lease as the host itself knows it."""
    members: list[Member] = []
    problems = [f"{subnet}: {why}" for subnet, why in view.strangers.items()]
    for record in view.records.values():
        if record.host_id == own.host_id:
            continue
        problem = _unroutable(record, config, own)
        if problem:
            problems.append(f"{record.subnet} of {record.holder}: {problem}")
        else:
            members.append(_member(record))
    return Fabric(
        config=config,
        own=own,
        others=tuple(sorted(members, key=lambda member: member.subnet)),
        problems=tuple(sorted(problems)),
    )


def told(member: Member, why: str) -> str:
    """Return a problem with a member as one line."""
    return f"{member.subnet} of host {member.host_id[:12]} ({member.node or 'no name'}): {why}"


def check_host(member: Member, underlay: Underlay) -> str:
    """Return why a member's address cannot be a host's; empty where it can."""
    address = member.public_ip
    network = underlay.address.network
    if address.is_unspecified or address.is_multicast or address.is_loopback or address.is_reserved:
        return f"its PublicIP {address} is no host's"
    if network.prefixlen < 31 and address in (network.network_address, network.broadcast_address):
        return f"its PublicIP {address} is that of the network {network} itself"
    if address == underlay.public_ip:
        return f"it has this host's PublicIP {address}"
    return ""


def is_near(address: IPv4Address, underlay: Underlay) -> bool:
    """Tell whether an address is on the underlay's own network, with no router between."""
    return address in underlay.address.network


def _unroutable(record: Record, config: NetworkConfig, own: Member) -> str:
    attributes = record.attributes
    if not record.subnet.subnet_of(config.network):
        return f"it lies outside of Network {config.network}"
    if record.subnet.overlaps(own.subnet):
        return f"it overlaps this host's {own.subnet}"
    if attributes.public_ip is None:
        return "it has no PublicIP"
    if attributes.public_ip == own.public_ip:
        return f"it has this host's PublicIP {own.public_ip}"
    if attributes.public_ip in config.network:
        return f"its PublicIP {attributes.public_ip} lies in the containers' own network"
    if attributes.backend_type != config.backend.type:
        return f"its backend is {attributes.backend_type or 'not named'}, and the network's is {config.backend.type}"
    return ""


def _member(record: Record) -> Member:
    attributes = record.attributes
    assert attributes.public_ip is not None
    return Member(
        host_id=record.host_id,
        node=attributes.node,
        subnet=record.subnet,
        public_ip=attributes.public_ip,
        backend_type=attributes.backend_type,
        backend_data=attributes.backend_data or {},
        lives=bool(record.session),
    )
