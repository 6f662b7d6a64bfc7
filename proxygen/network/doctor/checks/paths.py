"""The way of packets: this host's firewall, and whether other hosts answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from proxygen.network.config import AwsVpc, NetworkConfig, Vxlan, WireGuard
from proxygen.network.doctor.facts import Direction, Facts, ProbeResult, known
from proxygen.network.doctor.finding import Fault, Skipped, Unknown, error, warning
from proxygen.network.doctor.opening import open_forwarding, open_port
from proxygen.network.doctor.packets import Dropped, Hook, Packet, Ruleset
from proxygen.network.doctor.registry import check

_ENOUGH: Final = 3
"""Members whose packets are followed through the firewall; rules tell networks apart, and seldom single hosts."""
_CONTAINER: Final = 2
"""The place in a subnet where Docker puts the first container."""


# --- firewall


@check("firewall", "no rule of this host's firewall drops packets between containers of different hosts")
def firewall(facts: Facts) -> Iterator[Fault]:
    rules, network = known(facts.firewall), facts.config().network
    named = set()
    for packet in _between_hosts(facts, rules):
        for dropped in rules.drops(packet, Hook.PREROUTING, Hook.FORWARD):
            by = (dropped.base.table, dropped.base.name, dropped.why)
            if by not in named:
                named.add(by)
                yield _dropping(packet, dropped, cure=open_forwarding(rules, dropped, network))


def _dropping(packet: Packet, dropped: Dropped, *, cure: str) -> Fault:
    text = f"packets from {packet.source} to {packet.destination} are dropped here: {dropped.why}"
    if dropped.unless:
        return warning(f"{text}, unless this lets them pass: {dropped.unless}", cure=cure)
    return error(text, cure=cure)


@check("backend-port", "this host's firewall lets in what the backend sends to this host")
def backend_port(facts: Facts) -> Iterator[Fault]:
    rules, config = known(facts.firewall), facts.config()
    port = _port(config)
    if port is None:
        raise Skipped(f"the backend {config.backend.type} uses no UDP port")
    underlay, fabric = known(facts.underlay), known(facts.fabric)
    here, link = underlay.address.ip, underlay.link
    by_reason: dict[str, tuple[str, Dropped]] = {}
    for member in fabric.others[:_ENOUGH]:
        there = member.public_ip
        coming = Packet(source=there, destination=here, comes_by=link, leaves_by="", udp_port=port)
        going = Packet(source=here, destination=there, comes_by="", leaves_by=link, udp_port=port)
        for dropped in rules.drops(coming, Hook.PREROUTING, Hook.INPUT):
            by_reason.setdefault(dropped.why, (f"from {there}", dropped))
        for dropped in rules.drops(going, Hook.OUTPUT):
            by_reason.setdefault(dropped.why, (f"to {there}", dropped))
    for why, (way, dropped) in by_reason.items():
        yield error(f"UDP {port} {way} is dropped here: {why}", cure=open_port(rules, dropped, port))


def _between_hosts(facts: Facts, rules: Ruleset) -> Iterator[Packet]:
    """Yield packets that containers of different hosts would send each other."""
    fabric, underlay, kernel = known(facts.fabric), known(facts.underlay), known(facts.kernel)
    own = fabric.own.subnet
    bridge = kernel.bridge_of(own)
    if bridge is None:
        raise Skipped(f"no bridge has an address of {own} yet")
    device = None if isinstance(facts.plane, Unknown) else facts.plane.device
    outer = device.name if device is not None else underlay.link
    for member in fabric.others[:_ENOUGH]:
        there = _container_of(member.subnet)
        for here in _containers(own, rules):
            yield Packet(source=there, destination=here, comes_by=outer, leaves_by=bridge.name)
        yield Packet(source=_container_of(own), destination=there, comes_by=bridge.name, leaves_by=outer)


def _container_of(subnet: IPv4Network) -> IPv4Address:
    # A lease that somebody wrote may be of any size.
    return subnet[min(_CONTAINER, subnet.num_addresses - 1)]


def _containers(own: IPv4Network, rules: Ruleset) -> list[IPv4Address]:
    """Return a container's address, and those that rules name: Docker 28 and later drops for each by itself."""
    named = {
        network.network_address
        for chain in rules.chains
        for rule in chain.rules
        if rule.destination is not None and not rule.destination.negated
        for network in rule.destination.networks
        if network.prefixlen == network.max_prefixlen and network.subnet_of(own)
    }
    return [_container_of(own), *sorted(named)]


