"""Names that nginx's hash tables cannot tell apart: bounded, so that no bucket overflows.

nginx tries sizes for a table until each bucket holds its names (``ngx_hash_init``). Names with one and the same hash
share a bucket at every size, and hosts that do are easily computed: with enough of them nginx builds no table at all,
for anybody. Names that share some sizes only have to be so many that the other bounds stop them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Final

_POINTER: Final = 8
"""Bytes, where nginx needs the most."""

_Place = tuple[str, int]
"""A table, and a name's hash in it."""


def alike(hosts: Iterable[str]) -> frozenset[str]:
    """Return the hosts that share a hash with another one: hardly ever any, unless somebody computed them."""
    first: dict[_Place, str] = {}
    shared: set[_Place] = set()
    known = tuple(hosts)
    for host in known:
        for place, name in _entries(host):
            if first.setdefault(place, name) != name:
                shared.add(place)
    if not shared:
        return frozenset()
    return frozenset(host for host in known if any(place in shared for place, _ in _entries(host)))


def crowded(hosts: Iterable[str], most: int) -> Iterator[str]:
    """Yield the hosts that do not fit into their buckets, ``most`` bytes each, behind those that stand before them.

    One name always fits.
    """
    names: dict[_Place, set[str]] = defaultdict(set)
    for host in hosts:
        new = [(place, name) for place, name in _entries(host) if name not in names[place]]
        if any(names[place] and _bytes(names[place]) + _bytes((name,)) > most for place, name in new):
            yield host
            continue
        for place, name in new:
            names[place].add(name)


@lru_cache(maxsize=65_536)
def _entries(host: str) -> tuple[tuple[_Place, str], ...]:
    """What nginx keeps of a host: the whole name, or one label in each of the nested tables of a wildcard."""
    if not host.startswith("*."):
        return ((("", key(host)), host),)
    labels = host.removeprefix("*.").split(".")
    return tuple(
        ((f"*.{'.'.join(labels[depth + 1 :])}", key(label)), label) for depth, label in reversed([*enumerate(labels)])
    )


def key(name: str) -> int:
    """Return ``ngx_hash_key`` of a name in lower case, of 32 bits: names that share one of 64 bits share this too."""
    found = 0
    for byte in name.encode():
        found = (found * 31 + byte) & 0xFFFF_FFFF
    return found


def _bytes(names: Iterable[str]) -> int:
    """``NGX_HASH_ELT_SIZE`` of each."""
    return sum(_POINTER + -(-(len(name) + 2) // _POINTER) * _POINTER for name in names)
