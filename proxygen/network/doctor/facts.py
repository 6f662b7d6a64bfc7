"""What the doctor knows of a host before it judges: plain values, or why one could not be had. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Final, TypeVar

from proxygen.network.config import NetworkConfig
from proxygen.network.docker import DockerVersion
from proxygen.network.doctor.finding import Skipped, Unknown
from proxygen.network.doctor.packets import Ruleset
from proxygen.network.fabric import Fabric, Member, Underlay
from proxygen.network.files import SubnetFile
from proxygen.network.kernel.state import Link
from proxygen.network.records import Record, View

T = TypeVar("T")

FRR: Final = frozenset({11, 186, 188, 196})
"""The protocols of FRR's routes: zebra, bgp, ospf, and its static ones (zebra/rt_netlink.h)."""


def known(part: T | Unknown) -> T:
    """Return the fact. Raise Skipped with the reason why there is none."""
    if isinstance(part, Unknown):
        raise Skipped(part.short or part.reason)
    return part


# --- the lease


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseFacts:
    """What Consul and this host's own memory say about its subnet."""

    host_id: str
    prefix: str
    """Of the keys."""
    view: View
    live: IPv4Network | None
    """What this host's containers have, as its agent remembers."""
    session: str
    """The agent's, as it remembers; empty while there is none."""
    silent: float | None
    """Seconds since Consul last confirmed that; None: it never did since the host booted."""
    ttl: float
    grace: float
    take_over: bool
    """Another program carries packets to other hosts still, and that is meant to be so."""

    @property
    def own(self) -> Record | None:
        """The host's lease in Consul."""
        records = self.view.records_of(self.host_id)
        return records[0] if records else None


# --- the kernel


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignRoute:
    """A route of the main table that is not ours."""

    to: IPv4Network
    link: str
    """Empty: it leads nowhere, such as a blackhole."""
    protocol: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelFacts:
    """Links, addresses, routes and switches of the kernel."""

    links: Mapping[str, Link]
    addresses: tuple[tuple[str, IPv4Interface], ...]
    """By link."""
    routes: tuple[ForeignRoute, ...]
    forwards: Mapping[str, bool]
    """``net.ipv4.conf.LINK.forwarding``; under ``all`` is ip_forward."""
    rp_filter: Mapping[str, int]
    """``net.ipv4.conf.LINK.rp_filter``, and ``all``."""

    def bridge_of(self, subnet: IPv4Network) -> Link | None:
        """Return the link that containers of a subnet are behind."""
        devices = [link for link, address in self.addresses if address.ip in subnet and address.network.prefixlen < 32]
        return self.links.get(devices[0]) if devices else None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaneFacts:
    """The data plane that stands, next to the one that the leases call for."""

    needs: str
    """The kind of device that the backend works with; empty: it has none of its own."""
    device: Link | None
    mtu: int
    """The largest packet of containers, as the backend sets it."""
    problems: tuple[str, ...]
    """Members that nothing can be made for, and why, one line each."""
    missing: tuple[str, ...]
    """What the backend would add or change, one line each."""
    unreached: frozenset[IPv4Network]
    """Members' subnets that something is missing for, or that nothing can be made for."""
    stale: tuple[str, ...]
    """What it would remove."""


# --- probes


class Direction(Enum):
    """A direction in which packets were lost."""

    OUT = "out"
    BACK = "back"
    BOTH = "both"
    UNTOLD = "untold"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """What a probe of one member told."""

    member: Member
    target: IPv4Address
    """The address in the member's subnet that was to answer."""
    carried: bool
    """It answered by the data plane, there and back."""
    largest: int
    """Bytes of the largest packet that containers may send here."""
    largest_carried: bool
    """It came back whole."""
    underlay: bool
    """The member's own address answers, without the data plane."""
    lost: Direction | None
    """Where packets that should be carried are lost; None where they are not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeFacts:
    """All probes."""

    reached: tuple[ProbeResult, ...]
    others: int
    """Members that were not probed, because there are so many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArpFacts:
    """Who answers for this host's address on its link."""

    address: IPv4Address
    link: str
    macs: tuple[str, ...]
    """Of other machines."""


# --- programs beside us


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerFacts:
    """The Docker engine of this host."""

    version: DockerVersion | None
    """None: the engine is there and does not say."""
    options: Mapping[str, object]
    """What the file of its options says; empty where there is none."""
    file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkdFacts:
    """systemd-networkd's wishes about what others put into the kernel."""

    foreign_routes: bool
    foreign_rules: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagerFacts:
    """NetworkManager's devices and their states."""

    states: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class FrrFacts:
    """FRR on this host."""

    daemons: frozenset[str]
    """Those that answer."""
    has_reload: bool
    reload_path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleFacts:
    """Whether the kernel can make the backend's device."""

    module: str
    present: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsFacts:
    """The instance's network interface."""

    interface: str
    source_dest_check: bool


# --- all of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything, each part by itself: what could not be had stops only the checks that need it."""

    lease: LeaseFacts | Unknown
    kernel: KernelFacts | Unknown
    underlay: Underlay | Unknown
    fabric: Fabric | Unknown
    """Known once there are a config and a lease."""
    plane: PlaneFacts | Unknown
    probes: ProbeFacts | Unknown
    arp: ArpFacts | Unknown
    firewall: Ruleset | Unknown
    docker: DockerFacts | Unknown
    networkd: NetworkdFacts | Unknown
    manager: ManagerFacts | Unknown
    frr: FrrFacts | Unknown
    module: ModuleFacts | Unknown
    aws: AwsFacts | Unknown
    subnet_file: SubnetFile | Unknown

    def config(self) -> NetworkConfig:
        """Return the network's config. Raise Skipped."""
        view = known(self.lease).view
        if view.config is None:
            raise Skipped(view.config_problem)
        return view.config

    def subnet(self) -> IPv4Network:
        """Return what this host's containers have, or are to have. Raise Skipped."""
        lease = known(self.lease)
        if lease.live is not None:
            return lease.live
        if lease.own is None:
            raise Skipped("this host has no lease")
        return lease.own.subnet