def _port(config: NetworkConfig) -> int | None:
    match config.backend:
        case Vxlan(port=port):
            return port
        case WireGuard(listen_port=port):
            return port
        case _:
            return None


# --- probes


def _unprobed(facts: Facts) -> str:
    others = 0 if isinstance(facts.probes, Unknown) else facts.probes.others
    return f"{others} more were not asked" if others else ""


@check(
    "reach",
    "every other host answers by the data plane, there and back, small packets and the largest",
    leaves_out=_unprobed,
)
def reach(facts: Facts) -> Iterator[Fault]:
    config, probes = facts.config(), known(facts.probes)
    if not probes.reached:
        raise Skipped("there is no other host yet")
    unreached = frozenset() if isinstance(facts.plane, Unknown) else facts.plane.unreached
    due = [reached for reached in probes.reached if reached.member.subnet not in unreached]
    if not due:
        raise Skipped("the data plane here is not whole yet, so that no answer would tell anything")
    for reached in due:
        member = reached.member
        who = f"{member.node or member.host_id[:12]} ({member.public_ip}, {member.subnet})"
        fault = error if member.lives else warning
        if not reached.carried:
            lost = _lost(config, reached)
            yield fault(f"{who} does not answer: {lost.text}", cure=lost.cure)
        elif not reached.largest_carried:
            yield fault(
                f"{who} answers, but not to packets of {reached.largest} bytes, which containers may send",
                cure="raise the MTU of what lies between the hosts, or lower it for all: "
                '"MTU" in the config\'s Backend, or ip link set LINK mtu N on every host',
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lost:
    text: str
    cure: str


def _lost(config: NetworkConfig, reached: ProbeResult) -> _Lost:
    member = reached.member
    there, what = member.node or str(member.public_ip), _carrier(config)
    if not reached.underlay:
        return _Lost(
            text=f"its own address {member.public_ip} does not answer either",
            cure=f"see that the host is up, and that ICMP and {what} pass both firewalls: ping {member.public_ip}",
        )
    match reached.lost:
        case Direction.OUT:
            return _Lost(
                text=f"{what} from here to {member.public_ip} is lost",
                cure=f"let {what} out here and in on {there} (firewalls, security groups); {_THERE} {there}",
            )
        case Direction.BACK:
            return _Lost(
                text=f"{what} from {member.public_ip} to here is lost",
                cure=f"let {what} in here and out on {there} (firewalls, security groups); {_THERE} {there}",
            )
        case _:
            return _Lost(
                text=f"its own address does, but {what} does not come through",
                cure=f"let {what} pass between the hosts both ways (firewalls, security groups); {_THERE} {there}",
            )


_THERE: Final = "then proxygen network doctor on"


def _carrier(config: NetworkConfig) -> str:
    port = _port(config)
    if port is not None:
        return f"UDP {port}"
    if isinstance(config.backend, AwsVpc):
        return "traffic of containers' addresses (source/destination check, route tables)"
    return "traffic of containers' addresses"


@check("duplicate-address", "no other machine on the link answers for this host's address")
def duplicate_address(facts: Facts) -> Iterator[Fault]:
    arp = known(facts.arp)
    if arp.macs:
        yield error(
            f"{arp.address} on {arp.link} is also the address of {', '.join(arp.macs)}",
            cure="give one of the two machines another address, and restart its agent (proxygen network up)",
        )
