"""Which of the host's links leads to the other hosts. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

from proxygen.kit.errors import NetworkError
from proxygen.network.fabric import Underlay
from proxygen.network.kernel.state import Link, LinkAddress, Route


@dataclass(frozen=True, slots=True, kw_only=True)
class UnderlayWish:
    """What the operator said of the underlay. Nothing: it is the default route's."""

    interface: str | None = None
    address: IPv4Address | None = None
    """One that the host has; others reach it there."""


def choose_underlay(
    links: Iterable[Link], addresses: Sequence[LinkAddress], defaults: Sequence[Route], wish: UnderlayWish
) -> Underlay:
    """Return the link and the address. Raise NetworkError that says what to write instead.

    ``defaults`` are the main table's default routes.
    """
    usable = {link.index: link for link in links if not link.is_ours and not link.is_loopback}
    link = _link(usable, addresses, defaults, wish)
    if not link.is_up:
        raise NetworkError(f"{link.name} is down; other hosts are reached through it")
    address = _address(link, addresses, defaults, wish)
    return Underlay(link=link.name, index=link.index, address=address.interface, mtu=link.mtu, mac=link.mac)


def _link(
    usable: dict[int, Link], addresses: Iterable[LinkAddress], defaults: Iterable[Route], wish: UnderlayWish
) -> Link:
    if wish.interface is not None:
        named = next((link for link in usable.values() if link.name == wish.interface), None)
        if named is None:
            have = ", ".join(sorted(link.name for link in usable.values())) or "none"
            raise NetworkError(f"this host has no interface {wish.interface}; it has {have}")
        return named
    if wish.address is not None:
        holder = next((one for one in addresses if one.interface.ip == wish.address and one.link in usable), None)
        if holder is None:
            have = ", ".join(str(one.interface.ip) for one in addresses if one.link in usable) or "none"
            raise NetworkError(f"this host does not have the address {wish.address}; it has {have}")
        return usable[holder.link]
    default = min((route for route in defaults if route.link in usable), key=lambda one: one.metric, default=None)
    if default is None:
        raise NetworkError("this host has no default route; name the interface through which it reaches the others")
    return usable[default.link]


def _address(
    link: Link, addresses: Iterable[LinkAddress], defaults: Iterable[Route], wish: UnderlayWish
) -> LinkAddress:
    own = [address for address in addresses if address.link == link.index]
    if wish.address is not None:
        own = [address for address in own if address.interface.ip == wish.address]
    if not own:
        what = "no IPv4 address" if wish.address is None else f"not the address {wish.address}"
        raise NetworkError(f"{link.name} has {what}; other hosts could not reach this one")
    gateways = [route.gateway for route in defaults if route.link == link.index and route.gateway is not None]

    def rank(address: LinkAddress) -> tuple[bool, bool, bool]:
        faces_out = any(gateway in address.interface.network for gateway in gateways)
        return not address.is_global, address.is_secondary, not faces_out

    return min(own, key=rank)
