"""What a host does next about its subnet, decided from all keys at one moment. Pure."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Set
from dataclasses import dataclass, replace
from enum import Enum
from ipaddress import IPv4Address, IPv4Network
from math import gcd

from proxygen.network.config import NetworkConfig
from proxygen.network.records import Record, View


class Standing(Enum):
    """How a host stands to its subnet. Whatever it is, a data plane that runs is left alone."""

    WAITING = "waiting"
    """It has none yet."""
    HELD = "held"
    """Its own, and nobody else can have it."""
    UNCONFIRMED = "unconfirmed"
    """Its own, but Consul has not confirmed that of late."""
    EXPIRED = "expired"
    """Unconfirmed for so long that it may have been given to another host."""
    CONFLICT = "conflict"
    """Another host has it, or is known by the same identity: a matter for people."""


class Visibility(Enum):
    """What a host knows of those who may have subnets that it does not see, because Consul lost its data."""

    UNKNOWN = "unknown"
    """Some may rely on theirs."""
    LAPSED = "lapsed"
    """None does any more, unless it has come forward."""
    SETTLED = "settled"
    """Whoever lives has come forward."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimant:
    """Who asks."""

    host_id: str
    session: str
    public_ip: IPv4Address | None
    live: IPv4Network | None
    """The subnet that this host's containers have now: it alone will do."""
    confirmed: bool
    """Consul has confirmed it until now, so that nobody else can have it yet."""
    hint: IPv4Network | None
    """One that the host had before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopt:
    """Lock the host's own record."""

    record: Record
    pointer_index: int
    """Of the host's key as it stands; 0 where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Write a record where there is none."""

    subnet: IPv4Network
    config_index: int
    pointer_index: int
    replaced: Record | None = None
    """The host's own record that has to go, because the config does not offer its subnet any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Busy:
    """The host's own record is locked by another session: of its agent before a crash, or of its double."""

    record: Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Settle:
    """Wait until hosts that may hold subnets from before a loss of data have come forward, or hold no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stay:
    """Write nothing."""

    standing: Standing
    reason: str


Step = Adopt | Claim | Busy | Settle | Stay


def decide(view: View, me: Claimant, *, calm: Visibility, refused: Set[IPv4Network] = frozenset()) -> Step:
    """Return the next step. ``refused`` are subnets whose lock Consul does not give yet."""
    own = view.records_of(me.host_id)
    pointer = view.pointers.get(me.host_id)
    pointer_index = pointer.index if pointer is not None else 0
    if me.live is not None:
        return _keep(view, me, me.live, pointer_index, calm=calm)
    if not own:
        return _find(view, me, pointer_index, calm=calm, refused=refused)
    record = own[0]
    if record.session not in ("", me.session):
        return Busy(record=record)
    if view.config is None or view.config.offers(record.subnet):
        return Adopt(record=record, pointer_index=pointer_index)
    step = _find(view.without(record), me, pointer_index, calm=calm, refused=refused)
    return replace(step, replaced=record) if isinstance(step, Claim) else step


def _keep(view: View, me: Claimant, live: IPv4Network, pointer_index: int, *, calm: Visibility) -> Step:
    """Containers have the subnet: keep it, write it again where it is gone, and never take another."""
    record = view.records.get(live)
    if record is not None and record.host_id == me.host_id:
        if record.session not in ("", me.session):
            return Busy(record=record)
        return Adopt(record=record, pointer_index=pointer_index)
    for other in view.records_of(me.host_id):
        if other.session not in ("", me.session):
            return Busy(record=other)
        if other.subnet.overlaps(live):
            copied = f"a copy of it took {other.subnet} under this host's id; give each host a machine id of its own"
            return Stay(standing=Standing.CONFLICT, reason=f"this host's containers have {live}, but {copied}")
    takers = view.takers(live, but=me.host_id)
    if takers:
        return Stay(standing=Standing.CONFLICT, reason=f"this host's containers have {live}, but {'; '.join(takers)}")
    gone = f"the lease of {live} is gone from Consul"
    if view.config is None:
        return Stay(standing=Standing.UNCONFIRMED, reason=f"{gone}, and {view.config_problem}")
    if not view.config.offers(live):
        return Stay(standing=Standing.CONFLICT, reason=f"{gone}, and the config does not offer it any more")
    if calm is Visibility.UNKNOWN and not me.confirmed:
        return Settle()
    return Claim(subnet=live, config_index=view.config_index, pointer_index=pointer_index)


def _find(view: View, me: Claimant, pointer_index: int, *, calm: Visibility, refused: Set[IPv4Network]) -> Step:
    """The host has no subnet: find it one that nobody claims."""
    if view.config is None:
        return _wait(view.config_problem)
    double = _same_address(view, me)
    if double is not None:
        return Stay(
            standing=Standing.CONFLICT,
            reason=f"the address {me.public_ip} is also that of {double.holder}, which lives; give each host its own",
        )
    if calm is not Visibility.SETTLED:
        return Settle()
    reserved = sorted(subnet for subnet, hosts in view.reservations.items() if me.host_id in hosts)
    if reserved:
        return _take_reserved(view, view.config, me, reserved, pointer_index)
    free = FreeSubnets(view.config, view)
    for subnet in free.probe(me.host_id, first=me.hint):
        if subnet not in refused:
            return Claim(subnet=subnet, config_index=view.config_index, pointer_index=pointer_index)
    count = tally(view)
    return _wait(
        f"no free subnet in {view.config.network}: {count.subnets} of /{view.config.subnet_len}, "
        f"{count.live} of living hosts, {count.orphaned} of hosts that are away, "
        f"{count.reserved} reserved, {count.unreadable} unreadable"
    )


def _take_reserved(
    view: View, config: NetworkConfig, me: Claimant, reserved: list[IPv4Network], pointer_index: int
) -> Step:
    if len(reserved) > 1:
        return _wait(f"several subnets are reserved for this host: {', '.join(map(str, reserved))}")
    subnet = reserved[0]
    if len(view.reservations[subnet]) > 1:
        return _wait(f"{subnet} is reserved for several hosts: {', '.join(sorted(view.reservations[subnet]))}")
    if not config.offers(subnet):
        return _wait(f"{subnet} is reserved for this host, but the config does not offer it")
    takers = view.takers(subnet, but=me.host_id)
    if takers:
        return _wait(f"{subnet} is reserved for this host, but {'; '.join(takers)}")
    return Claim(subnet=subnet, config_index=view.config_index, pointer_index=pointer_index)


def _same_address(view: View, me: Claimant) -> Record | None:
    """Return another living host with this host's address: one of them is not reachable."""
    if me.public_ip is None:
        return None
    others = (one for one in view.records.values() if one.host_id != me.host_id and one.session)
    return next((one for one in others if one.attributes.public_ip == me.public_ip), None)


