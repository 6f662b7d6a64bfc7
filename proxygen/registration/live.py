"""Changing the proxy tags of a registration that is live on the local agent, and nothing else of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from proxygen.kit.errors import BadInput
from proxygen.registration.agent import read_answer
from proxygen.tags import lint_tags

if TYPE_CHECKING:
    from proxygen.consul.client import ConsulClient

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


@dataclass(frozen=True, slots=True, kw_only=True)
class TagChange:
    """A service's tags before and after; equal where nothing had to be sent."""

    before: tuple[str, ...]
    after: tuple[str, ...]


def merge_tags(
    tags: Sequence[str], *, set_to: Mapping[str, Sequence[str]], removed: Sequence[str], prefix: str
) -> tuple[str, ...]:
    """Return ``tags`` with the values of some proxy keys replaced; every other tag stays where it was.

    ``set_to`` holds all values of a key, in order. A replaced key keeps the place of its first tag.
    """
    merged: list[str] = []
    pending = {key: [f"{prefix}.{key}={value}" for value in values] for key, values in set_to.items()}
    for tag in tags:
        # A tag of somebody else's has no key of ours, and no key is empty.
        key = tag.partition("=")[0].removeprefix(f"{prefix}.") if tag.startswith(f"{prefix}.") else ""
        if key in set_to:
            merged += pending.pop(key, [])
        elif key not in removed:
            merged.append(tag)
    return (*merged, *(tag for group in pending.values() for tag in group))


def registration_with(service: Mapping[str, Any], tags: Sequence[str]) -> dict[str, Any]:
    """Return the body for ``/v1/agent/service/register`` that changes a live service's tags and nothing else.

    No ``Check`` or ``Checks``: Consul keeps the checks it has, with their status, unless it is asked to
    replace them (``replace-existing-checks``).
    """
    kept = {name: service[key] for key, name in _KEPT.items() if service.get(key) not in (None, "", {})}
    return {**kept, "Tags": list(tags)}


async def set_tags(
    client: ConsulClient, service_id: str, *, set_to: Mapping[str, Sequence[str]], removed: Sequence[str], prefix: str
) -> TagChange:
    """Change the proxy tags of a service of the local agent; where they are so already, nothing is sent.

    Raise BadInput for a service that the agent does not have, TagError for tags that would not be valid together;
    then nothing was sent either.
    """
    service = await _read(client, service_id)
    before = tuple(service.get("Tags") or ())
    after = merge_tags(before, set_to=set_to, removed=removed, prefix=prefix)
    problems = lint_tags(after, sorted((service.get("Meta") or {}).items()), prefix)
    if problems:
        raise problems[0]
    if after != before:
        body = json.dumps(registration_with(service, after)).encode()
        await client.http.exchange("PUT", "/v1/agent/service/register", data=body)
    return TagChange(before=before, after=after)


async def _read(client: ConsulClient, service_id: str) -> Mapping[str, Any]:
    reply = await client.http.exchange("GET", f"/v1/agent/service/{service_id}")
    if reply.status == 404:
        raise BadInput(
            f"the agent at {client.http.address} has no service with the id {service_id!r}; "
            "ids, not names, and only of services registered on this very agent"
        )
    service: Mapping[str, Any] = read_answer(reply.body)
    return service
