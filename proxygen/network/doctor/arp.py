"""One question to all of a link: who else has this address? As RFC 5227 asks it, which changes nobody's tables."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import Final

# linux/if_ether.h, linux/if_arp.h
_ETHERNET_ARP: Final = 0x0806
_TO_ALL: Final = b"\xff" * 6
_HEADER: Final = struct.pack("!HHBB", 1, 0x0800, 6, 4)
_REQUEST: Final = 1
_PACKET: Final = struct.Struct("!6s6sH6sH6s4s6s4s")

_ASKED: Final = 3
_BETWEEN: Final = 0.3
"""Seconds from one question to the next, and for the last one's answer."""


def who_has(address: IPv4Address, link: str, mac: str) -> frozenset[str]:
    """Return the MACs of other machines that answer for an address of ours. It takes a second. Raise OSError.

    ``mac`` is the link's own. What answers is a machine on the same Ethernet; behind a router nobody hears.
    """
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETHERNET_ARP)) as wire:
        wire.bind((link, _ETHERNET_ARP))
        found: set[str] = set()
        for _ in range(_ASKED):
            wire.send(_question(address, _packed(mac)))
            found.update(_answers(wire, address, until=time.monotonic() + _BETWEEN))
    return frozenset(found - {mac.lower()})


def _question(address: IPv4Address, mac: bytes) -> bytes:
    # No sender's address: nobody shall learn anything from it.
    return _PACKET.pack(_TO_ALL, mac, _ETHERNET_ARP, _HEADER, _REQUEST, mac, bytes(4), bytes(6), address.packed)


def _answers(wire: socket.socket, address: IPv4Address, *, until: float) -> Iterator[str]:
    while (left := until - time.monotonic()) > 0:
        wire.settimeout(left)
        try:
            heard = wire.recv(2048)
        except TimeoutError:
            return
        sender = read_sender(heard, address)
        if sender is not None:
            yield sender


def read_sender(heard: bytes, address: IPv4Address) -> str | None:
    """Return the MAC that claims an address in an ARP packet; None where none does."""
    if len(heard) < _PACKET.size:
        return None
    *_, header, _kind, mac, claimed, _target_mac, _target = _PACKET.unpack(heard[: _PACKET.size])
    if header != _HEADER or claimed != address.packed:
        return None
    return ":".join(f"{byte:02x}" for byte in mac)


def _packed(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))
