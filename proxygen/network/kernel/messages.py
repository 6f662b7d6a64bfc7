"""Netlink's messages as values of ours, and back. Pure.

Messages are pyroute2's: mappings of a header's fields, with ``get_attr`` for attributes.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any, Final

from proxygen.network.kernel.state import PROTOCOL, Address, Forward, Link, Neighbour, Route, Vxlan

# linux/if.h, linux/neighbour.h, linux/if_addr.h, linux/rtnetlink.h
_UP: Final = 0x1
_LOOPBACK: Final = 0x8
PERMANENT: Final = 0x80
NOARP: Final = 0x40
SELF: Final = 0x2
_SECONDARY: Final = 0x1
_GLOBAL: Final = 0
_ONLINK: Final = 0x4


def route_request(route: Route) -> dict[str, object]:
    request: dict[str, object] = {
        "dst": str(route.destination),
        "proto": PROTOCOL,
        "table": route.table,
        "type": route.kind,
    }
    if route.link:
        request["oif"] = route.link
    if route.gateway is not None:
        request["gateway"] = str(route.gateway)
    if route.onlink:
        request["flags"] = _ONLINK
    if route.metric:
        request["priority"] = route.metric
    if route.tos:
        request["tos"] = route.tos
    return request


def read_route(message: Any) -> Route:
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
    return IPv4Network((message.get_attr("RTA_DST") or "0.0.0.0", message["dst_len"]))  # noqa: S104 - a network


def read_link(message: Any) -> Link:
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


def _vxlan(data: Any) -> Vxlan:
    local = data.get_attr("IFLA_VXLAN_LOCAL")
    return Vxlan(
        vni=data.get_attr("IFLA_VXLAN_ID"),
        port=data.get_attr("IFLA_VXLAN_PORT"),
        parent=data.get_attr("IFLA_VXLAN_LINK") or 0,
        local=None if local is None else IPv4Address(local),
        learning=bool(data.get_attr("IFLA_VXLAN_LEARNING")),
        # A flag: it is there, or it is not.
        gbp=any(name == "IFLA_VXLAN_GBP" for name, _ in data["attrs"]),
    )


def read_address(message: Any) -> Address:
    # On a link from point to point IFA_ADDRESS is the other end's.
    own = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    return Address(
        link=message["index"],
        interface=IPv4Interface((own, message["prefixlen"])),
        is_global=message["scope"] == _GLOBAL,
        is_secondary=bool(message["flags"] & _SECONDARY),
    )


def read_neighbour(message: Any) -> Neighbour:
    address = IPv4Address(message.get_attr("NDA_DST"))
    return Neighbour(link=message["ifindex"], address=address, mac=message.get_attr("NDA_LLADDR") or "")


def read_forward(message: Any) -> Forward:
    host = IPv4Address(message.get_attr("NDA_DST"))
    return Forward(link=message["ifindex"], mac=message.get_attr("NDA_LLADDR"), host=host)
