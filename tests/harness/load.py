"""A bounded load generator: what was answered by whom, and what failed how."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

Headers = Mapping[str, str]


@dataclass(slots=True, kw_only=True)
class Tally:
    """The count of one load. It may be read while the load runs."""

    by_instance: Counter[str] = field(default_factory=Counter)
    """Good answers (2xx) by the ``X-Instance`` header."""
    failures: Counter[str] = field(default_factory=Counter)
    """By kind: ``status 503``, or the name of the error on the connection."""
    retried: int = 0
    """Requests sent again because a *reused* connection was closed before a byte of the answer came."""
    seconds: float = 0.0

    @property
    def ok(self) -> int:
        return self.by_instance.total()

    @property
    def failed(self) -> int:
        return self.failures.total()

    @property
    def total(self) -> int:
        return self.ok + self.failed

    def share(self, is_counted: Callable[[str], bool]) -> float:
        """Return the part of the good answers that came from matching instances, 0 to 1."""
        counted = sum(count for name, count in self.by_instance.items() if is_counted(name))
        return counted / self.ok if self.ok else 0.0


class Load:
    """Clients that send GET requests to one address, one after the other, until a count or `stop` is reached.

    ``retry`` sends a request once more when a reused connection turns out to be closed, as browsers do.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        path: str = "/",
        headers: Headers = MappingProxyType({}),
        clients: int = 8,
        keepalive: bool = False,
        retry: bool = False,
        pause: float = 0.0,
        timeout: float = 10.0,
    ) -> None:
        self._address = (host, port)
        self._clients = clients
        self._keepalive = keepalive
        self._retry = retry
        self._pause = pause
        self._timeout = timeout
        self._request = _request(path, {"Host": f"{host}:{port}", **headers}, keepalive)
        self._left = 0
        self._counted = asyncio.Event()
        self.tally = Tally()

    async def send(self, requests: int) -> Tally:
        """Send so many requests in all and return the tally."""
        self._left = requests
        begin = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number in range(self._clients):
                group.create_task(self._client(), name=f"load client {number}")
        self.tally.seconds += time.perf_counter() - begin
        return self.tally

    async def send_for(self, seconds: float) -> Tally:
        """Send until the time is over; at most a million requests."""
        asyncio.get_running_loop().call_later(seconds, self.stop)
        return await self.send(1_000_000)

    async def until_more(self, requests: int) -> None:
        """Wait until so many more were answered, or failed, while another task of this loop sends."""
        wanted = self.tally.total + requests
        async with asyncio.timeout(60):
            while self.tally.total < wanted:
                self._counted.clear()
                await self._counted.wait()

    def stop(self) -> None:
        """Let each client finish its request and end."""
        self._left = 0

    async def _client(self) -> None:
        connection: _Connection | None = None
        while self._left > 0:
            self._left -= 1
            connection = await self._one(connection)
            self._counted.set()
            if self._pause:
                await asyncio.sleep(self._pause)
        if connection is not None:
            connection.close()

    async def _one(self, connection: _Connection | None) -> _Connection | None:
        """Send one request and count it; return the connection where it may be used again."""
        reused = connection is not None
        try:
            async with asyncio.timeout(self._timeout):
                connection = connection or await _Connection.open(*self._address)
                status, instance, stays = await connection.ask(self._request)
        except (OSError, EOFError, ValueError) as error:
            if connection is not None:
                connection.close()
                if reused and self._retry and not connection.answered:
                    self.tally.retried += 1
                    return await self._one(None)
            self.tally.failures[type(error).__name__] += 1
            return None
        if 200 <= status < 300:
            self.tally.by_instance[instance] += 1
        else:
            self.tally.failures[f"status {status}"] += 1
        if stays and self._keepalive:
            return connection
        connection.close()
        return None


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.answered = False
        """Whether the last request saw the first line of an answer."""

    @classmethod
    async def open(cls, host: str, port: int) -> _Connection:
        return cls(*await asyncio.open_connection(host, port))

    async def ask(self, request: bytes) -> tuple[int, str, bool]:
        """Return status, answering instance, and whether the connection stays open."""
        self.answered = False
        self._writer.write(request)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        self.answered = True
        first, *lines = head.split("\r\n")
        headers = {key.strip().lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        if headers.get("transfer-encoding") == "chunked":
            await self._skip_chunks()
        elif "content-length" in headers:
            await self._reader.readexactly(int(headers["content-length"]))
        else:
            await self._reader.read()
        stays = headers.get("connection", "").lower() != "close" and "content-length" in headers
        return int(first.split()[1]), headers.get("x-instance", ""), stays

    async def _skip_chunks(self) -> None:
        while size := int((await self._reader.readline()).split(b";")[0], 16):
            await self._reader.readexactly(size + 2)
        await self._reader.readuntil(b"\r\n")

    def close(self) -> None:
        self._writer.close()


def _request(path: str, headers: Headers, keepalive: bool) -> bytes:
    lines = [f"GET {path} HTTP/1.1", *(f"{key}: {value}" for key, value in headers.items())]
    lines.append(f"Connection: {'keep-alive' if keepalive else 'close'}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def fetch(host: str, port: int, path: str = "/", headers: Headers = MappingProxyType({})) -> tuple[int, str]:
    """Send one GET on a new connection and return the status and the answering instance."""
    connection = await _Connection.open(host, port)
    try:
        status, instance, _ = await connection.ask(_request(path, {"Host": host, **headers}, keepalive=False))
    finally:
        connection.close()
    return status, instance
