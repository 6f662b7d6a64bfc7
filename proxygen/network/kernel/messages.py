"""Netlink's messages as values of ours, and back. Pure.

Messages are pyroute2's: mappings of a header's fields, with ``get_attr`` for attributes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from socket import AF_BRIDGE, AF_INET
from typing import Any, Final

from proxygen.network.kernel.diff import KernelRequest, KernelVerb
from proxygen.network.kernel.state import PROTOCOL, UNICAST, Forward, Link, LinkAddress, Neighbour, Route, VxlanLink

# linux/netlink.h, linux/rtnetlink.h, linux/neighbour.h, linux/if.h, linux/if_addr.h
RTM_NEWROUTE: Final = 24
RTM_DELROUTE: Final = 25
RTM_NEWNEIGH: Final = 28
RTM_DELNEIGH: Final = 29
_REQUEST: Final = 0x1
_ACK: Final = 0x4
_REPLACE: Final = 0x100
_EXCLUSIVE: Final = 0x200
_CREATE: Final = 0x400
_APPEND: Final = 0x800
_HOW: Final = {
    KernelVerb.ADD: _CREATE | _EXCLUSIVE,
    KernelVerb.APPEND: _CREATE | _APPEND,
    KernelVerb.REPLACE: _CREATE | _REPLACE,
    KernelVerb.REMOVE: 0,
}
_UNIVERSE: Final = 0
_LINK_SCOPE: Final = 253
_ANY_SCOPE: Final = 255
"""To remove a route whatever its scope is."""
_MANY_TABLES: Final = 256
_UP: Final = 0x1
_LOOPBACK: Final = 0x8
PERMANENT: Final = 0x80
_NOARP: Final = 0x40
_SELF: Final = 0x2
_SECONDARY: Final = 0x1
_GLOBAL: Final = 0
_ONLINK: Final = 0x4


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A message to the kernel."""

    type: int
    flags: int
    fields: Mapping[str, int]
    attributes: tuple[tuple[str, str | int], ...]


def write_request(step: KernelRequest) -> Request:
    """Return what a step is in netlink's words."""
    removes = step.verb is KernelVerb.REMOVE
    entry = step.entry
    if isinstance(entry, Route):
        kind = RTM_DELROUTE if removes else RTM_NEWROUTE
        fields, attributes = _route_fields(entry, removes=removes), _route_attributes(entry)
    else:
        kind = RTM_DELNEIGH if removes else RTM_NEWNEIGH
        fields, attributes = _neighbour_fields(entry), _neighbour_attributes(entry)
    return Request(type=kind, flags=_REQUEST | _ACK | _HOW[step.verb], fields=fields, attributes=tuple(attributes))


def _neighbour_fields(entry: Neighbour | Forward) -> dict[str, int]:
    if isinstance(entry, Neighbour):
        return {"family": AF_INET, "ifindex": entry.link, "state": PERMANENT, "flags": 0}
    return {"family": AF_BRIDGE, "ifindex": entry.link, "state": PERMANENT | _NOARP, "flags": _SELF}


def _neighbour_attributes(entry: Neighbour | Forward) -> list[tuple[str, Any]]:
    address = entry.address if isinstance(entry, Neighbour) else entry.host
    return [("NDA_DST", str(address)), ("NDA_LLADDR", entry.mac)]


def _route_fields(route: Route, *, removes: bool) -> dict[str, int]:
    scope = _LINK_SCOPE if route.gateway is None and route.kind == UNICAST else _UNIVERSE
    return {
        "family": AF_INET,
        "dst_len": route.destination.prefixlen,
        "tos": route.tos,
        # What does not fit is in the attribute.
        "table": route.table if route.table < _MANY_TABLES else 0,
        "proto": PROTOCOL,
        "scope": _ANY_SCOPE if removes else scope,
        "type": route.kind,
        "flags": _ONLINK if route.onlink and not removes else 0,
    }


