"""What Consul knows, as typed values: the catalog, its services and their instances.

Nothing here has been judged yet: an address or a tag is still the text that Consul held. ``plan`` turns
texts into typed values and is the only place that believes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import NewType

ServiceName = NewType("ServiceName", str)


class Health(StrEnum):
    """The worst of an instance's checks and its node's, as Consul's DNS would judge them."""

    PASSING = "passing"
    WARNING = "warning"
    CRITICAL = "critical"
    MAINTENANCE = "maintenance"


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One registration of a service on one node."""

    service: ServiceName
    id: str
    """Consul's ServiceID; unique per node only."""
    node: str
    datacenter: str
    address: str
    """``Service.Address``, or the node's where that is empty; any text, not yet judged."""
    port: int
    """As registered; 0 and -1 occur in the wild."""
    tags: tuple[str, ...] = ()
    """In Consul's order."""
    meta: tuple[tuple[str, str], ...] = ()
    """Sorted by key."""
    health: Health = Health.PASSING
    unchecked: bool = False
    """Critical only because its agent has not run its checks since it started; see `proxygen.proxy.guard.unchecked`."""
    speaks: bool = False
    """Whether its agent tells the outputs of its checks."""
    weight_passing: int = 1
    weight_warning: int = 1
    create_index: int = 0
    modify_index: int = 0

    @property
    def key(self) -> tuple[str, str]:
        """The identity of an instance: node and id (an id alone may occur on two agents)."""
        return (self.node, self.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """The watched part of Consul at one moment.

    A service that maps to ``()`` was *observed* to have no instances; a service that is missing was never
    observed. Only the first may empty an upstream.
    """

    datacenter: str
    services: Mapping[ServiceName, tuple[Instance, ...]]
    """Instances sorted by (node, id)."""
    overrides: Mapping[ServiceName, str] = field(default_factory=lambda: MappingProxyType({}))
    """The raw value of ``proxygen/canary/SERVICE`` in KV, by service."""
    index: int = 0
    """X-Consul-Index of catalog/services. It falls only where a consistent read shows that Consul's store counts from
    lower than before: it was wiped, or restored from an older snapshot."""
    elsewhere: Mapping[str, Mapping[ServiceName, tuple[Instance, ...]]] = field(
        default_factory=lambda: MappingProxyType({})
    )
    """By other datacenter the instances of the services that name it for their failover; ``()`` and missing mean the
    same as above."""
