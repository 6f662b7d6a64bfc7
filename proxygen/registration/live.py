"""Changing the proxy tags of a registration that is live on the local agent, and nothing else of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

_KEPT: Final = {
    "ID": "ID",
    "Service": "Name",
    "Kind": "Kind",
    "Meta": "Meta",
    "Port": "Port",
    "SocketPath": "SocketPath",
    "Address": "Address",
    "TaggedAddresses": "TaggedAddresses",
    "Weights": "Weights",
    "EnableTagOverride": "EnableTagOverride",
    "Proxy": "Proxy",
    "Connect": "Connect",
    "Locality": "Locality",
    "Namespace": "Namespace",
    "Partition": "Partition",
}
"""What ``/v1/agent/service/ID`` tells and a registration takes, under the registration's names."""


def merge_tags(
    tags: Sequence[str], *, set_to: Mapping[str, Sequence[str]], removed: Sequence[str], prefix: str
) -> tuple[str, ...]:
    """Return ``tags`` with the values of some proxy keys replaced; every other tag stays where it was.

    ``set_to`` holds all values of a key, in order. A replaced key keeps the place of its first tag.
    """
    merged: list[str] = []
    pending = {key: [f"{prefix}.{key}={value}" for value in values] for key, values in set_to.items()}
    for tag in tags:
        key = tag.partition("=")[0].removeprefix(f"{prefix}.") if tag.startswith(f"{prefix}.") else None
        if key in set_to:
            merged += pending.pop(key, [])
        elif key is None or key not in removed:
            merged.append(tag)
    return (*merged, *(tag for group in pending.values() for tag in group))


def registration_with(service: Mapping[str, Any], tags: Sequence[str]) -> dict[str, Any]:
    """Return the body for ``/v1/agent/service/register`` that changes a live service's tags and nothing else.

    No ``Check`` or ``Checks``: Consul keeps the checks it has, with their status, unless it is asked to
    replace them (``replace-existing-checks``).
    """
    kept = {name: service[key] for key, name in _KEPT.items() if service.get(key) not in (None, "", {})}
    return {**kept, "Tags": list(tags)}
