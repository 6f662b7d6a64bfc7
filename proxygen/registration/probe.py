"""Asking a program from beside it whether it is up: what an entrypoint knows before Consul does."""

from __future__ import annotations

import asyncio
import http.client
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Final
from urllib.parse import SplitResult, urlsplit

from proxygen.catalog import Health
from proxygen.registration.child import Children
from proxygen.registration.health import in_daemon_thread

Probe = Callable[[], Awaitable[Health]]
"""Returns the health, or raises what went wrong."""

_TOO_MANY_REQUESTS: Final = 429


def tcp_probe(host: str, port: int, *, timeout: float) -> Probe:
    """Passing when a connection is accepted."""

    async def probe() -> Health:
        async with asyncio.timeout(timeout):
            _, writer = await asyncio.open_connection(host, port)
        writer.close()
        return Health.PASSING

    return probe


def http_probe(url: str, *, timeout: float) -> Probe:
    """Judged as Consul does: 2xx is passing, 429 a warning."""

    def ask() -> Health:
        status = _status(url, timeout)
        if 200 <= status < 300:
            return Health.PASSING
        if status == _TOO_MANY_REQUESTS:
            return Health.WARNING
        raise ConnectionError(f"{url} answered {status}")

    return lambda: in_daemon_thread(ask)


def command_probe(children: Children, argv: Sequence[str], *, timeout: float) -> Probe:
    """Judged as Consul judges a script: 0 is passing, 1 a warning, anything else critical."""

    async def probe() -> Health:
        code = await children.run(argv, timeout=timeout)
        if code > 1:
            raise RuntimeError(f"{argv[0]} ended with {code}")
        return Health.WARNING if code else Health.PASSING

    return probe


def _connection(parts: SplitResult, timeout: float) -> http.client.HTTPConnection:
    host, port = parts.hostname or "", parts.port
    if parts.scheme != "https":
        return http.client.HTTPConnection(host, port, timeout=timeout)
    # The certificate is for the outside; here only the program on this very port is asked.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection(host, port, timeout=timeout, context=context)


def _status(url: str, timeout: float) -> int:
    parts = urlsplit(url)
    connection = _connection(parts, timeout)
    try:
        connection.request("GET", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""))
        return connection.getresponse().status
    finally:
        connection.close()
