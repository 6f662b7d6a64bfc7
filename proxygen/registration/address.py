"""Which address an instance announces: where its proxies reach it, and never loopback unless told.

The kernel is asked directly: the library that would list addresses (ifaddr) has had no release since 2022, and
psutil is megabytes for one call.
"""

from __future__ import annotations

import array
import fcntl
import ipaddress
import os
import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from proxygen.kit.errors import BadInput, quoted

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_FORMS: Final = (
    "write an IP address, interface:NAME, a network such as 10.0.0.0/8, env:VARIABLE, or docker for a container's own"
)

_SIOCGIFCONF: Final = 0x8912
_NAME: Final = 16
_REQUEST: Final = 40 if sys.maxsize > 2**32 else 32
"""Bytes of one ``struct ifreq``: the name, then the largest member of a union."""
_ROOM: Final = 4096 * _REQUEST
_PASSING: Final = 0x01 | 0x20 | 0x40
"""IFA_F_TEMPORARY, IFA_F_DEPRECATED, IFA_F_TENTATIVE (linux/if_addr.h)."""
_DUPLICATE: Final = 0x08
"""IFA_F_DADFAILED."""


@dataclass(frozen=True, slots=True)
class InterfaceAddress:
    """One address of one network interface."""

    name: str
    address: IPAddress
    is_passing: bool = field(default=False, compare=False)
    """Temporary (RFC 8981), deprecated or tentative: the kernel gives it up, or may."""


def check_form(text: str) -> None:
    """Raise BadInput for a text that `choose_address` will not understand on any machine."""
    if text.startswith("interface:") and text.removeprefix("interface:"):
        return
    if text.startswith("env:") and text.removeprefix("env:"):
        return
    if text == "docker" or (text.startswith("docker:") and text.removeprefix("docker:")):
        return
    try:
        if "/" in text:
            ipaddress.ip_network(text)
        else:
            _usable(text)
    except ValueError as error:
        raise BadInput(f"address = {quoted(text)}: {error}; {_FORMS}") from None


def choose_address(text: str | None, *, consul: str | None) -> str:
    """Return the address to announce. ``consul`` is the host of Consul's agent, None behind a unix socket.

    Raise BadInput when this machine has no such address. May block for as long as resolving ``consul`` takes, or an
    engine's answer; so call it beside an event loop, not in it.
    """
    if text is None:
        return str(default_address(interfaces(), route=None if consul is None else route_to(consul)))
    check_form(text)
    kind, _, rest = text.partition(":")
    if is_of_kernel(text):
        return str(_first(candidates(text, interfaces()), text))
    if kind == "env" and rest:
        return _from_environment(rest)
    if kind == "docker":
        # Its library is an extra, which only this way of choosing needs.
        from proxygen.registration.docker import own_address

        return str(_usable(own_address(rest or None)))
    return str(_usable(text))


def is_of_kernel(text: str | None) -> bool:
    """Whether an address is chosen among those that the kernel tells: by default, of an interface or in a network."""
    return text is None or text.startswith("interface:") or "/" in text


def is_written_out(text: str | None) -> bool:
    """Whether the text is the address, and no way to find one."""
    with suppress(ValueError):
        ipaddress.ip_address(text or "")
        return True
    return False


def candidates(text: str | None, found: Iterable[InterfaceAddress]) -> tuple[InterfaceAddress, ...]:
    """Those of the addresses that a text stands for, an interface, a network or nothing, the best first."""
    if text is None:
        reachable = [item for item in found if is_reachable(item.address)]
        return tuple(sorted(reachable, key=lambda item: not item.address.is_private))
    routed = [item for item in found if not item.address.is_link_local]
    if text.startswith("interface:"):
        return tuple(item for item in routed if item.name == text.removeprefix("interface:"))
    network = ipaddress.ip_network(text)
    return tuple(item for item in routed if item.address in network)