def _wait(reason: str) -> Stay:
    return Stay(standing=Standing.WAITING, reason=reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class SubnetUsage:
    """How the network's subnets are used. A subnet may be both reserved and leased."""

    subnets: int
    """All that may be leased by the config; 0 where there is none to read."""
    free: int
    """Those that nobody has and nobody reserved."""
    live: int
    """Leases of hosts that are there."""
    orphaned: int
    """Leases of hosts that are away; their routes stay."""
    reserved: int
    unreadable: int
    """Leases that nobody of ours wrote."""


def tally(view: View) -> SubnetUsage:
    """Count the network's subnets."""
    live = sum(bool(record.session) for record in view.records.values())
    return SubnetUsage(
        subnets=view.config.subnets if view.config is not None else 0,
        free=len(FreeSubnets(view.config, view)) if view.config is not None else 0,
        live=live,
        orphaned=len(view.records) - live,
        reserved=len(view.reservations),
        unreadable=len(view.strangers),
    )


class FreeSubnets:
    """The subnets of a config that nobody claims and nobody reserved, as gaps between those that are taken."""

    def __init__(self, config: NetworkConfig, view: View) -> None:
        self._config = config
        taken = sorted(
            (span.start, span.stop) for span in map(config.span, (*view.taken(), *view.reservations)) if span
        )
        self._starts: list[int] = []
        self._stops: list[int] = []
        for start, stop in taken:
            if self._stops and start <= self._stops[-1]:
                self._stops[-1] = max(stop, self._stops[-1])
            else:
                self._starts.append(start)
                self._stops.append(stop)

    def __len__(self) -> int:
        return self._config.subnets - sum(self._stops) + sum(self._starts)

    def __contains__(self, number: int) -> bool:
        place = bisect_right(self._starts, number)
        return place == 0 or number >= self._stops[place - 1]

    def probe(self, host_id: str, *, first: IPv4Network | None) -> Iterator[IPv4Network]:
        """Yield the free ones, in an order of the host's own.

        The order is always the same, so that a host finds its subnet again when all leases were lost; those of two
        hosts differ, so that many at once seldom want the same.
        """
        if first is not None and self._config.offers(first) and self._config.span(first).start in self:
            yield first
        size = self._config.subnets
        digest = hashlib.sha256(host_id.encode()).digest()
        start = int.from_bytes(digest[:8]) % size
        step = int.from_bytes(digest[8:16]) % size or 1
        while gcd(step, size) != 1:
            step += 1
        left = len(self)
        number = start
        while left:
            if number in self:
                left -= 1
                yield self._config.subnet(number)
            number = (number + step) % size
