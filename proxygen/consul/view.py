"""What has been observed so far, and the catalog that is made of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from proxygen.catalog import Catalog, Instance, ServiceName
from proxygen.kit.aio import Latest

_RETIRED_FOR: Final = 600.0
"""Seconds that a service which is gone stays in the catalog as observed empty. The slot may skip catalogs, and
whoever reads it must see the service empty at least once: a service that is missing was never observed."""


class ObservedView:
    """Observations by service. Puts a catalog into the slot when it was opened and the content is another."""

    def __init__(self, datacenter: str, into: Latest[Catalog]) -> None:
        self.datacenter: Final = datacenter
        self._into = into
        self._services: dict[ServiceName, tuple[Instance, ...]] = {}
        self._nodes: dict[str, set[ServiceName]] = {}
        """The services by the nodes that they have instances on."""
        self._overrides: dict[ServiceName, str] = {}
        self._elsewhere: dict[str, dict[ServiceName, tuple[Instance, ...]]] = {}
        self._retired: dict[ServiceName, float] = {}
        self.is_open = False
        """Whether the catalog is shown."""
        self.index = 0
        """X-Consul-Index of catalog/services that the observations stand for; see `Catalog.index`."""

    def __contains__(self, name: str) -> bool:
        return name in self._services

    def instances(self, name: str) -> tuple[Instance, ...]:
        """Empty for a service that was observed empty, and for one that was never observed."""
        return self._services.get(ServiceName(name), ())

    @property
    def overrides(self) -> Mapping[ServiceName, str]:
        """The texts in KV as they are, not yet parsed."""
        return self._overrides

    def services_on(self, node: str) -> set[str]:
        """Return the services that have an instance on the node."""
        return set(self._nodes.get(node, ()))

    def instances_on(self, node: str) -> list[Instance]:
        """Those of all observed services on one node."""
        return [one for name in self._nodes.get(node, ()) for one in self._services[name] if one.node == node]

    def observe(self, name: str, instances: tuple[Instance, ...]) -> bool:
        """Take in what a service looks like now; return whether that is new."""
        service = ServiceName(name)
        self._retired.pop(service, None)
        before = self._replace(service, instances)
        if before is not None and _content(before) == _content(instances):
            return False
        self._publish()
        return True

    def count(self, index: int) -> None:
        """Note an index of catalog/services, by whichever server: one that lags behind counts for nothing."""
        self.index = max(self.index, index)

    def recount(self, index: int, *, known: int) -> None:
        """Note the index of a consistent read, and what was `index` when that read began.

        Only a store that lost its past can then be below it.
        """
        self.index = index if index < known else max(self.index, index)

    def _replace(self, service: ServiceName, instances: tuple[Instance, ...]) -> tuple[Instance, ...] | None:
        before = self._services.get(service)
        for node in {instance.node for instance in before or ()}:
            self._nodes[node].discard(service)
            if not self._nodes[node]:
                del self._nodes[node]
        for instance in instances:
            self._nodes.setdefault(instance.node, set()).add(service)
        self._services[service] = instances
        return before

    def retire(self, name: str) -> None:
        """Let go of a service that is no longer routed, after some time."""
        self._retired[ServiceName(name)] = time.monotonic()

    def observe_overrides(self, overrides: dict[ServiceName, str]) -> None:
        """Take all of them; publish only where one differs."""
        if overrides != self._overrides:
            self._overrides = overrides
            self._publish()

    def instances_elsewhere(self, datacenter: str, name: str) -> tuple[Instance, ...] | None:
        """Return what was last seen of a service in another datacenter; None before it was seen."""
        return self._elsewhere.get(datacenter, {}).get(ServiceName(name))

    def observe_elsewhere(self, datacenter: str, name: str, instances: tuple[Instance, ...]) -> bool:
        """Take in what a service looks like in another datacenter; return whether that is new."""
        before = self.instances_elsewhere(datacenter, name)
        self._elsewhere.setdefault(datacenter, {})[ServiceName(name)] = instances
        if before is not None and _content(before) == _content(instances):
            return False
        self._publish()
        return True

    def forget_elsewhere(self, datacenter: str, name: str) -> None:
        """Let go of a service that no longer names the datacenter."""
        self._elsewhere.get(datacenter, {}).pop(ServiceName(name), None)

    def open(self) -> None:
        """Everything that is routed has been observed: show the catalog from now on."""
        if not self.is_open:
            self.is_open = True
            self._publish()

    def _publish(self) -> None:
        if not self.is_open:
            return
        now = time.monotonic()
        for name in [name for name, since in self._retired.items() if now - since > _RETIRED_FOR]:
            del self._retired[name]
            self._replace(name, ())
            self._services.pop(name, None)
        self._into.put(
            Catalog(
                datacenter=self.datacenter,
                services=MappingProxyType(dict(self._services)),
                overrides=MappingProxyType(dict(self._overrides)),
                index=self.index,
                elsewhere=MappingProxyType(
                    {name: MappingProxyType(dict(found)) for name, found in self._elsewhere.items() if found}
                ),
            )
        )


def _content(instances: tuple[Instance, ...]) -> tuple[Instance, ...]:
    """Return the instances without the index that says when, not what."""
    return tuple(replace(instance, modify_index=0) for instance in instances)