def _route_attributes(route: Route) -> list[tuple[str, str | int]]:
    attributes: list[tuple[str, str | int]] = [
        ("RTA_DST", str(route.destination.network_address)),
        ("RTA_TABLE", route.table),
    ]
    if route.gateway is not None:
        attributes.append(("RTA_GATEWAY", str(route.gateway)))
    if route.link:
        attributes.append(("RTA_OIF", route.link))
    if route.metric:
        attributes.append(("RTA_PRIORITY", route.metric))
    return attributes


def read_route(message: Any) -> Route:
    """A route without a gateway has None; one without a link (a blackhole) has 0."""
    gateway = message.get_attr("RTA_GATEWAY")
    return Route(
        destination=read_destination(message),
        link=message.get_attr("RTA_OIF") or 0,
        gateway=None if gateway is None else IPv4Address(gateway),
        onlink=bool(message["flags"] & _ONLINK),
        table=message.get_attr("RTA_TABLE") or message["table"],
        metric=message.get_attr("RTA_PRIORITY") or 0,
        tos=message["tos"],
        kind=message["type"],
    )


def read_default(message: Any) -> Route:
    """A default route, of several ways the first."""
    route = read_route(message)
    ways = message.get_attr("RTA_MULTIPATH")
    if not ways:
        return route
    gateway = ways[0].get_attr("RTA_GATEWAY")
    return Route(
        destination=route.destination,
        link=ways[0]["oif"],
        gateway=None if gateway is None else IPv4Address(gateway),
        metric=route.metric,
    )


def read_destination(message: Any) -> IPv4Network:
    """The default route has no attribute: 0.0.0.0/0."""
    return IPv4Network((message.get_attr("RTA_DST") or "0.0.0.0", message["dst_len"]))  # noqa: S104 - a network


def read_link(message: Any) -> Link:
    """``kind`` is empty for hardware; only a VXLAN's own data are read."""
    info = message.get_attr("IFLA_LINKINFO")
    kind = (info.get_attr("IFLA_INFO_KIND") if info is not None else None) or ""
    data = info.get_attr("IFLA_INFO_DATA") if kind == "vxlan" else None
    return Link(
        index=message["index"],
        name=message.get_attr("IFLA_IFNAME"),
        mtu=message.get_attr("IFLA_MTU"),
        mac=message.get_attr("IFLA_ADDRESS") or "",
        is_up=bool(message["flags"] & _UP),
        kind=kind,
        group=message.get_attr("IFLA_GROUP") or 0,
        is_loopback=bool(message["flags"] & _LOOPBACK),
        vxlan=None if data is None else _vxlan(data),
    )


def _vxlan(data: Any) -> VxlanLink:
    local = data.get_attr("IFLA_VXLAN_LOCAL")
    return VxlanLink(
        vni=data.get_attr("IFLA_VXLAN_ID"),
        port=data.get_attr("IFLA_VXLAN_PORT"),
        parent=data.get_attr("IFLA_VXLAN_LINK") or 0,
        local=None if local is None else IPv4Address(local),
        learning=bool(data.get_attr("IFLA_VXLAN_LEARNING")),
        # A flag: it is there, or it is not.
        gbp=any(name == "IFLA_VXLAN_GBP" for name, _ in data["attrs"]),
    )


def read_address(message: Any) -> LinkAddress:
    # On a link from point to point IFA_ADDRESS is the other end's.
    own = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    return LinkAddress(
        link=message["index"],
        interface=IPv4Interface((own, message["prefixlen"])),
        is_global=message["scope"] == _GLOBAL,
        is_secondary=bool(message["flags"] & _SECONDARY),
    )


def read_neighbour(message: Any) -> Neighbour:
    """One that is being resolved has no MAC: ""."""
    address = IPv4Address(message.get_attr("NDA_DST"))
    return Neighbour(link=message["ifindex"], address=address, mac=message.get_attr("NDA_LLADDR") or "")


def read_forward(message: Any) -> Forward:
    """Of a VXLAN: behind which host's address a MAC is."""
    host = IPv4Address(message.get_attr("NDA_DST"))
    return Forward(link=message["ifindex"], mac=message.get_attr("NDA_LLADDR"), host=host)
