"""A host's instances of a service: what their containers are called, and what they register as."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Instance:
    """One container."""

    name: str
    """The container's."""
    id: str
    """In Consul. A digest of all that was asked for is part of it, so that an instance of another version, which leaves
    while this one comes, is never taken for it."""
    port: int
    variant: str


def proxygen_instances(
    service: str, host: str, numbers: int, port: int, step: int, asked: object, first: int = 0, variant: str = "stable"
) -> list[dict[str, Any]]:
    """Return so many instances, the first of them on ``port`` + ``first`` times ``step``."""
    release = hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()[:8]
    middle = "" if variant == "stable" else f"-{variant}"
    return [
        asdict(
            Instance(
                name=f"{service}{middle}-{number}",
                id=f"{service}{middle}-{host}-{number}-{release}",
                port=int(port) + int(step) * (first + number),
                variant=variant,
            )
        )
        for number in range(int(numbers))
    ]


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"proxygen_instances": proxygen_instances}
