"""Services on a node without an agent, as external services have them: no server that dies takes their health along."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from tests.harness.consul import ConsulAgent

_MAX_OPERATIONS: Final = 64
"""Of one transaction, in Consul before 1.14."""


class OutsideNode:
    """One node of the catalog, written through whichever of the agents answers.

    While there is no leader nobody does, and a write is repeated for ``patience`` seconds.
    """

    def __init__(self, agents: Sequence[ConsulAgent], name: str = "outside", *, patience: float = 60.0) -> None:
        self.name = name
        self._agents = tuple(agents)
        self._patience = patience
        self._services: dict[str, str] = {}

    def register(self, service: str, port: int, *tags: str, status: str = "passing") -> str:
        """Register an instance with one check and tags without their prefix; return its ServiceID."""
        service_id = f"{service}-{port}"
        self._services[service_id] = service
        self._write(
            "/v1/catalog/register",
            {
                "Node": self.name,
                "Address": "127.0.0.1",
                "Service": {
                    "Service": service,
                    "ID": service_id,
                    "Address": "127.0.0.1",
                    "Port": port,
                    "Tags": [f"proxygen.{tag}" for tag in tags],
                },
                "Checks": [self._check(service_id, status)],
            },
        )
        return service_id

    def register_many(self, services: Mapping[str, int], tags: Callable[[str], Sequence[str]]) -> None:
        """Register one instance without a check of each service at its port, with the tags of its name."""
        self._write("/v1/catalog/register", {"Node": self.name, "Address": "127.0.0.1"})
        operations = [
            {
                "Service": {
                    "Verb": "set",
                    "Node": self.name,
                    "Service": {
                        "Service": name,
                        "ID": f"{name}-{port}",
                        "Address": "127.0.0.1",
                        "Port": port,
                        "Tags": [f"proxygen.{tag}" for tag in tags(name)],
                    },
                }
            }
            for name, port in services.items()
        ]
        for first in range(0, len(operations), _MAX_OPERATIONS):
            self._write("/v1/txn", operations[first : first + _MAX_OPERATIONS])

    def deregister(self, service_id: str) -> None:
        del self._services[service_id]
        self._write("/v1/catalog/deregister", {"Node": self.name, "ServiceID": service_id})

    def set_checks(self, statuses: Mapping[str, str], *, output: str = "") -> None:
        """Set the checks of so many instances in as few transactions as Consul allows.

        Unlike an agent, which keeps a check's ``output`` to itself for minutes, this moves the index at once.
        """
        operations = [
            {"Check": {"Verb": "set", "Check": {**self._check(service_id, status), "Output": output}}}
            for service_id, status in statuses.items()
        ]
        for first in range(0, len(operations), _MAX_OPERATIONS):
            self._write("/v1/txn", operations[first : first + _MAX_OPERATIONS])

    def _check(self, service_id: str, status: str) -> dict[str, str]:
        return {
            "Node": self.name,
            "CheckID": f"check:{service_id}",
            "Name": "alive",
            "ServiceID": service_id,
            "ServiceName": self._services[service_id],
            "Status": status,
        }

    def _write(self, path: str, body: object) -> Any:
        deadline = time.monotonic() + self._patience
        while True:
            for agent in self._agents:
                # RuntimeError: it answered, and without a leader, such as "rpc error" in the middle of an election.
                with contextlib.suppress(OSError, RuntimeError):
                    return agent.put(path, body)
            if time.monotonic() > deadline:
                raise TimeoutError(f"no agent took {path} within {self._patience:g} s")
            time.sleep(0.1)
