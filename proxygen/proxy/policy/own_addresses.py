"""The addresses of this host, as Linux lists them: no library of Python's tells them all."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Final

_NET: Final = Path("/proc/net")

_LOCAL: Final = re.compile(r"/([0-9]+) host LOCAL")
"""In ``fib_trie`` below its address; wider than /32 where the host answers at a whole network, such as 127.0.0.0/8."""


def read_own_addresses(net: Path = _NET) -> frozenset[IPv4Network | IPv6Network]:
    """Read the addresses, and networks, at which this network namespace answers.

    Raise OSError where they cannot be read. Link-local addresses of IPv6 are left out: they come and go with each
    container, and nginx reaches none of them, for it knows no zones.
    """
    fourth = (net / "fib_trie").read_text()
    sixth = (net / "if_inet6").read_text() if (net / "if_inet6").exists() else ""
    return frozenset((*local_ipv4(fourth), *local_ipv6(sixth)))


def local_ipv4(fib_trie: str) -> Iterator[IPv4Network]:
    address = ""
    for line in fib_trie.splitlines():
        text = line.strip()
        if text.startswith("|-- "):
            address = text.removeprefix("|-- ")
        elif match := _LOCAL.fullmatch(text):
            yield IPv4Network(f"{address}/{match[1]}")


def local_ipv6(if_inet6: str) -> Iterator[IPv6Network]:
    """One address in each line, as 32 digits."""
    found = (IPv6Network(int(line.split()[0], 16)) for line in if_inet6.splitlines())
    yield from (network for network in found if not network.is_link_local)
