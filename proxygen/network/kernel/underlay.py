"""Which of the host's links leads to the other hosts. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address

from proxygen.kit.errors import NetworkError
from proxygen.network.fabric import Underlay
from proxygen.network.kernel.state import Link, LinkAddress, Route


@dataclass(frozen=True, slots=True, kw_only=True)
class UnderlayWish:
    """What the operator said of the underlay. Nothing: it is the default route's."""

    interface: str | None = None
    """Names, addresses, and patterns for either after a ``~``, between commas; the first that fits counts, as of
    flannel's ``--iface`` and ``--iface-regex``."""
    address: IPv4Address | None = None
    """Where others reach the host; one that it does not have is translated into its own by a router."""

    @property
    def name(self) -> str | None:
        """The interface's, where one name is all that is said of it."""
        text = self.interface
        return text if text and "," not in text and not text.startswith("~") and _as_address(text) is None else None


def choose_underlay(
    links: Iterable[Link], addresses: Sequence[LinkAddress], defaults: Sequence[Route], wish: UnderlayWish
) -> Underlay:
    """Return the link and the address. Raise NetworkError that says what to write instead.

    ``defaults`` are the main table's default routes.
    """
    usable = {link.index: link for link in links if not link.is_ours and not link.is_loopback}
    link, address = _named(usable, addresses, wish) or _link(usable, addresses, defaults, wish)
    if not link.is_up:
        raise NetworkError(f"{link.name} is down; other hosts are reached through it")
    own = address or _address(link, addresses, defaults, wish)
    elsewhere = wish.address if wish.address != own.interface.ip else None
    return Underlay(
        link=link.name, index=link.index, address=own.interface, mtu=link.mtu, mac=link.mac, elsewhere=elsewhere
    )


_Place = tuple[Link, LinkAddress | None]


def _named(usable: Mapping[int, Link], addresses: Sequence[LinkAddress], wish: UnderlayWish) -> _Place | None:
    """The interface that is named, and its address where that is how it is named."""
    if wish.interface is None:
        return None
    for text in filter(None, (part.strip() for part in wish.interface.split(","))):
        found = _matching(text, usable, addresses)
        if found is not None:
            return found
    have = ", ".join(sorted(link.name for link in usable.values())) or "none"
    raise NetworkError(f"this host has no interface {wish.interface}; it has {have}")


def _matching(text: str, usable: Mapping[int, Link], addresses: Sequence[LinkAddress]) -> _Place | None:
    if (address := _as_address(text)) is not None:
        held = next((one for one in addresses if one.interface.ip == address and one.link in usable), None)
        return None if held is None else (usable[held.link], held)
    if not text.startswith("~"):
        return next(((link, None) for link in usable.values() if link.name == text), None)
    pattern = re.compile(text[1:])
    by_name = next(((link, None) for link in usable.values() if pattern.search(link.name)), None)
    by_address = ((usable[one.link], one) for one in addresses if one.link in usable)
    return by_name or next((place for place in by_address if pattern.search(str(place[1].interface.ip))), None)


def _as_address(text: str) -> IPv4Address | None:
    try:
        return IPv4Address(text)
    except AddressValueError:
        return None


def _link(
    usable: Mapping[int, Link], addresses: Iterable[LinkAddress], defaults: Iterable[Route], wish: UnderlayWish
) -> _Place:
    if wish.address is not None:
        holder = next((one for one in addresses if one.interface.ip == wish.address), None)
        if holder is not None and holder.link in usable:
            return usable[holder.link], None
        if holder is not None:
            have = ", ".join(str(one.interface.ip) for one in addresses if one.link in usable) or "none"
            raise NetworkError(f"{wish.address} is not on a link that leads to other hosts; those have {have}")
    default = min((route for route in defaults if route.link in usable), key=lambda one: one.metric, default=None)
    if default is None:
        raise NetworkError("this host has no default route; name the interface through which it reaches the others")
    return usable[default.link], None


def _address(
    link: Link, addresses: Sequence[LinkAddress], defaults: Iterable[Route], wish: UnderlayWish
) -> LinkAddress:
    own = [address for address in addresses if address.link == link.index]
    stated = next((one for one in addresses if one.interface.ip == wish.address), None)
    if stated is not None and stated not in own:
        raise NetworkError(f"{link.name} has not the address {wish.address}; other hosts could not reach this one")
    if stated is not None:
        return stated
    if not own:
        raise NetworkError(f"{link.name} has no IPv4 address; other hosts could not reach this one")
    gateways = [route.gateway for route in defaults if route.link == link.index and route.gateway is not None]

    def rank(address: LinkAddress) -> tuple[bool, bool, bool]:
        faces_out = any(gateway in address.interface.network for gateway in gateways)
        return not address.is_global, address.is_secondary, not faces_out

    return min(own, key=rank)
