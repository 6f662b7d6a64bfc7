"""What members say of themselves, read as what it may be: written by somebody who wants to harm the others. Pure."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from hashlib import sha256
from ipaddress import IPv4Network
from typing import Final

from proxygen.kit.errors import quoted
from proxygen.network.fabric import Member, told

_MAC: Final = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_MULTICAST: Final = 0x01
"""The bit of a MAC's first byte that makes it a group's."""
_LOCAL: Final = 0x02
"""The bit of one that no vendor gave out."""


def derive_mac(host_id: str, vni: int) -> str:
    """Return a host's MAC in an overlay: always the same, so that it outlives reboots and new links."""
    digest = bytearray(sha256(f"{host_id}/{vni}".encode()).digest()[:6])
    digest[0] = digest[0] & ~_MULTICAST | _LOCAL
    return ":".join(f"{byte:02x}" for byte in digest)


def read_vtep(data: Mapping[str, object], vni: int) -> str:
    """Return the MAC that a member says it has in the overlay. Raise ValueError with what is wrong."""
    theirs = data.get("VNI")
    if theirs != vni or isinstance(theirs, bool):
        raise ValueError(f"its VNI is {quoted(str(theirs))}, and the network's is {vni}")
    mac = data.get("VtepMAC")
    if not isinstance(mac, str) or not _MAC.fullmatch(mac.lower()):
        raise ValueError(f"its VtepMAC {quoted(str(mac))} is no MAC")
    if int(mac[:2], 16) & _MULTICAST:
        raise ValueError(f"its VtepMAC {mac} is that of a group")
    if not mac.strip("0:"):
        raise ValueError(f"its VtepMAC {mac} is nobody's")
    return mac.lower()


def read_vteps(members: Iterable[Member], *, vni: int, own_mac: str) -> tuple[dict[IPv4Network, str], list[str]]:
    """Return the MACs of members by subnet, and a problem for each that has none of its own.

    Of several with one MAC it is that of the one whose id it is derived from. Where that is not one, nobody gets it.
    """
    claims: dict[str, list[Member]] = defaultdict(list)
    problems = []
    for member in members:
        try:
            mac = read_vtep(member.backend_data, vni)
            if mac == own_mac:
                raise ValueError(f"its VtepMAC {mac} is this host's")
        except ValueError as error:
            problems.append(told(member, str(error)))
        else:
            claims[mac].append(member)
    found: dict[IPv4Network, str] = {}
    for mac, claimants in claims.items():
        rightful = claimants
        if len(claimants) > 1:
            rightful = [member for member in claimants if derive_mac(member.host_id, vni) == mac]
        if len(rightful) == 1:
            found[rightful[0].subnet] = mac
        others = [member for member in claimants if member.subnet not in found]
        problems += [told(member, f"its VtepMAC {mac} is also that of another host") for member in others]
    return found, problems
