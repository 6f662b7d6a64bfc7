"""Asking the running sidecar: over its unix socket, or over TCP where there is none."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec
from yarl import URL

from proxygen.kit.errors import Refused, SidecarUnavailable
from proxygen.proxy.admin.place import reachable, socket_path
from proxygen.proxy.admin.report import ApplyReport, GenerationReport, StatusReport
from proxygen.proxy.admin.service_report import ServiceDetail, ServiceSummary
from proxygen.proxy.admin.stream import HEARTBEAT
from proxygen.proxy.record.events import Event
from proxygen.settings import AdminSettings

T = TypeVar("T")

_CONNECT: Final = 5.0
_ANSWER: Final = 10.0
_DATA: Final = b"data: "
_CHANGE: Final = 120.0
"""A rollback waits for draining workers and for the proof."""


class AdminClient:
    """The admin API of one sidecar. Every call raises SidecarUnavailable or Refused."""

    def __init__(self, session: aiohttp.ClientSession, place: str) -> None:
        self._session = session
        self._place = place

    async def status(self) -> StatusReport:
        return await self._call("GET", "/api/v1/status", StatusReport)

    async def services(self) -> tuple[ServiceSummary, ...]:
        return await self._call("GET", "/api/v1/services", tuple[ServiceSummary, ...])

    async def service(self, name: str) -> ServiceDetail | None:
        """Return None where no such service is routed."""
        path = URL(f"/api/v1/services/{quote(name, safe='')}", encoded=True)
        status, content = await self._ask("GET", path)
        if status == 404:
            return None
        if status != 200:
            raise SidecarUnavailable(f"the sidecar at {self._place} answered {status}: {_error_text(content)}")
        return self._decode(content, ServiceDetail)

    async def generations(self) -> tuple[GenerationReport, ...]:
        return await self._call("GET", "/api/v1/generations", tuple[GenerationReport, ...])

    async def events(self) -> AsyncIterator[Event]:
        """Follow what happens, from the oldest event that is kept, until the sidecar ends."""
        try:
            patience = aiohttp.ClientTimeout(sock_connect=_CONNECT, sock_read=3 * HEARTBEAT)
            async with self._session.get("/api/v1/events", timeout=patience) as response:
                if response.status != 200:
                    raise SidecarUnavailable(f"the sidecar at {self._place} answered {response.status}")
                async for line in response.content:
                    if line.startswith(_DATA):
                        yield msgspec.json.decode(line[len(_DATA) :], type=Event)
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError, msgspec.DecodeError) as error:
            raise SidecarUnavailable(f"the events of {self._place} ended ({_reason(error)})") from error

    async def rollback(self, number: int | None) -> ApplyReport:
        """None goes back to the generation before the live one."""
        return await self._call("POST", "/api/v1/rollback", ApplyReport, body={"generation": number})

    async def release_hold(self) -> ApplyReport:
        return await self._call("POST", "/api/v1/release-hold", ApplyReport)

    async def _call(self, method: str, path: str, shape: type[T], *, body: object = None) -> T:
        status, content = await self._ask(method, path, body=body)
        if status == 409:
            raise Refused(_error_text(content))
        if status != 200:
            raise SidecarUnavailable(f"the sidecar at {self._place} answered {status}: {_error_text(content)}")
        return self._decode(content, shape)

    async def _ask(self, method: str, path: str | URL, *, body: object = None) -> tuple[int, bytes]:
        try:
            connect = aiohttp.ClientTimeout(sock_connect=_CONNECT)
            async with (
                # Not aiohttp's total: see `proxygen.consul.client`.
                asyncio.timeout(_ANSWER if method == "GET" else _CHANGE),
                self._session.request(method, path, json=body, timeout=connect) as response,
            ):
                return response.status, await response.read()
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise SidecarUnavailable(f"no sidecar answers at {self._place} ({_reason(error)})") from error

    def _decode(self, content: bytes, shape: type[T]) -> T:
        try:
            return msgspec.json.decode(content, type=shape)
        except msgspec.DecodeError as error:
            raise SidecarUnavailable(f"the sidecar at {self._place} speaks another version: {error}") from error


@asynccontextmanager
async def connect(settings: AdminSettings, output: Path) -> AsyncIterator[AdminClient]:
    """Open the way to the sidecar: its unix socket where that exists, else ``admin.listen`` with the token."""
    path = socket_path(settings, output)
    connector: aiohttp.BaseConnector
    headers: dict[str, str] = {}
    with ExitStack() as stack:
        if _exists(path):
            connector = aiohttp.UnixConnector(stack.enter_context(reachable(path)))
            base, place = "http://localhost", f"unix:{path}"
        elif settings.listen == "off":
            raise SidecarUnavailable(
                f"no sidecar answers: {path} does not exist and admin.listen is off; is it running?"
            )
        else:
            connector, base, place = aiohttp.TCPConnector(), f"http://{settings.listen}", settings.listen
            if settings.token is not None:
                headers["Authorization"] = f"Bearer {settings.token.get_secret_value()}"
        async with aiohttp.ClientSession(base, connector=connector, headers=headers) as session:
            yield AdminClient(session, place)


def _exists(path: Path) -> bool:
    try:
        return path.is_socket()
    except PermissionError as error:
        raise SidecarUnavailable(f"the admin socket {path} is not yours to use; run as the sidecar's user") from error


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "it took too long"
    number = getattr(error, "errno", None)
    return os.strerror(number) if number else str(error) or type(error).__name__


def _error_text(content: bytes) -> str:
    try:
        body: Any = msgspec.json.decode(content)
        return str(body["error"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return "no reason given"
