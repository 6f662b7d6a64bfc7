"""The one door to Consul: py-consul's API objects over our own aiohttp transport.

py-consul's stock transport queues silently past 100 connections, cuts long polls at 300 s and hides the response
headers, so its ``http_connect`` hook returns a `Transport`. Watches call `ConsulClient.read`, which returns the
headers too. Nothing else in the project opens a connection to Consul.
"""

from __future__ import annotations

import asyncio
import copy
import ssl
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import aiohttp
import consul.base
from yarl import URL

from proxygen.consul import answers
from proxygen.consul.access import ConsulAccess
from proxygen.consul.address import parse_address
from proxygen.consul.answers import Reply
from proxygen.consul.credentials import TokenSource, tls_context
from proxygen.consul.oddities import Oddities
from proxygen.kit.errors import AccessDenied, ConsulUnreachable
from proxygen.settings import ConsulSettings

Consistency = Literal["any", "default", "consistent"]
"""Who may answer: any server (where ``consul.stale`` allows it), the leader, or the leader after asking its peers."""
Params = Iterable[tuple[str, object]]
Callback = Callable[[consul.base.Response], Any]
Listener = Callable[[str, float | None], None]
"""Hears of each request how it ended (answered, denied or failed), and after how many seconds: None for one that was
to wait for a change."""

