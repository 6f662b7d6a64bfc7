"""The network's configuration: flannel's JSON, read as flannel reads it.

So names of keys and of backends count in any case, null is what is not written, and of a key that is written twice the
last counts. Keys that flannel has for Windows or for IPv6 alone are taken and change nothing. One that flannel does not
have is refused, where flannel ignores it: it is a typing error far more often than a wish.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Annotated, ClassVar, Final, Literal

import msgspec
from msgspec import Meta, field
from msgspec.structs import FieldInfo

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
    without_effect: ClassVar[frozenset[str]] = frozenset()
    """Options of flannel's that change nothing here: they are for Windows, or for IPv6."""


class Alloc(BackendConfig, frozen=True):
    """Leases alone; somebody else forwards."""

    type = "alloc"


class HostGw(BackendConfig, frozen=True):
    """Plain routes; all hosts share a network."""

    type = "host-gw"
    without_effect = frozenset({"Name", "DNSServerList"})


class Vxlan(BackendConfig, frozen=True):
    """VXLAN by the kernel."""

    type = "vxlan"
    without_effect = frozenset({"Name", "MacPrefix"})
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
    without_effect = frozenset({"ListenPortV6"})
    psk: str | None = field(name="PSK", default=None)
    listen_port: Port = field(name="ListenPort", default=51820)
    mtu: Mtu | None = field(name="MTU", default=None)
    keepalive: Annotated[int, Meta(ge=0, le=65535)] = field(name="PersistentKeepaliveInterval", default=0)
    mode: Literal["separate", "auto", "ipv4"] = field(name="Mode", default="separate")
    """By which family hosts reach each other, where they have both: all three are IPv4 here."""


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


_ELSEWHERE: Final = {
    "udp": "it copies every packet through a process; write vxlan",
    "ipip": "write vxlan, or host-gw where all hosts share a network",
    "ipsec": "write wireguard, which encrypts too",
    "extension": "it runs commands that stand in Consul's KV; write alloc, and route what is leased yourself",
    "gce": "write vxlan",
    "ali-vpc": "write vxlan",
    "tencent-vpc": "write vxlan",
}
"""Backends that flannel has and this network does not, and what to do."""

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
    ipv6_network: object = field(name="IPv6Network", default=None)
    ipv6_subnet_len: object = field(name="IPv6SubnetLen", default=None)
    ipv6_subnet_min: object = field(name="IPv6SubnetMin", default=None)
    ipv6_subnet_max: object = field(name="IPv6SubnetMax", default=None)
    """Of no account, as for flannel, while EnableIPv6 is not true."""


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
        raw = msgspec.json.decode(text, type=dict[str, object])
        written = msgspec.convert(_spelt(raw, msgspec.structs.fields(_Written)), type=_Written)
    except msgspec.MsgspecError as error:
        raise NetworkConfigError(f"the network's config cannot be read: {error}") from error
    except RecursionError as error:
        raise NetworkConfigError("the network's config is nested too deep") from error
    except UnicodeDecodeError as error:
        raise NetworkConfigError("the network's config is not UTF-8") from error
    if written.enable_ipv6 or not written.enable_ipv4:
        raise NetworkConfigError(
            "EnableIPv6, EnableIPv4: leases are of IPv4 alone; write EnableIPv6 = false and an IPv4 Network"
        )
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


def _spelt(
    written: Mapping[str, object], fields: Iterable[FieldInfo], without_effect: Iterable[str] = ()
) -> dict[str, object]:
    """The same, with the names of keys as they are declared; without null, and without what has no effect."""
    names = {one.encode_name.lower(): one.encode_name for one in fields}
    skipped = {name.lower() for name in without_effect}
    return {
        names.get(key.lower(), key): value
        for key, value in written.items()
        if value is not None and key.lower() not in skipped
    }


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
    named = [written.pop(key) for key in tuple(written) if key.lower() == "type"]
    name = next((one for one in reversed(named) if one is not None), Vxlan.type)
    kind = _BACKENDS.get(name.lower()) if isinstance(name, str) else None
    if kind is None:
        why = _ELSEWHERE.get(str(name).lower())
        hint = f"; that is flannel's alone: {why}" if why else ""
        raise NetworkConfigError(f"Backend.Type: {quoted(str(name))} is none of {', '.join(_BACKENDS)}{hint}")
    spelt = _spelt(written, msgspec.structs.fields(kind), kind.without_effect)
    if kind is WireGuard and spelt.get("Mode") == "ipv6":
        raise NetworkConfigError("Backend (wireguard): Mode ipv6: hosts reach each other by IPv4 here; write ipv4")
    try:
        return msgspec.convert(spelt, type=kind)
    except msgspec.ValidationError as error:
        raise NetworkConfigError(f"Backend ({name}): {error}") from error
