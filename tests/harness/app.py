"""Upstreams that answer with their own name: HTTP, WebSocket, TCP and UDP.

All of them live on one event loop in a thread of their own, so that a busy or blocking test never slows them.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import Coroutine
from functools import cache
from typing import Any, Self, TypeVar, cast

from aiohttp import ClientWebSocketResponse, WSMsgType, web

from tests.harness.ports import free_port

T = TypeVar("T")


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="upstreams", daemon=True).start()
    return loop


def _wait_for(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run_coroutine_threadsafe(work, _loop()).result(20)


class _CountingServer(web.Server):
    accepted = 0

    def __call__(self) -> web.RequestHandler:
        self.accepted += 1
        return super().__call__()


class App:
    """An instance of a service. It answers with JSON about the request, and ``X-Instance: NAME``.

    ``status`` and ``delay`` (seconds) may be set at any time; a request overrides them by the query parameters of
    the same names. A WebSocket handshake gets an echo; the first message it receives is the app's name.
    """

    def __init__(self, name: str, *, port: int | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.name = name
        self.host = "127.0.0.1"
        self.port = port or free_port()
        self.status = 200
        self.delay = 0.0
        self.requests = 0
        self._tls = tls
        self._server: _CountingServer | None = None
        self._listener: asyncio.Server | None = None

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def connections(self) -> int:
        """How many connections were accepted since `start`."""
        return self._server.accepted if self._server else 0

    def start(self) -> Self:
        _wait_for(self._start())
        return self

    def stop(self) -> None:
        """Stop listening and cut what is open, as a container that dies."""
        _wait_for(self._stop())

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def _start(self) -> None:
        self._server = _CountingServer(self._answer, access_log=None)
        self._listener = await asyncio.get_running_loop().create_server(
            self._server, self.host, self.port, ssl=self._tls, backlog=1024
        )

    async def _stop(self) -> None:
        if self._listener is not None and self._server is not None:
            self._listener.close()
            # aiohttp takes 0 for "wait for ever".
            await self._server.shutdown(0.01)
            self._listener = None

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.requests += 1
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._echo(request)
        body = await request.text()
        delay = float(request.query.get("delay", self.delay))
        if delay:
            await asyncio.sleep(delay)
        answer = {
            "name": self.name,
            "method": request.method,
            "path": request.raw_path,
            "version": f"{request.version.major}.{request.version.minor}",
            "headers": {key.lower(): value for key, value in request.headers.items()},
            "body": body,
        }
        return web.Response(
            status=int(request.query.get("status", self.status)),
            body=json.dumps(answer).encode(),
            content_type="application/json",
            headers={"X-Instance": self.name},
        )

    async def _echo(self, request: web.BaseRequest) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_str(self.name)
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                await socket.send_str(message.data)
            elif message.type is WSMsgType.BINARY:
                await socket.send_bytes(message.data)
        return socket


class TcpEcho:
    """A TCP server that sends ``NAME\\n`` first and then whatever it receives."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = free_port()
        self._listener: asyncio.Server | None = None

    def __enter__(self) -> Self:
        self._listener = _wait_for(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        assert self._listener is not None
        _loop().call_soon_threadsafe(self._listener.close)

    async def _start(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"{self.name}\n".encode())
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            return
        finally:
            writer.close()


class UdpEcho:
    """A UDP server that answers each datagram with ``NAME:`` and the datagram."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = free_port()
        self._transport: asyncio.DatagramTransport | None = None

    def __enter__(self) -> Self:
        self._transport = _wait_for(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        assert self._transport is not None
        _loop().call_soon_threadsafe(self._transport.close)

    async def _start(self) -> asyncio.DatagramTransport:
        loop = asyncio.get_running_loop()
        prefix = f"{self.name}:".encode()
        transport, _ = await loop.create_datagram_endpoint(
            lambda: _Datagrams(prefix), local_addr=("127.0.0.1", self.port)
        )
        return transport


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, prefix: bytes) -> None:
        self._prefix = prefix
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        assert self._transport is not None
        self._transport.sendto(self._prefix + data, addr)


async def echoes(socket: ClientWebSocketResponse) -> bool:
    """Whether a WebSocket to an app still brings back what is sent."""
    try:
        await socket.send_str("hello")
        return await socket.receive_str(timeout=10) == "hello"
    except (OSError, TypeError, TimeoutError):
        # TypeError: a closing frame came instead of a text.
        return False
