"""The network's configuration: flannel's JSON, read strictly.

A key that flannel would ignore is refused here, because it is a typing error far more often than a wish.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Annotated, ClassVar, Final

import msgspec
from msgspec import Meta, field

from proxygen.kit.errors import NetworkConfigError, quoted

_LONGEST_SUBNET: Final = 30
"""A host needs an address for its bridge and one for a container."""
_USUAL_SUBNET: Final = 24
_NOBODYS: Final = tuple(map(IPv4Network, ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3")))
"""This network, loopback, what is good on one link only, multicast and what is reserved (RFC 6890)."""
_AT_LEAST: Final = 2
"""Bits between Network and SubnetLen: four subnets, of which the first is not given away."""

Port = Annotated[int, Meta(ge=1, le=65535)]
Mtu = Annotated[int, Meta(ge=576, le=65535)]


class BackendConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How packets cross hosts, with flannel's options where flannel has the backend."""

    type: ClassVar[str]


class Alloc(BackendConfig, frozen=True):
    """Leases alone; somebody else forwards."""

    type = "alloc"


class HostGw(BackendConfig, frozen=True):
    """Plain routes; all hosts share a network."""

    type = "host-gw"


class Vxlan(BackendConfig, frozen=True):
    """VXLAN by the kernel."""

    type = "vxlan"
    vni: Annotated[int, Meta(ge=1, le=(1 << 24) - 1)] = field(name="VNI", default=1)
    port: Port = field(name="Port", default=8472)
    mtu: Mtu | None = field(name="MTU", default=None)
    """None: what the outer interface leaves."""
    gbp: bool = field(name="GBP", default=False)
    learning: bool = field(name="Learning", default=False)
    direct_routing: bool = field(name="DirectRouting", default=False)


class WireGuard(BackendConfig, frozen=True):
    """WireGuard by the kernel."""

    type = "wireguard"
    psk: str | None = field(name="PSK", default=None)
    listen_port: Port = field(name="ListenPort", default=51820)
    mtu: Mtu | None = field(name="MTU", default=None)
    keepalive: Annotated[int, Meta(ge=0, le=65535)] = field(name="PersistentKeepaliveInterval", default=0)


class AwsVpc(BackendConfig, frozen=True):
    """Routes in the VPC's tables."""

    type = "aws-vpc"
    route_table_ids: str | tuple[str, ...] = field(name="RouteTableID", default=())
    """Empty: the table of the host's own subnet."""


class FrrBgp(BackendConfig, frozen=True):
    """Routes that FRR's bgpd announces."""

    type = "frr-bgp"


class FrrOspf(BackendConfig, frozen=True):
    """Routes that FRR's ospfd announces."""

    type = "frr-ospf"


_BACKENDS: Final[dict[str, type[BackendConfig]]] = {
    kind.type: kind for kind in (Alloc, HostGw, Vxlan, WireGuard, AwsVpc, FrrBgp, FrrOspf)
}