def default_address(found: Iterable[InterfaceAddress], *, route: IPAddress | None) -> IPAddress:
    """The address from which Consul's agent is reached, else the first private one, else the first public one."""
    found = tuple(found)
    if route is not None and is_reachable(route):
        return steady(route, found)
    for item in candidates(None, found):
        return item.address
    raise BadInput(f"this machine has no address to announce but loopback; set address: {_FORMS}")


def steady(route: IPAddress, found: Iterable[InterfaceAddress]) -> IPAddress:
    """An address that stays, on the interface of one that the kernel goes out by: that may be a temporary one."""
    found = tuple(found)
    names = {item.name for item in found if item.address == route and item.is_passing}
    lasting = (
        item.address
        for item in found
        if item.name in names and not item.is_passing and item.address.version == 6 and is_reachable(item.address)
    )
    return next(lasting, route)


def route_to(host: str) -> IPAddress | None:
    """Return our own address on the way to a host; nothing is sent. None where there is no way."""
    # A text that can be no host's name is the transport's to complain about.
    with suppress(OSError, UnicodeError):
        for family, kind, protocol, _, target in socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM):
            with suppress(OSError), socket.socket(family, kind, protocol) as probe:
                probe.connect(target)
                return ipaddress.ip_address(probe.getsockname()[0].partition("%")[0])
    return None


def interfaces() -> tuple[InterfaceAddress, ...]:
    """All addresses of this machine: IPv4 first, each in the kernel's order."""
    return (*_ipv4(), *_ipv6())


def _ipv4() -> Iterator[InterfaceAddress]:
    room = array.array("B", bytes(_ROOM))
    start, _ = room.buffer_info()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        answer = fcntl.ioctl(probe.fileno(), _SIOCGIFCONF, struct.pack("iL", _ROOM, start))
    length: int = struct.unpack("iL", answer)[0]
    raw = room.tobytes()[:length]
    for offset in range(0, length, _REQUEST):
        # An alias is called eth0:1.
        name = raw[offset : offset + _NAME].partition(b"\0")[0].decode().partition(":")[0]
        address = offset + _NAME + 4
        yield InterfaceAddress(name, ipaddress.IPv4Address(raw[address : address + 4]))


def _ipv6() -> Iterator[InterfaceAddress]:
    # No file: a kernel without IPv6.
    with suppress(OSError):
        yield from read_inet6(Path("/proc/net/if_inet6").read_text(encoding="ascii"))


def read_inet6(text: str) -> Iterator[InterfaceAddress]:
    """Read ``/proc/net/if_inet6``: those that stay first, and none that the kernel found on another host."""
    fields = [line.split() for line in text.splitlines()]
    for digits, *_, flags, name in sorted(fields, key=lambda each: bool(int(each[4], 16) & _PASSING)):
        if not int(flags, 16) & _DUPLICATE:
            address = ipaddress.IPv6Address(bytes.fromhex(digits))
            yield InterfaceAddress(name, address, is_passing=bool(int(flags, 16) & _PASSING))


def _from_environment(variable: str) -> str:
    value = os.environ.get(variable, "").strip()
    try:
        return str(_usable(value))
    except ValueError as error:
        stated = f"{variable}={quoted(value)}" if value else f"{variable} is not set"
        raise BadInput(f"address = env:{variable}: {stated}: {error}") from None


def _usable(text: str) -> IPAddress:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise ValueError("not an IP address; nginx looks names up only once, so none is announced") from None
    if address.is_unspecified or address.is_multicast or (address.version == 6 and "%" in text):
        raise ValueError("nobody could connect to it")
    return address


def is_reachable(address: IPAddress) -> bool:
    """Whether other machines may reach it."""
    return not (address.is_loopback or address.is_link_local or address.is_unspecified)


def _first(found: Iterable[InterfaceAddress], text: str) -> IPAddress:
    for item in found:
        return item.address
    known = ", ".join(f"{item.name} {item.address}" for item in interfaces())
    raise BadInput(f"address = {text}: this machine has no such address; it has {known}")