_CONNECT: Final = 5.0
_SHORT: Final = 15.0
"""Longest time for a request that does not block."""
_MARGIN: Final = 5.0
"""On top of a blocking query's own time, for Consul to gather and send the answer."""
_TLS_FAREWELL: Final = 0.1
"""Consul answers a TLS farewell on a cancelled long poll only when the poll would have ended; until then the socket
would linger beside its successor, uncounted."""
_IDLE: Final = 15.0
"""Longest time for which a connection without a request is kept for the next one."""
_TOO_MANY: Final = 429
_BY_SERVERS: Final = ("near", "_agent")
"""An agent has no view in order of distance (agent/rpcclient/health), so it asks the servers; we sort anyway."""
_QUEUE: Final = 15.0
"""Longest wait for one of our own sockets; past it we say so instead of queueing in silence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """What the client has done so far, for the status page."""

    requests: int
    failures: int
    refused: int
    """Of the failures, those that Consul answered with 429: it asks us to come less often."""
    received: int
    """Bytes of all bodies as they came over the wire: compressed, without headers."""
    sockets: int
    """Requests in flight, each on a socket of its own; never above ``max_connections``."""
    waiting: int
    """Requests that wait for a socket."""


class Transport(consul.base.HTTPClient):  # type: ignore[misc]
    """py-consul's HTTP client on aiohttp: bounded sockets, a deadline for each request, typed failures."""

    def __init__(self, settings: ConsulSettings) -> None:
        self.address = parse_address(settings.address, ssl=settings.ssl)
        super().__init__(self.address.host, self.address.port, self.address.scheme)
        self.base_uri = self.address.base
        self._settings = settings
        self._access = ConsulAccess.of(settings)
        self._token = TokenSource(self._access)
        self._tls = tls_context(self._access) if self.address.scheme == "https" else None
        self._headers = self._access.authentication
        self._slots = asyncio.Semaphore(settings.max_connections)
        self._session: aiohttp.ClientSession | None = None
        self._careful: aiohttp.ClientSession | None = None
        """Makes a new connection for every request."""
        self._careful_until = 0.0
        self._requests = 0
        self._failures = 0
        self._refused = 0
        self._received = 0
        self._sockets = 0
        self._waiting = 0
        self.listeners: Final[list[Listener]] = []

    @property
    def statistics(self) -> Statistics:
        """Counted since the start, but for ``sockets`` and ``waiting``, which are of now."""
        return Statistics(
            requests=self._requests,
            failures=self._failures,
            refused=self._refused,
            received=self._received,
            sockets=self._sockets,
            waiting=self._waiting,
        )

    @property
    def token_mark(self) -> str:
        """Tells the token of the next request from any other."""
        return self._token.mark

    async def exchange(
        self,
        method: str,
        path: str,
        params: Params = (),
        *,
        data: bytes = b"",
        deadline: float = _SHORT,
        waits: bool = False,
    ) -> Reply:
        """Send one request. Raise ConsulUnreachable or AccessDenied for every answer that is no answer.

        A 404 of Consul's own is returned: for a key it means "not there". ``waits`` says that the answer may be long
        in coming.
        """
        started = time.monotonic()
        url = URL(self.uri(path, [*params, *self._access.tenancy]), encoded=True)
        try:
            reply = await self._authorised(method, url, path, data, deadline)
        except BaseException as error:
            # A cancelled long poll is our own decision and no failure of Consul's.
            if isinstance(error, Exception):
                self._failures += 1
                self._tell("denied" if isinstance(error, AccessDenied) else "failed", started, waits=waits)
            raise
        self._tell("answered", started, waits=waits)
        return reply

    def _tell(self, end: str, started: float, *, waits: bool) -> None:
        for listener in self.listeners:
            listener(end, None if waits else time.monotonic() - started)

    async def _authorised(self, method: str, url: URL, path: str, data: bytes, deadline: float) -> Reply:
        reply = await self._token.spend(lambda token: self._send(method, url, data, token, deadline))
        answers.refuse_failure(reply, method=method, path=path, address=str(self.address), hide=self._token.hide)
        if method == "GET":
            answers.refuse_unled(reply, address=str(self.address))
        return reply

    async def _send(self, method: str, url: URL, data: bytes, token: str, deadline: float) -> Reply:
        await self._acquire_slot()
        self._requests += 1
        self._sockets += 1
        try:
            async with (
                # Not aiohttp's total: a task that is cancelled in the turn of the loop in which that runs out goes on.
                asyncio.timeout(deadline),
                self._open_session().request(
                    method,
                    url,
                    data=data or None,
                    headers=self._headers | ({"X-Consul-Token": token} if token else {}),
                    timeout=aiohttp.ClientTimeout(sock_connect=_CONNECT),
                    # A redirect could carry the token to another host.
                    allow_redirects=False,
                    server_hostname=self._settings.tls_server_name if self._tls is not None else None,
                ) as response,
            ):
                body = await response.read()
                # The content of an answer that has none, such as a 204, counts nothing at all.
                self._received += response.content.total_raw_bytes if body else 0
                self._refused += response.status == _TOO_MANY
                return answers.read_reply(response.status, response.headers, body)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            if isinstance(error, TimeoutError):
                # What swallowed this connection may have swallowed those that lie idle: no retry may meet one.
                self._careful_until = time.monotonic() + _IDLE
            reason = self._token.hide(_reason(error, deadline))
            raise ConsulUnreachable(f"Consul at {self.address} does not answer: {reason}") from error
        finally:
            self._sockets -= 1
            self._slots.release()

    async def _acquire_slot(self) -> None:
        self._waiting += 1
        try:
            async with asyncio.timeout(_QUEUE):
                await self._slots.acquire()
        except TimeoutError as error:
            limit = self._settings.max_connections
            raise ConsulUnreachable(f"all {limit} sockets to Consul are busy (consul.max_connections)") from error
        finally:
            self._waiting -= 1

    def _open_session(self) -> aiohttp.ClientSession:
        # Built on first use: aiohttp wants the running loop, and py-consul's constructor runs outside of one.
        if time.monotonic() < self._careful_until:
            if self._careful is None:
                self._careful = aiohttp.ClientSession(connector=self._connector(force_close=True))
            return self._careful
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=self._connector(keepalive_timeout=_IDLE))
        return self._session

    def _connector(self, **options: Any) -> aiohttp.BaseConnector:
        limit = self._settings.max_connections
        if self.address.socket is not None:
            return aiohttp.UnixConnector(path=str(self.address.socket), limit=limit, **options)
        return _tcp_connector(limit, self._tls, **options)

    async def _called(
        self,
        callback: Callback,
        method: str,
        path: str,
        params: Params | None,
        data: str | bytes | None = "",
        raw: bool = False,
    ) -> Any:
        body = data.encode() if isinstance(data, str) else data or b""
        reply = await self.exchange(method, path, params or (), data=body)
        text = reply.body if raw else reply.body.decode("utf-8", errors="replace")
        return callback(consul.base.Response(reply.status, reply.headers, text))

    # py-consul passes headers only for its own token; ours is added by `exchange`.

    def get(
        self,
        callback: Callback,
        path: str,
        params: Params | None = None,
        headers: Mapping[str, str] | None = None,
        raw: bool = False,
    ) -> Any:
        """Called by py-consul; its headers are ours already, so those that it passes are dropped."""
        return self._called(callback, "GET", path, params, raw=raw)

    def put(
        self,
        callback: Callback,
        path: str,
        params: Params | None = None,
        data: str | bytes | None = "",
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        return self._called(callback, "PUT", path, params, data)

    def delete(
        self,
        callback: Callback,
        path: str,
        params: Params | None = None,
        data: str | bytes | None = "",
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        return self._called(callback, "DELETE", path, params, data)

    def post(
        self,
        callback: Callback,
        path: str,
        params: Params | None = None,
        data: str | bytes | None = "",
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        return self._called(callback, "POST", path, params, data)

    async def close(self) -> None:
        """Close both sessions, and give TLS the time to say farewell."""
        sessions = [session for session in (self._session, self._careful) if session is not None]
        for session in sessions:
            await session.close()
        if sessions:
            # Transports close in the loop's next turn, with TLS after the peer's farewell; nothing awaits that for us.
            await asyncio.sleep(2 * _TLS_FAREWELL if self._tls is not None else 0)


class ConsulClient(consul.base.Consul):  # type: ignore[misc]
    """Consul as the settings describe it; an async context manager.

    py-consul's objects (``kv``, ``agent``, ``session`` and so on) return awaitables and raise our errors.
    """

    http: Transport

    def __init__(self, settings: ConsulSettings) -> None:
        self.settings = settings
        # Every argument that py-consul would otherwise read from the environment is given here.
        super().__init__(host="localhost", port=0, scheme="http", verify=True, dc=settings.datacenter)
        # It reads CONSUL_HTTP_TOKEN over any argument; the token comes from our settings alone, in `Transport`.
        self.token = None
        self.oddities: Final = Oddities()

    def http_connect(
        self, host: str, port: int, scheme: str, verify: bool | str = True, cert: object = None
    ) -> Transport:
        """Called by py-consul while it is made; the settings decide, not what it passes."""
        return Transport(self.settings)

    @property
    def statistics(self) -> Statistics:
        """Of all clients that share these sockets."""
        return self.http.statistics

    def subscribe(self, listener: Listener) -> None:
        """Have the end of every request told to ``listener``."""
        self.http.listeners.append(listener)

    async def read(
        self,
        path: str,
        params: Params = (),
        *,
        index: int = 0,
        consistency: Consistency = "default",
        streamed: bool = True,
    ) -> Reply:
        """Read from the catalog, health or KV; with an index, block until it moves or ``consul.wait`` is over.

        Without ``streamed`` the servers are asked in place of a view that the agent keeps.
        """
        query: list[tuple[str, object]] = [*params]
        if not streamed:
            query.append(_BY_SERVERS)
        if self.settings.datacenter:
            query.append(("dc", self.settings.datacenter))
        if consistency == "any" and self.settings.stale:
            query.append(("stale", ""))
        if consistency == "consistent":
            query.append(("consistent", ""))
        if not index:
            return await self.http.exchange("GET", path, query)
        wait = self.settings.wait
        query += [("index", index), ("wait", f"{round(wait * 1000)}ms")]
        # Consul adds up to wait/16 of jitter; a shorter deadline would cut healthy polls.
        return await self.http.exchange("GET", path, query, deadline=wait * 17 / 16 + _MARGIN, waits=True)

    def at(self, datacenter: str) -> ConsulClient:
        """Return a client whose `read` asks another datacenter, over the same sockets; only this one is closed."""
        other = copy.copy(self)
        other.settings = self.settings.model_copy(update={"datacenter": datacenter})
        return other

    async def close(self) -> None:
        """Close the sockets, those of clients made by `at` too."""
        await self.http.close()


def _tcp_connector(limit: int, tls: ssl.SSLContext | None, **options: Any) -> aiohttp.TCPConnector:
    if tls is None:
        return aiohttp.TCPConnector(limit=limit, **options)
    with warnings.catch_warnings():
        # Deprecated for aiohttp 4 without a successor that also covers single connections.
        warnings.simplefilter("ignore", DeprecationWarning)
        return aiohttp.TCPConnector(limit=limit, ssl=tls, ssl_shutdown_timeout=_TLS_FAREWELL, **options)


def _reason(error: Exception, deadline: float) -> str:
    if isinstance(error, aiohttp.ServerTimeoutError) and not isinstance(error, aiohttp.ConnectionTimeoutError):
        return f"nothing came within {deadline:.0f} s"
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return f"no connection within {_CONNECT:.0f} s"
    if isinstance(error, TimeoutError):
        return f"nothing came within {deadline:.0f} s"
    cause = getattr(error, "os_error", None)
    return (getattr(cause, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]
