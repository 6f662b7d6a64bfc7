"""The connections of one listener: a bounded number, so that clients that say nothing take no descriptor from what the
sidecar is there for. aiohttp itself closes those that send no whole request in time."""

from __future__ import annotations

import asyncio
import resource
import socket
import time
from enum import StrEnum
from typing import Final, NoReturn

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from proxygen.kit.log import get_logger
from proxygen.proxy.admin.meter import Meter

RESERVE: Final = 256
"""Descriptors that no admin connection gets: for Consul, files, nginx -t and what else the sidecar opens."""

_LEAST: Final = 8
_PAUSE: Final = 1.0
"""Seconds after a failed accept; what is missing then (descriptors, memory) is not back at once."""
_QUIET: Final = 60.0
"""Seconds in which the same trouble is logged once."""

_log = get_logger(__name__)


class Turned(StrEnum):
    """Why a connection was closed, or not taken."""

    MADE_ROOM = "made_room"
    """It waited for a request for longest when the limit was reached."""
    REFUSED = "refused"
    """The limit was reached, and all others were at work."""
    NOT_ACCEPTED = "not_accepted"
    """The kernel gave none, for want of descriptors or memory."""


class Connections:
    """Accepts connections of one listener. At the limit the one that has been idle for longest makes room."""

    def __init__(self, listener: str, most: int, meter: Meter) -> None:
        """``listener`` is its name in log and metrics. Fewer than ``most`` are taken where the process may open too few
        files."""
        self._listener: Final = listener
        self._meter: Final = meter
        self._most: Final = affordable(most)
        self._idle: Final[dict[web.RequestHandler, None]] = {}
        """Those that wait for a request or write the end of an answer, the longest idle first."""
        self._working: Final[set[web.RequestHandler]] = set()
        self._said: dict[Turned, float] = {}
        meter.watch_connections(listener, lambda: len(self), [why.value for why in Turned])

    def __len__(self) -> int:
        for gone in [each for each in self._idle if each.transport is None]:
            del self._idle[gone]
        return len(self._idle) + len(self._working)

    def middleware(self) -> Middleware:
        """While a request is handled, its connection makes no room for others."""

        @web.middleware
        async def at_work(request: web.Request, handler: Handler) -> web.StreamResponse:
            connection = request.protocol
            self._idle.pop(connection, None)
            self._working.add(connection)
            try:
                return await handler(request)
            finally:
                self._working.discard(connection)
                self._idle[connection] = None

        return at_work

    async def accept(self, listener: socket.socket, server: web.Server) -> NoReturn:
        """Accept from a socket that listens and does not block, until cancelled."""
        # asyncio's own server logs each accept that fails, up to its backlog at a time, and schedules as many retries.
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except ConnectionError:
                continue
            except OSError as error:
                if self._turn(Turned.NOT_ACCEPTED):
                    _log.warning("admin connections not accepted", listener=self._listener, reason=error.strerror)
                await asyncio.sleep(_PAUSE)
                continue
            if len(self) >= self._most and not self._make_room():
                connection.close()
                continue
            try:
                _, protocol = await loop.connect_accepted_socket(server, connection)
            except OSError:
                connection.close()
                continue
            self._idle[protocol] = None

    def _make_room(self) -> bool:
        longest = next(iter(self._idle), None)
        if longest is None or longest.transport is None:
            if self._turn(Turned.REFUSED):
                _log.warning("admin connections refused, all are at work", listener=self._listener, limit=self._most)
            return False
        if self._turn(Turned.MADE_ROOM):
            _log.warning("idle admin connections closed to make room", listener=self._listener, limit=self._most)
        # Not close(): what a client does not read would be waited for.
        longest.transport.abort()
        del self._idle[longest]
        return True

    def _turn(self, why: Turned) -> bool:
        """Count a connection that was closed or not taken, and tell whether the log is due to say so."""
        self._meter.turned_away(self._listener, why)
        now = time.monotonic()
        if now < self._said.get(why, 0.0):
            return False
        self._said[why] = now + _QUIET
        return True


def affordable(most: int) -> int:
    """Return how many connections each of two listeners may have, so that the reserve is left over."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return most if limit == resource.RLIM_INFINITY else max(_LEAST, min(most, (limit - RESERVE) // 2))
