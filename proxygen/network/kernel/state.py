"""What the kernel has, as values that can be compared. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Final

PROTOCOL: Final = 225
"""The protocol number of our routes. Nobody else has it: see rtnetlink.h, FRR and /etc/iproute2/rt_protos."""
GROUP: Final = 225
"""The group of our links. The kernel sets it as it makes the link, so that a crash leaves none without it."""
MAIN_TABLE: Final = 254
UNICAST: Final = 1
"""The usual type of a route (rtnetlink.h)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VxlanLink:
    """What a VXLAN link is made with and keeps."""

    vni: int
    port: int
    parent: int
    """The underlay's index."""
    local: IPv4Address | None
    learning: bool
    gbp: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A network interface."""

    index: int
    name: str
    mtu: int
    mac: str
    is_up: bool
    """As the operator wants it; the cable may be out."""
    kind: str = ""
    group: int = 0
    is_loopback: bool = False
    vxlan: VxlanLink | None = None

    @property
    def is_ours(self) -> bool:
        """By group and name: either alone may be an operator's."""
        return self.group == GROUP and self.name.startswith(("pxvx", "pxwg"))


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkAddress:
    """An address of a link."""

    link: int
    interface: IPv4Interface
    is_global: bool = True
    """False: it is good on its link or on this host only."""
    is_secondary: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A route; who made it is not part of it."""

    destination: IPv4Network
    link: int
    """0 where there is none, or several."""
    gateway: IPv4Address | None = None
    onlink: bool = False
    """The gateway is believed to be on the link, whatever the link's addresses say."""
    table: int = MAIN_TABLE
    metric: int = 0
    tos: int = 0
    kind: int = UNICAST

    @property
    def key(self) -> tuple[int, IPv4Network, int, int]:
        """What the kernel has only one of, if nobody insists."""
        return self.table, self.destination, self.tos, self.metric

    def __str__(self) -> str:
        via = "" if self.gateway is None else f" via {self.gateway}"
        return f"route {self.destination}{via}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """The MAC behind an address, set for good."""

    link: int
    address: IPv4Address
    mac: str

    @property
    def key(self) -> tuple[int, IPv4Address]:
        """What the kernel has one entry for."""
        return self.link, self.address

    def __str__(self) -> str:
        return f"neighbour {self.address} lladdr {self.mac}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """The host behind a MAC: an entry of a VXLAN link's forwarding table."""

    link: int
    mac: str
    host: IPv4Address

    @property
    def key(self) -> tuple[int, str]:
        """What one entry is kept for here; the kernel would take several."""
        return self.link, self.mac

    def __str__(self) -> str:
        return f"forwarding of {self.mac} to {self.host}"


Entry = Route | Neighbour | Forward


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelState:
    """What is ours of the kernel's tables: routes by their protocol, the rest because it is on a link of ours."""

    routes: frozenset[Route] = frozenset()
    neighbours: frozenset[Neighbour] = frozenset()
    forwards: frozenset[Forward] = frozenset()


def state_of(entries: Iterable[Entry]) -> KernelState:
    """Sort out entries by their kind."""
    everything = tuple(entries)
    return KernelState(
        routes=frozenset(entry for entry in everything if isinstance(entry, Route)),
        neighbours=frozenset(entry for entry in everything if isinstance(entry, Neighbour)),
        forwards=frozenset(entry for entry in everything if isinstance(entry, Forward)),
    )