class _Written(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The JSON as it stands in Consul."""

    network: str = field(name="Network", default="")
    subnet_len: int = field(name="SubnetLen", default=0)
    subnet_min: str = field(name="SubnetMin", default="")
    subnet_max: str = field(name="SubnetMax", default="")
    backend: dict[str, object] = field(name="Backend", default_factory=dict)
    enable_ipv4: bool = field(name="EnableIPv4", default=True)
    enable_ipv6: bool = field(name="EnableIPv6", default=False)
    enable_nftables: bool = field(name="EnableNFTables", default=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConfig:
    """A network, and which of its subnets hosts may lease: all of ``subnet_len`` from ``first`` to ``last``."""

    network: IPv4Network
    subnet_len: int
    first: IPv4Network
    last: IPv4Network
    backend: BackendConfig

    @property
    def subnets(self) -> int:
        """How many subnets there are to lease."""
        return (int(self.last.network_address) - int(self.first.network_address)) // self._size + 1

    def subnet(self, number: int) -> IPv4Network:
        """Return a subnet by its place in the row, the first being 0."""
        return IPv4Network((int(self.first.network_address) + number * self._size, self.subnet_len))

    def offers(self, subnet: IPv4Network) -> bool:
        """Tell whether a subnet is one of those that hosts may lease."""
        return subnet.prefixlen == self.subnet_len and self.first <= subnet <= self.last

    def span(self, other: IPv4Network) -> range:
        """Return the numbers of the subnets that another network overlaps."""
        begin = int(self.first.network_address)
        low = (int(other.network_address) - begin) // self._size
        high = (int(other.broadcast_address) - begin) // self._size
        return range(max(0, low), min(self.subnets - 1, high) + 1)

    @property
    def _size(self) -> int:
        return 1 << (32 - self.subnet_len)


def parse_config(text: str | bytes) -> NetworkConfig:
    """Read the JSON. Raise NetworkConfigError with the key and what is allowed."""
    try:
        written = msgspec.json.decode(text, type=_Written)
    except msgspec.MsgspecError as error:
        raise NetworkConfigError(f"the network's config cannot be read: {error}") from error
    except RecursionError as error:
        raise NetworkConfigError("the network's config is nested too deep") from error
    except UnicodeDecodeError as error:
        raise NetworkConfigError("the network's config is not UTF-8") from error
    if written.enable_ipv6 or not written.enable_ipv4:
        raise NetworkConfigError("EnableIPv6, EnableIPv4: leases are of IPv4 alone")
    network = _network(written.network)
    length = _subnet_len(network, written.subnet_len)
    size = 1 << (32 - length)
    # The first subnet's address is the network's own, which confuses people and programs.
    first = _bound("SubnetMin", written.subnet_min, network, length, int(network.network_address) + size)
    last = _bound("SubnetMax", written.subnet_max, network, length, int(network.broadcast_address) + 1 - size)
    if last < first:
        raise NetworkConfigError(f"SubnetMax {last.network_address} lies before SubnetMin {first.network_address}")
    return NetworkConfig(
        network=network, subnet_len=length, first=first, last=last, backend=_backend(dict(written.backend))
    )


def refuse_overlaps(config: NetworkConfig, host_networks: Iterable[IPv4Network]) -> None:
    """Raise NetworkConfigError where containers would hide addresses that the host reaches otherwise.

    ``host_networks`` are those of the host's addresses and routes, without what this network itself put there.
    """
    overlapping = [str(network) for network in host_networks if network.prefixlen and network.overlaps(config.network)]
    if overlapping:
        raise NetworkConfigError(
            f"Network {config.network} overlaps {', '.join(overlapping)}, which this host reaches already; "
            "choose a Network that no host uses"
        )


def _network(text: str) -> IPv4Network:
    if not text:
        raise NetworkConfigError("Network is missing; write the network of all containers, such as 10.99.0.0/16")
    try:
        if "/" not in text:
            raise ValueError("no prefix length")
        network = IPv4Network(text, strict=False)
    except ValueError as error:
        raise NetworkConfigError(f"Network: {quoted(text)} is no IPv4 network such as 10.99.0.0/16") from error
    if any(network.overlaps(special) for special in _NOBODYS):
        raise NetworkConfigError(f"Network {network} has addresses that no container can have; choose a private one")
    return network


def _subnet_len(network: IPv4Network, written: int) -> int:
    if not written:
        smallest = _LONGEST_SUBNET - _AT_LEAST
        if network.prefixlen > smallest:
            raise NetworkConfigError(f"Network {network} is too small; it needs a prefix of /{smallest} or shorter")
        return max(_USUAL_SUBNET, network.prefixlen + _AT_LEAST)
    if written > _LONGEST_SUBNET:
        raise NetworkConfigError(f"SubnetLen {written}: at most {_LONGEST_SUBNET}")
    if written < network.prefixlen + _AT_LEAST:
        raise NetworkConfigError(
            f"SubnetLen {written}: Network {network} must hold four subnets at least, which needs "
            f"{network.prefixlen + _AT_LEAST} or more"
        )
    return written


def _bound(key: str, text: str, network: IPv4Network, length: int, default: int) -> IPv4Network:
    if not text:
        return IPv4Network((default, length))
    try:
        address = IPv4Address(text)
    except ValueError as error:
        raise NetworkConfigError(f"{key}: {quoted(text)} is no IPv4 address") from error
    if address not in network:
        raise NetworkConfigError(f"{key} {address} is not in Network {network}")
    try:
        return IPv4Network((address, length))
    except ValueError as error:
        raise NetworkConfigError(f"{key} {address} is not where a /{length} begins") from error


def _backend(written: dict[str, object]) -> BackendConfig:
    # flannel's pages say vxlan; its code takes udp, which copies every packet through a process.
    name = written.pop("Type", Vxlan.type)
    kind = _BACKENDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise NetworkConfigError(f"Backend.Type: {quoted(str(name))} is none of {', '.join(_BACKENDS)}")
    try:
        return msgspec.convert(written, type=kind)
    except msgspec.ValidationError as error:
        raise NetworkConfigError(f"Backend ({name}): {error}") from error
