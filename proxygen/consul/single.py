"""Single requests to Consul's agent with the standard library alone: what an application needs to register itself.

aiohttp and py-consul, which `consul.client` stands on, cost such an application three times what ``import requests``
costs it (docs/decisions/022). A registration asks its agent a few times in ten seconds, so each request has a
connection of its own, and nothing waits for a change.
"""

from __future__ import annotations

import asyncio
import http.client
import io
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote, urlencode

from proxygen.consul.access import ConsulAccess
from proxygen.consul.address import parse_address
from proxygen.consul.answers import Reply, read_reply, refuse_failure
from proxygen.consul.credentials import TokenSource, tls_context
from proxygen.kit.errors import ConsulUnreachable

_DEADLINE: Final = 15.0
_LONGEST_ANSWER: Final = 64 << 20
"""Bytes. An agent with thousands of services answers with a few million."""


class SingleRequests:
    """Requests that do not wait, each on a connection of its own."""

    def __init__(self, access: ConsulAccess) -> None:
        """Raise SettingsError for an address, a token or a certificate that cannot be used. Reads files."""
        self.address = parse_address(access.address, ssl=access.ssl)
        self._access = access
        self._token = TokenSource(access)
        self._tls = tls_context(access) if self.address.scheme == "https" else None
        self._headers = access.authentication

    @property
    def token_mark(self) -> str:
        """Tells the token of the next request from any other."""
        return self._token.mark

    async def exchange(
        self,
        method: str,
        path: str,
        params: Iterable[tuple[str, object]] = (),
        *,
        data: bytes = b"",
        deadline: float = _DEADLINE,
    ) -> Reply:
        """Send one request, with ``deadline`` seconds for all of it. Raise ConsulUnreachable or AccessDenied for every
        answer that is no answer; a 404 is one."""
        query = urlencode([*params, *self._access.tenancy])
        target = f"{self.address.path}{quote(path, safe='/:')}{'?' if query else ''}{query}"
        reply = await self._token.spend(lambda token: self._send(method, target, data, token, deadline))
        refuse_failure(reply, method=method, path=path, address=str(self.address), hide=self._token.hide)
        return reply

    async def _send(self, method: str, target: str, data: bytes, token: str, deadline: float) -> Reply:
        try:
            async with asyncio.timeout(deadline):
                raw = await self._converse(self._head(method, target, len(data), token) + data)
            return _read(raw, method)
        except TimeoutError as error:
            raise self._unreachable(f"nothing came within {deadline:.0f} s") from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            said = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise self._unreachable(said.splitlines()[0]) from error

    def _unreachable(self, reason: str) -> ConsulUnreachable:
        return ConsulUnreachable(f"Consul at {self.address} does not answer: {self._token.hide(reason)}")

    def _head(self, method: str, target: str, length: int, token: str) -> bytes:
        headers = {
            "Host": self.address.base.partition("://")[2].partition("/")[0],
            "Connection": "close",
            "Accept": "application/json",
            "Content-Length": str(length),
            **self._headers,
            **({"X-Consul-Token": token} if token else {}),
        }
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")

    async def _converse(self, request: bytes) -> bytes:
        """Send, and read to the end of the connection. Its closing waits for nobody: all of the answer is here."""
        reader, writer = await self._connect()
        try:
            writer.write(request)
            parts, length = [], 0
            while part := await reader.read(1 << 16):
                parts.append(part)
                length += len(part)
                if length > _LONGEST_ANSWER:
                    raise ValueError(f"its answer is longer than {_LONGEST_ANSWER >> 20} MiB")
            return b"".join(parts)
        finally:
            writer.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self.address.socket is not None:
            return await asyncio.open_unix_connection(self.address.socket)
        name = self._access.tls_server_name if self._tls is not None else None
        return await asyncio.open_connection(self.address.host, self.address.port, ssl=self._tls, server_hostname=name)


class _Answered:
    """What `http.client` takes for a socket: a whole answer that has been read."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._raw)


def _read(raw: bytes, method: str) -> Reply:
    """Raise HTTPException for what is no answer, or was cut."""
    if not raw:
        raise ValueError("it closed the connection without an answer")
    response = http.client.HTTPResponse(_Answered(raw), method=method)  # type: ignore[arg-type]
    response.begin()
    return read_reply(response.status, dict(response.getheaders()), response.read())
