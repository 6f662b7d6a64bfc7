"""What stands in Consul's KV about the network: keys as flannel names them, and what their values say.

::

    PREFIX/config                     flannel's JSON
    PREFIX/settled                    there: whoever was alive before has had the time to come forward
    PREFIX/subnets/10.99.3.0-24       a lease: who owns the subnet. Locked by the owner's session while it lives
    PREFIX/hosts/HOST_ID              the owner's subnet
    PREFIX/reservations/HOST_ID       the subnet that only this host may take
    PREFIX/reservations/10.99.3.0-24  the host that may take this subnet; empty: nobody
    PREFIX/gc                         the lock of the one who collects leases of hosts that left for good
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network
from typing import Final

import msgspec
from msgspec import field

from proxygen.kit.errors import NetworkConfigError, quoted
from proxygen.network.config import NetworkConfig, parse_config

CONFIG: Final = "config"
SETTLED: Final = "settled"
COLLECTOR: Final = "gc"
_SUBNETS: Final = "subnets/"
_HOSTS: Final = "hosts/"
_RESERVATIONS: Final = "reservations/"
_SUBNET_KEY: Final = re.compile(r"([0-9.]{7,15})-([0-9]{1,2})")

Fact = str | int | float | bool | None
"""What a host may tell others of its backend. All that any backend has to say is flat, and nesting could be endless."""


class KeyEntry(msgspec.Struct, rename="pascal"):
    """A key as ``/v1/kv`` shows it."""

    key: str
    value: bytes | None = None
    session: str = ""
    create_index: int = 0
    modify_index: int = 0


class _Value(msgspec.Struct, kw_only=True, omit_defaults=True):
    """flannel's LeaseAttrs, and three fields of ours that it would ignore."""

    public_ip: str | None = field(name="PublicIP", default=None)
    backend_type: str = field(name="BackendType", default="")
    backend_data: dict[str, Fact] | None = field(name="BackendData", default=None)
    host_id: str = field(name="HostID", default="")
    node: str = field(name="Node", default="")
    generation: int = field(name="Gen", default=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """What other hosts must know to reach a subnet; it may change while the subnet stays."""

    node: str
    """For people; never an identity."""
    public_ip: IPv4Address | None = None
    backend_type: str = ""
    backend_data: Mapping[str, Fact] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A lease as it stands in Consul."""

    subnet: IPv4Network
    host_id: str
    attributes: Attributes
    generation: int
    """Grows with each taking of the lock: two agents under one host id see each other by it."""
    session: str
    """Empty: its host does not live, or cannot reach Consul. It owns the subnet all the same."""
    index: int

    @property
    def holder(self) -> str:
        """Who it is, for people."""
        return f"host {self.host_id[:12]} ({self.attributes.node or 'no name'})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pointer:
    """A host's key that names its subnet."""

    subnet: IPv4Network
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """All of the network's keys at one moment."""

    config: NetworkConfig | None
    config_problem: str
    """Why there is no config; empty where there is one."""
    config_index: int
    config_created: int
    settled: bool
    records: Mapping[IPv4Network, Record]
    pointers: Mapping[str, Pointer]
    strangers: Mapping[IPv4Network, str]
    """Subnets whose lease cannot be read, and why. They are taken: somebody wrote them."""
    reservations: Mapping[IPv4Network, frozenset[str]]
    """By subnet the hosts that may take it; none: nobody may."""
    problems: tuple[str, ...]
    """Keys that mean nothing, one line each."""

    def records_of(self, host_id: str) -> list[Record]:
        """Return the leases of one host, its pointer's first. More than one is somebody's mistake."""
        own = [record for record in self.records.values() if record.host_id == host_id]
        pointer = self.pointers.get(host_id)
        return sorted(own, key=lambda one: (pointer is None or one.subnet != pointer.subnet, one.subnet))

    def without(self, record: Record) -> View:
        """Return the view as it is once a host has given up a lease."""
        return replace(
            self,
            records={subnet: one for subnet, one in self.records.items() if one is not record},
            pointers={host: one for host, one in self.pointers.items() if host != record.host_id},
        )

    def takers(self, subnet: IPv4Network, *, but: str) -> list[str]:
        """Name everybody other than a host whose claim overlaps a subnet."""
        leased = [one for one in self.records.values() if one.host_id != but and one.subnet.overlaps(subnet)]
        unreadable = [(other, why) for other, why in self.strangers.items() if other.overlaps(subnet)]
        named = {but, *(one.host_id for one in leased)}
        pointing = [(host, one.subnet) for host, one in self.pointers.items() if host not in named]
        return [
            *(f"{one.subnet} is leased to {one.holder}" for one in leased),
            *(f"{other} is a lease that cannot be read: {why}" for other, why in unreadable),
            *(f"hosts/{host} names {other}" for host, other in pointing if other.overlaps(subnet)),
        ]

    def taken(self) -> Iterable[IPv4Network]:
        """Return every subnet that somebody claims, some of them more than once."""
        yield from self.records
        yield from self.strangers
        yield from (pointer.subnet for pointer in self.pointers.values())


def subnet_key(subnet: IPv4Network) -> str:
    """Return the key of a subnet's lease below the prefix: ``subnets/10.99.3.0-24``."""
    return f"{_SUBNETS}{subnet.network_address}-{subnet.prefixlen}"


def host_key(host_id: str) -> str:
    """Below the network's prefix: the key that names this host's subnet."""
    return f"{_HOSTS}{host_id}"


def write_value(host_id: str, attributes: Attributes, generation: int) -> bytes:
    """Return the text of a lease."""
    public_ip = attributes.public_ip
    return msgspec.json.encode(
        _Value(
            public_ip=None if public_ip is None else str(public_ip),
            backend_type=attributes.backend_type,
            backend_data=None if attributes.backend_data is None else dict(attributes.backend_data),
            host_id=host_id,
            node=attributes.node,
            generation=generation,
        )
    )


def read_record(subnet: IPv4Network, entry: KeyEntry) -> Record:
    """Read a lease. Raise ValueError for one that nobody of ours wrote."""
    try:
        value = _VALUES.decode(entry.value or b"")
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    if not value.host_id:
        raise ValueError("it has no HostID")
    attributes = Attributes(
        node=value.node,
        public_ip=None if value.public_ip is None else _address(value.public_ip),
        backend_type=value.backend_type,
        backend_data=value.backend_data,
    )
    return Record(
        subnet=subnet,
        host_id=value.host_id,
        attributes=attributes,
        generation=value.generation,
        session=entry.session,
        index=entry.modify_index,
    )


def read_view(prefix: str, entries: Iterable[KeyEntry]) -> View:
    """Sort out all keys below the prefix; what cannot be read is kept as such."""
    reader = _Reader()
    for entry in entries:
        reader.take(entry.key.removeprefix(f"{prefix}/"), entry)
    return reader.view()


class _Reader:
    def __init__(self) -> None:
        self._config: KeyEntry | None = None
        self._settled = False
        self._records: dict[IPv4Network, Record] = {}
        self._pointers: dict[str, Pointer] = {}
        self._strangers: dict[IPv4Network, str] = {}
        self._reservations: dict[IPv4Network, frozenset[str]] = {}
        self._problems: list[str] = []

    def take(self, name: str, entry: KeyEntry) -> None:
        try:
            if name == CONFIG:
                self._config = entry
            elif name == SETTLED:
                self._settled = True
            elif name.startswith(_SUBNETS):
                self._take_lease(name.removeprefix(_SUBNETS), entry)
            elif name.startswith(_HOSTS) and name != _HOSTS:
                pointer = Pointer(subnet=_subnet(_text(entry)), index=entry.modify_index)
                self._pointers[name.removeprefix(_HOSTS)] = pointer
            elif name.startswith(_RESERVATIONS):
                self._take_reservation(name.removeprefix(_RESERVATIONS), _text(entry))
        except ValueError as error:
            self._problems.append(f"{name}: {error}")

    def _take_lease(self, name: str, entry: KeyEntry) -> None:
        if not name:
            # Consul's own page makes a key for a folder.
            return
        subnet = _subnet(name)
        try:
            self._records[subnet] = read_record(subnet, entry)
        except (ValueError, msgspec.MsgspecError) as error:
            self._strangers[subnet] = str(error)
            self._problems.append(f"{_SUBNETS}{name}: {error}")

    def _take_reservation(self, name: str, value: str) -> None:
        if not name:
            return
        if _SUBNET_KEY.fullmatch(name):
            subnet, hosts = _subnet(name), frozenset({value} - {""})
        else:
            subnet, hosts = _subnet(value), frozenset({name})
        self._reservations[subnet] = self._reservations.get(subnet, frozenset()) | hosts

    def view(self) -> View:
        config, problem = None, "there is no config"
        if self._config is not None:
            try:
                config, problem = parse_config(self._config.value or b""), ""
            except NetworkConfigError as error:
                problem = str(error)
        return View(
            config=config,
            config_problem=problem,
            config_index=self._config.modify_index if self._config is not None else 0,
            config_created=self._config.create_index if self._config is not None else 0,
            settled=self._settled,
            records=self._records,
            pointers=self._pointers,
            strangers=self._strangers,
            reservations=self._reservations,
            problems=tuple(self._problems),
        )


_VALUES: Final = msgspec.json.Decoder(_Value)


@lru_cache(maxsize=1 << 14)
def _subnet(text: str) -> IPv4Network:
    match = _SUBNET_KEY.fullmatch(text)
    if match is None:
        raise ValueError(f"{quoted(text)} is no subnet such as 10.99.3.0-24")
    return IPv4Network((match[1], int(match[2])))


def _text(entry: KeyEntry) -> str:
    return (entry.value or b"").decode(errors="replace").strip().replace("/", "-")


def _address(text: str) -> IPv4Address:
    return IPv4Address(text)
