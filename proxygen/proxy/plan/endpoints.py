"""Where an instance may be: its address as nginx would reach it, judged in every form in which it can be written."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

from proxygen.kit.errors import TagError
from proxygen.proxy.plan.types import Endpoint, Policy

_Address = IPv4Address | IPv6Address

_LAST_32_BITS: Final = tuple(map(ip_network, ("::/96", "::ffff:0:0:0/96", "64:ff9b::/96")))
"""IPv4-compatible (RFC 4291), IPv4-translated (RFC 2765), NAT64 (RFC 6052)."""
_LOCAL_NAT64: Final = ip_network("64:ff9b:1::/48")
"""RFC 8215: any prefix length of RFC 6052 may be in use below it."""
_ISATAP: Final = (0x0000_5EFE, 0x0200_5EFE)
_THIS_NETWORK: Final = ip_network("0.0.0.0/8")


def endpoint_of(address: str, port: int, policy: Policy) -> Endpoint | None:
    """The place that nginx may connect to; None for an instance without a port. Raise TagError."""
    if port == 0:
        return None
    if not 0 < port < 65536:
        raise TagError("port", f"{port} is not from 1 to 65535")
    found = _parsed(address)
    forms = _forms(found)
    if not any(found in network for network in policy.allowed if network.version == found.version) or any(
        form in network for form in forms for network in policy.denied if network.version == form.version
    ):
        raise TagError(
            "address", f"{found} is outside the networks in which instances may live (proxy.allowed_addresses)"
        )
    if any(_is_ours(form, port, policy) for form in forms):
        raise TagError(
            "address", f"{Endpoint.of(found, port)} belongs to the proxy's own host and may not be an instance"
        )
    return Endpoint.of(found, port)


def _parsed(text: str) -> _Address:
    try:
        address = ip_address(text)
    except ValueError:
        raise TagError(
            "address",
            f"{text[:80]!r} is not an IP address; register one (nginx would have to resolve a name, and one"
            " name that does not resolve rejects every service)",
        ) from None
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            raise TagError("address", f"{address} has a zone, which nginx cannot use")
        # ::ffff:169.254.169.254 reaches the IPv4 address, so it is judged as one.
        return address.ipv4_mapped or address
    return address


def _forms(address: _Address) -> tuple[_Address, ...]:
    return (address, *embedded(address)) if isinstance(address, IPv6Address) else (address,)


def _is_ours(address: _Address, port: int, policy: Policy) -> bool:
    if Endpoint.of(address, port) in policy.denied_endpoints:
        return True
    return port in policy.own_ports and is_own(address, policy)


def is_own(address: _Address, policy: Policy) -> bool:
    """Whether this host answers at an address. The unspecified one leads to loopback."""
    return (
        address.is_loopback
        or address.is_unspecified
        or address in policy.own_addresses
        or any(address in network for network in policy.own_networks if network.version == address.version)
    )


def stream_endpoint(address: str, port: int, policy: Policy) -> Endpoint | None:
    """The place of an instance where a stream of this port would listen too; None for all others."""
    try:
        found = _parsed(address)
    except TagError:
        return None
    if policy.stream_address is None or policy.stream_address.is_unspecified:
        is_there = any(is_own(form, policy) for form in _forms(found))
    else:
        is_there = policy.stream_address in _forms(found)
    return Endpoint.of(found, port) if is_there else None


def embedded(address: IPv6Address) -> Iterator[IPv4Address]:
    """Yield the IPv4 addresses at which a packet to this one may arrive, by a translator or a tunnel."""
    number = int(address)
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
    if (number >> 32) & 0xFFFF_FFFF in _ISATAP or (number > 1 and any(address in network for network in _LAST_32_BITS)):
        yield IPv4Address(number & 0xFFFF_FFFF)
    if address in _LOCAL_NAT64:
        yield from _in_local_nat64(number)


def _in_local_nat64(number: int) -> Iterator[IPv4Address]:
    # The octet after the first 64 bits is none of the IPv4 address.
    squeezed = (number >> 64 << 56) | (number & (1 << 56) - 1)
    for bits in (squeezed >> 40, squeezed >> 32, squeezed >> 24, number):
        found = IPv4Address(bits & 0xFFFF_FFFF)
        # What another prefix length leaves; no packet arrives there.
        if found not in _THIS_NETWORK:
            yield found
