"""The local agent's part of Consul's API: one service, its checks, its maintenance."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol

from proxygen.consul.address import ConsulAddress
from proxygen.consul.answers import Reply
from proxygen.kit.errors import CatalogUnavailable
from proxygen.registration.checks import Status
from proxygen.registration.service import HeldByAgent

_DEADLINE: Final = 5.0
"""The agent is near; one that needs longer is in trouble, and a heartbeat must not wait for it."""


class AgentRequests(Protocol):
    """Requests to one agent: `SingleRequests` of an application, or ``ConsulClient.http`` of one who asks much."""

    @property
    def address(self) -> ConsulAddress:
        """Where the agent is."""
        ...

    @property
    def token_mark(self) -> str:
        """Tells the token of the next request from any other; empty where there is none."""
        ...

    async def exchange(
        self, method: str, path: str, params: Iterable[tuple[str, object]] = (), *, data: bytes = b"", deadline: float
    ) -> Reply:
        """Send one request and return the answer, which may be a 404. Raise CatalogUnavailable."""
        ...


class Agent:
    """What a registration asks of its agent. Everything raises CatalogUnavailable."""

    def __init__(self, requests: AgentRequests) -> None:
        self._http = requests

    @property
    def address(self) -> str:
        """The agent's, for messages."""
        return str(self._http.address)

    @property
    def token_mark(self) -> str:
        """Tells the token of the next request from any other; empty where there is none."""
        return self._http.token_mark

    async def look(self, service_id: str) -> HeldByAgent | None:
        """Return what the agent holds; None where it does not know the service."""
        reply = await self._http.exchange("GET", f"/v1/agent/service/{service_id}", deadline=_DEADLINE)
        if reply.status == 404:
            return None
        own = [("filter", f'ServiceID == "{service_id}"')]
        checks = await self._http.exchange("GET", "/v1/agent/checks", own, deadline=_DEADLINE)
        return HeldByAgent(service=read_answer(reply.body), checks=read_answer(checks.body))

    async def services(self) -> Mapping[str, Mapping[str, Any]]:
        """Return all services of this agent by id."""
        reply = await self._http.exchange("GET", "/v1/agent/services", deadline=_DEADLINE)
        services: Mapping[str, Mapping[str, Any]] = read_answer(reply.body)
        return services

    async def register(self, body: Mapping[str, Any]) -> None:
        """Write a service and the checks in the body; checks that the body leaves out stay."""
        await self._put("/v1/agent/service/register", body=body)

    async def deregister(self, service_id: str) -> None:
        """Remove a service with its checks; one that is not there is no error."""
        await self._put(f"/v1/agent/service/deregister/{service_id}")

    async def deregister_anyones(self, service_id: str, service: Mapping[str, Any]) -> None:
        """Remove a service that another life wrote, as the agent tells it.

        It is written once more before: an agent tells the catalog with the token that wrote an entry, which may be
        revoked, and then forgets the entry while the catalog keeps it.
        """
        if self.token_mark:
            kept = {key: service[key] for key in ("Address", "Port", "Tags", "Meta", "Weights") if service.get(key)}
            await self.register({"ID": service_id, "Name": service["Service"], **kept})
        await self.deregister(service_id)

    async def remove_check(self, check_id: str) -> None:
        """Remove one check, of whichever service."""
        await self._put(f"/v1/agent/check/deregister/{check_id}")

    async def beat(self, check_id: str, status: Status, note: str) -> None:
        """Say how a TTL check stands."""
        await self._put(f"/v1/agent/check/update/{check_id}", body={"Status": status, "Output": note})

    async def set_maintenance(self, service_id: str, *, enable: bool, reason: str = "") -> None:
        """Put a service in maintenance, which is a critical check, or take it out."""
        params = {"enable": "true" if enable else "false", "reason": reason}
        await self._put(f"/v1/agent/service/maintenance/{service_id}", params)

    async def _put(
        self, path: str, params: Mapping[str, str] | None = None, *, body: Mapping[str, Any] | None = None
    ) -> None:
        data = b"" if body is None else json.dumps(body).encode()
        await self._http.exchange("PUT", path, (params or {}).items(), data=data, deadline=_DEADLINE)


def read_answer(body: bytes) -> Any:
    """Read what the agent answered. Raise CatalogUnavailable for what is not JSON, or is nested too deep to be read."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise CatalogUnavailable(f"the agent's answer cannot be read: {error}") from error
