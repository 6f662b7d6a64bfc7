"""What the kernel tells of changes, and which of them may have undone something of ours. Pure."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Network
from typing import Any, Final

from proxygen.network.kernel.messages import PERMANENT, read_destination
from proxygen.network.kernel.state import PROTOCOL

# linux/netlink.h
_REPLACE: Final = 0x100


class Subject(Enum):
    """What it is about."""

    LINK = "link"
    ADDRESS = "address"
    ROUTE = "route"
    NEIGHBOUR = "neighbour"
    """Or an entry of a forwarding table."""
    LOST = "lost"
    """More happened than could be told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelEvent:
    """A change."""

    subject: Subject
    link: int = 0
    is_gone: bool = False
    is_replaced: bool = False
    """A route that took the place of another."""
    is_permanent: bool = False
    """A neighbour that was set for good."""
    protocol: int = 0
    destination: IPv4Network | None = None


LOST: Final = KernelEvent(subject=Subject.LOST)
_DEFAULT: Final = IPv4Network("0.0.0.0/0")


def concerns(event: KernelEvent, *, underlay: int | None, own: Set[int]) -> bool:
    """Tell whether a change may have undone something.

    ``underlay`` is None where it is gone, so that any link may be its successor. Most of what happens on a busy host
    does not matter: containers' links, neighbours of other links, routes of routing daemons.
    """
    match event.subject:
        case Subject.LOST:
            return True
        case Subject.LINK | Subject.ADDRESS:
            return underlay is None or event.link == underlay or event.link in own
        case Subject.NEIGHBOUR:
            return event.link in own and (event.is_gone or not event.is_permanent)
        case Subject.ROUTE:
            if event.destination == _DEFAULT:
                # The underlay may be another now.
                return True
            if event.protocol == PROTOCOL:
                return event.is_gone
            # Whoever replaces a route of ours says so without a word of the one that was there.
            return event.is_replaced


def read_event(message: Any) -> KernelEvent | None:
    """Read one of netlink's; None for what is not listened for."""
    name: str = message["event"]
    gone = name.startswith("RTM_DEL")
    match name[7:]:
        case "LINK":
            return KernelEvent(subject=Subject.LINK, link=message["index"], is_gone=gone)
        case "ADDR":
            return KernelEvent(subject=Subject.ADDRESS, link=message["index"], is_gone=gone)
        case "NEIGH":
            permanent = bool(message["state"] & PERMANENT)
            return KernelEvent(subject=Subject.NEIGHBOUR, link=message["ifindex"], is_gone=gone, is_permanent=permanent)
        case "ROUTE":
            return KernelEvent(
                subject=Subject.ROUTE,
                link=message.get_attr("RTA_OIF") or 0,
                is_gone=gone,
                is_replaced=not gone and bool(message["header"]["flags"] & _REPLACE),
                protocol=message["proto"],
                destination=read_destination(message),
            )
    return None
