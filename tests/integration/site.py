"""One Consul, one nginx, one sidecar and many services: what the tests of tags send their requests to."""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

import pytest

from tests.harness import process
from tests.harness.app import App
from tests.harness.consul import ConsulAgent
from tests.harness.nginx import NginxServer
from tests.harness.sidecar import Sidecar
from tests.harness.tools import each_nginx, pushed_layout, shared_layout
from tests.integration.certificates import Authority

LAYOUTS = pytest.mark.parametrize(
    "site", [*each_nginx("site"), shared_layout("site"), pushed_layout("site")], indirect=True, scope="session"
)
"""The site of a module whose tests are about hosts, locations and who gets a host's requests."""

_SHARES = re.compile(r'_split {\n    default "?((?:\d+:\w+ ?)+)"?;')
"""Shares as they are pushed: basis points, and whose they are."""


def _as_split(shares: re.Match[str]) -> str:
    """The same as lines of ``split_clients``, so that a test finds them whoever splits requests."""
    *pieces, last = (piece.split(":") for piece in shares[1].split())
    lines = [f"    {int(share) / 100:.2f}% {upstream};" for share, upstream in pieces]
    return "\n".join((shares[0], *lines, f"    * {last[1]};"))


NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class Instance(Protocol):
    """Whatever listens on a port."""

    @property
    def port(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back for one request."""

    status: int
    headers: Mapping[str, str]
    """Lower-case names; of equal ones the last."""
    cookies: tuple[str, ...]
    body: bytes

    @property
    def instance(self) -> str:
        return self.headers.get("x-instance", "")

    @property
    def seen(self) -> Any:
        """The request as the instance saw it."""
        return json.loads(self.body)


class Client:
    """One client: its address, its connection, its TLS."""

    def __init__(self, port: int, *, source: str, tls: ssl.SSLContext | None, name: str) -> None:
        if tls is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20, source_address=(source, 0))
        else:
            self._connection = _Tls("127.0.0.1", port, context=tls, name=name)

    def ask(
        self,
        host: str,
        path: str = "/",
        *,
        method: str = "GET",
        headers: Mapping[str, str] = NO_HEADERS,
        body: bytes | None = None,
    ) -> Answer:
        self._connection.request(method, path, body, {"Host": host, **headers})
        answer = self._connection.getresponse()
        return Answer(
            status=answer.status,
            headers={key.lower(): value for key, value in answer.getheaders()},
            cookies=tuple(value for key, value in answer.getheaders() if key.lower() == "set-cookie"),
            body=answer.read(),
        )

    def close(self) -> None:
        self._connection.close()


class _Tls(http.client.HTTPConnection):
    """HTTPS to an address by another name: http.client's own would ask for the address's certificate."""

    def __init__(self, host: str, port: int, *, context: ssl.SSLContext, name: str) -> None:
        super().__init__(host, port, timeout=20)
        self._tls = context
        self._name = name

    def connect(self) -> None:
        super().connect()
        self.sock = self._tls.wrap_socket(self.sock, server_hostname=self._name)


class Site:
    """The running parts, with what tests say to them."""

    def __init__(self, consul: ConsulAgent, nginx: NginxServer, sidecar: Sidecar, authority: Authority) -> None:
        self.consul = consul
        self.nginx = nginx
        self.sidecar = sidecar
        self.authority = authority
        self.apps: list[App] = []
        self._closers: list[Callable[[], None]] = []
        self._read: int | None = None
        self._live = ""

    # --- what is behind nginx ----------------------------------------------------------------------------------------

    def app(self, name: str, *, tls: ssl.SSLContext | None = None) -> App:
        app = App(name, tls=tls).start()
        self._closers.append(app.stop)
        self.apps.append(app)
        return app

    def keep(self, instance: Any) -> Any:
        """Start an instance that has ``start`` and ``stop``, until the site closes."""
        started = instance.start()
        self._closers.append(started.stop)
        return started

    def close(self) -> None:
        while self._closers:
            self._closers.pop()()

    # --- what Consul is told -----------------------------------------------------------------------------------------

    def register(self, name: str, instance: Instance, *tags: str, **options: Any) -> str:
        """Register with tags that are written without their prefix."""
        return self.consul.register(name, port=instance.port, tags=[f"proxygen.{tag}" for tag in tags], **options)

    def override(self, name: str, value: str) -> None:
        self.consul.kv_put(f"proxygen/canary/{name}", value)

    # --- waiting -----------------------------------------------------------------------------------------------------

    def live(self) -> str:
        """The configuration that nginx is proven to serve; empty while a newer one is on its way."""
        number = self.sidecar.generation()
        if number is None or number not in self.sidecar.proven():
            return ""
        if self._read != number:
            directory = self.sidecar.output / "generations" / f"{number:06}"
            written = "".join(path.read_text() for path in sorted(directory.glob("*.d/*.conf")))
            self._live = _SHARES.sub(_as_split, written)
            self._read = number
        return self._live

    def until(self, *texts: str) -> None:
        """Wait until all texts stand in the live configuration."""
        self.until_live(lambda live: all(text in live for text in texts), f"{texts}")

    def until_served(self, *instances: Instance) -> None:
        """Wait until nginx has a server line for each of them."""
        self.until(*(f"    server 127.0.0.1:{instance.port}" for instance in instances))

    def until_live(self, condition: Callable[[str], object], what: str) -> None:
        process.wait_until(lambda: condition(self.live()), what=f"{what} in the live configuration")

    def until_status(self, condition: Callable[[Any], object], what: str) -> None:
        process.wait_until(lambda: condition(self.sidecar.status()), what=f"status: {what}")

    # --- asking ------------------------------------------------------------------------------------------------------

    @contextmanager
    def client(
        self, *, source: str = "127.0.0.1", tls: bool = False, name: str = "", port: int | None = None
    ) -> Iterator[Client]:
        """A client with a connection of its own. ``name`` is the SNI of a TLS client that trusts the authority."""
        default = self.sidecar.https if tls else self.sidecar.http
        client = Client(port or default, source=source, tls=self.trusting() if tls else None, name=name)
        try:
            yield client
        finally:
            client.close()

    def ask(
        self, host: str, path: str = "/", *, tls: bool = False, source: str = "127.0.0.1", **request: Any
    ) -> Answer:
        """Send one request on a connection of its own."""
        with self.client(source=source, tls=tls, name=host) as client:
            return client.ask(host, path, **request)

    def who(self, host: str, count: int, path: str = "/", **request: Any) -> list[str]:
        """The instances that answered so many requests on one connection, one after the other."""
        with self.client() as client:
            return [client.ask(host, path, **request).instance for _ in range(count)]

    def trusting(self) -> ssl.SSLContext:
        return ssl.create_default_context(cadata=self.authority.pem.decode())

    def certificate_of(self, name: str) -> bytes:
        """The certificate (DER) that a TLS handshake with this SNI is answered with."""
        with (
            socket.create_connection(("127.0.0.1", self.sidecar.https), timeout=10) as plain,
            self.trusting().wrap_socket(plain, server_hostname=name) as tls,
        ):
            der = tls.getpeercert(binary_form=True)
            assert der is not None
            return der
