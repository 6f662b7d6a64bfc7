"""The kernel's side: its switches, links and routes."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network
from shlex import quote
from typing import Final

from proxygen.network.config import Alloc, AwsVpc, FrrBgp, FrrOspf, Vxlan, WireGuard
from proxygen.network.doctor.facts import FRR, Facts, ForeignRoute, KernelFacts, known
from proxygen.network.doctor.finding import Fault, Skipped, Unknown, error, warning
from proxygen.network.doctor.registry import check
from proxygen.network.kernel.state import PROTOCOL

_KERNEL: Final = 2
"""The protocol of routes that come with addresses (RTPROT_KERNEL)."""


_NAMES: Final = {
    2: "kernel",
    3: "boot",
    4: "static",
    11: "zebra",
    16: "dhcp",
    17: "kube-router",
    186: "bgp",
    188: "ospf",
}
_STRICT: Final = 1
_ANOTHER: Final = "choose a Network that no host uses, and write it with proxygen network init"
_FRR_SAYS: Final = {
    FrrBgp: "see that both hosts' agents run, that TCP 179 passes, and what this says: vtysh -c 'show bgp summary'",
    FrrOspf: "see that both hosts' agents run, that IP protocol 89 passes, and: vtysh -c 'show ip ospf neighbor'",
}
_AGENT: Final = "start the agent, which does it: proxygen network up"


@check("overlap", "Network is not what this host's addresses and routes reach already")
def overlap(facts: Facts) -> Iterator[Fault]:
    kernel, network = known(facts.kernel), facts.config().network
    own, device = _own(facts), _device(facts)
    for link, address in kernel.addresses:
        inside = own is not None and address.ip in own
        if address.network.overlaps(network) and not inside and link != device:
            yield error(
                f"{link} has {address}, which lies in the containers' Network {network}",
                cure=f"{_ANOTHER}; or: ip address del {address} dev {quote(link)}",
            )
    for route in kernel.routes:
        if route.protocol != _KERNEL and route.to.prefixlen and route.to.supernet_of(network) and route.to != network:
            yield error(
                f"the route to {_shown(route)} covers the containers' Network {network}, which hides what is there",
                cure=f"{_ANOTHER}; or: {_deletion(route)}",
            )


@check("underlay", "this host has the link and the address by which the others are to reach it")
def underlay(facts: Facts) -> Iterator[Fault]:
    known(facts.kernel)
    if isinstance(facts.underlay, Unknown):
        yield error(
            facts.underlay.reason,
            cure="bring the link up; or name another (network.interface, network.public_ip) and start the agent again",
        )


@check("one-owner", "nobody else has routes inside Network")
def one_owner(facts: Facts) -> Iterator[Fault]:
    kernel, config = known(facts.kernel), facts.config()
    if isinstance(config.backend, Alloc):
        raise Skipped("with alloc the routes are somebody else's")
    fault = warning if known(facts.lease).take_over else error
    owners = FRR if isinstance(config.backend, FrrBgp | FrrOspf) else frozenset({PROTOCOL})
    for route in kernel.routes:
        if route.to.subnet_of(config.network) and route.protocol not in {_KERNEL, *owners}:
            who = _NAMES.get(route.protocol, str(route.protocol))
            yield fault(
                f"the route to {_shown(route)} (proto {who}) is not by the backend, and may win over its own",
                cure=_deletion(route),
            )


@check("data-plane", "routes, neighbours and forwarding entries are there for every lease")
def data_plane(facts: Facts) -> Iterator[Fault]:
    plane, backend = known(facts.plane), facts.config().backend
    if isinstance(backend, Alloc | AwsVpc):
        raise Skipped(f"with {backend.type} the routes are not on this host")
    cure = _FRR_SAYS.get(type(backend), _AGENT)
    for line in plane.problems:
        yield error(f"nothing can be carried to {line}", cure="mend that host's lease: restart its agent there")
    for line in plane.missing:
        yield error(f"missing: {line}", cure=cure)


@check("stale", "no route, neighbour or forwarding entry of ours is left of a lease that ended")
def stale(facts: Facts) -> Iterator[Fault]:
    for line in known(facts.plane).stale:
        yield warning(f"no lease stands for it any more: {line}", cure=_AGENT)


@check("device", "the backend's device is up and is the one that the lease tells other hosts of")
def device(facts: Facts) -> Iterator[Fault]:
    plane = known(facts.plane)
    if not plane.needs:
        raise Skipped(f"the backend {facts.config().backend.type} has no device")
    link = plane.device
    if link is None:
        yield error(f"there is no device of kind {plane.needs}", cure=_AGENT)
        return
    if not link.is_up:
        yield error(f"{link.name} is down", cure=_AGENT)
    own = known(facts.lease).own
    data = own.attributes.backend_data if own is not None else None
    told = str((data or {}).get("VtepMAC", "")).lower()
    if told and told != link.mac.lower():
        yield error(
            f"{link.name} has the MAC {link.mac}, and the lease tells other hosts of {told}",
            cure=f"ip link set {quote(link.name)} address {quote(told)}; keep udev off it (MACAddressPolicy=none)",
        )


@check("module", "the kernel can make the backend's device")
def module(facts: Facts) -> Iterator[Fault]:
    if not isinstance(facts.config().backend, Vxlan | WireGuard):
        raise Skipped(f"the backend {facts.config().backend.type} needs no module")
    found = known(facts.module)
    if not found.present:
        yield error(
            f"the kernel has no {found.module}",
            cure=f"modprobe {found.module} (install linux-modules-extra where it is apart), or choose another backend",
        )


@check("forwarding", "the kernel forwards between hosts and containers")
def forwarding(facts: Facts) -> Iterator[Fault]:
    kernel = known(facts.kernel)
    if not kernel.forwards.get("all", True):
        yield error(
            "net.ipv4.ip_forward is 0: packets between hosts and containers are dropped",
            cure="sysctl -w net.ipv4.ip_forward=1",
        )
        return
    for link in _links(facts, kernel):
        if not kernel.forwards.get(link, True):
            yield error(
                f"net.ipv4.conf.{link}.forwarding is 0: what comes in by it is dropped",
                # With slashes: the name of a VLAN's link has a dot of its own.
                cure=f"sysctl -w {quote(f'net/ipv4/conf/{link}/forwarding=1')}",
            )


@check("rp-filter", "no link drops packets that would be answered by another one")
def rp_filter(facts: Facts) -> Iterator[Fault]:
    kernel = known(facts.kernel)
    of_all = kernel.rp_filter.get("all", 0)
    # The kernel takes the greater of the two, and 2 (loose) is the greatest.
    strict = [link for link in _links(facts, kernel) if max(of_all, kernel.rp_filter.get(link, 0)) == _STRICT]
    if strict:
        yield warning(
            f"rp_filter is strict on {', '.join(strict)}: where a path back differs, packets are dropped in silence",
            cure="sysctl -w net.ipv4.conf.all.rp_filter=2",
        )


@check("mtu", "device, bridge and subnet.env fit what the underlay carries")
def mtu(facts: Facts) -> Iterator[Fault]:
    kernel, plane = known(facts.kernel), known(facts.plane)
    link, fits = plane.device, plane.mtu
    if link is not None and link.mtu > fits:
        yield error(
            f"{link.name} takes {link.mtu} bytes, and the underlay leaves {fits}: larger packets are lost",
            cure=f"ip link set {quote(link.name)} mtu {fits}",
        )
    elif link is not None and link.mtu < fits:
        yield error(
            f"{link.name} takes {link.mtu} bytes, and containers were told that they may send {fits}",
            cure=f"ip link set {quote(link.name)} mtu {fits}",
        )
    own = _own(facts)
    bridge = None if own is None else kernel.bridge_of(own)
    if bridge is not None and bridge.mtu > fits:
        yield warning(
            f"{bridge.name} lets containers send {bridge.mtu} bytes, and no more than {fits} reach other hosts",
            cure=f"start dockerd with --mtu={fits} (docker_opts.env has it), and make the containers anew",
        )
    if not isinstance(facts.subnet_file, Unknown) and facts.subnet_file.mtu != fits:
        yield warning(
            f"subnet.env says FLANNEL_MTU={facts.subnet_file.mtu}, and it is {fits}",
            cure="restart the agent (proxygen network up), then dockerd",
        )


def _own(facts: Facts) -> IPv4Network | None:
    try:
        return facts.subnet()
    except Skipped:
        return None


def _device(facts: Facts) -> str:
    if isinstance(facts.plane, Unknown) or facts.plane.device is None:
        return ""
    return facts.plane.device.name


def _links(facts: Facts, kernel: KernelFacts) -> list[str]:
    """Return the links that containers' packets pass."""
    own = _own(facts)
    bridge = None if own is None else kernel.bridge_of(own)
    names = [
        "" if isinstance(facts.underlay, Unknown) else facts.underlay.link,
        _device(facts),
        "" if bridge is None else bridge.name,
    ]
    return [name for name in dict.fromkeys(names) if name in kernel.links]


def _shown(route: ForeignRoute) -> str:
    return f"{route.to} dev {route.link}" if route.link else str(route.to)


def _deletion(route: ForeignRoute) -> str:
    return f"ip route del {route.to} dev {quote(route.link)}" if route.link else f"ip route del {route.to}"
