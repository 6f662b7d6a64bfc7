"""Many services in one Consul, all on a few real upstream ports, and the changes that are measured on them."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from tests.bench.upstreams import Upstreams
from tests.harness.consul import ConsulAgent

INSTANCES: Final = ("one", "two", "three")
"""What every service runs, each on a port that all services share."""
NEWCOMER: Final = "newcomer"
CANARY: Final = "canary"
NAMES: Final = (*INSTANCES, NEWCOMER, CANARY)

_NODES: Final = 30
_WRITERS: Final = 8
_SAMPLE: Final = 200
_CANARY_TAG: Final = "proxygen.canary=0%"
_DRAINED_TAG: Final = "proxygen.weight=0"


def host_of(service: str) -> str:
    return f"{service}.example.com"


@dataclass(frozen=True, slots=True)
class Fleet:
    """``size`` services with three instances each, on nodes that no agent owns."""

    consul: ConsulAgent
    upstreams: Upstreams
    size: int

    @property
    def services(self) -> tuple[str, ...]:
        return tuple(f"service-{number:04d}" for number in range(self.size))

    @property
    def sample(self) -> tuple[str, ...]:
        """Some from the first to the last: asking each of thousands would take longer than to serve them."""
        return (*self.services[:: max(1, self.size // _SAMPLE)], self.services[-1])

    def register(self) -> None:
        """Register everything, and a canary with no share yet for each service."""
        entries = [
            self._entry(service, name, number) for number, service in enumerate(self.services) for name in INSTANCES
        ]
        with ThreadPoolExecutor(_WRITERS) as pool:
            list(pool.map(lambda entry: self.consul.put("/v1/catalog/register", entry), entries))

    def _entry(self, service: str, name: str, number: int) -> dict[str, object]:
        port = self.upstreams.ports[name]
        service_id = f"{service}-{name}"
        return {
            "Node": f"bench-{(number + INSTANCES.index(name)) % _NODES:02d}",
            "Address": "127.0.0.1",
            "Service": {
                "ID": service_id,
                "Service": service,
                "Address": "127.0.0.1",
                "Port": port,
                "Tags": [f"proxygen.route={host_of(service)}"],
            },
            # A check named serfHealth would make the leader remove a node without an agent.
            "Check": {"CheckID": f"alive:{service_id}", "Name": "alive", "Status": "passing", "ServiceID": service_id},
        }

    # The changes. The newcomer and the canary belong to the local agent, as a container's registration would.

    def add(self, service: str) -> None:
        self._register_locally(service, NEWCOMER, [f"proxygen.route={host_of(service)}"])

    def drain(self, service: str) -> None:
        """Take the newcomer's weight away."""
        self._register_locally(service, NEWCOMER, [f"proxygen.route={host_of(service)}", _DRAINED_TAG])

    def add_canary(self, service: str) -> None:
        self._register_locally(service, CANARY, [f"proxygen.route={host_of(service)}", _CANARY_TAG])

    def _register_locally(self, service: str, name: str, tags: list[str]) -> None:
        port = self.upstreams.ports[name]
        self.consul.register(service, id=f"{service}-{name}", port=port, tags=tags, status="passing")

    def set_health(self, service: str, status: str) -> None:
        self.consul.set_check(f"{service}-{NEWCOMER}", status)

    def remove(self, service: str, name: str = NEWCOMER) -> None:
        self.consul.deregister(f"{service}-{name}")

    def set_share(self, service: str, share: str) -> None:
        self.consul.put(f"/v1/kv/proxygen/canary/{service}", json.dumps({"canary": share}).encode())

    def unset_share(self, service: str) -> None:
        self.consul.kv_delete(f"proxygen/canary/{service}")
