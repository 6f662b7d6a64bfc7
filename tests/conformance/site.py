"""The nginx that a case is sent to: one that proxygen's rendering configures, or a bare one."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.conformance.case import Case, Way
from tests.conformance.instance import Record, Scripted
from tests.conformance.wire import Connection
from tests.harness import warm
from tests.harness.nginx import NginxServer
from tests.harness.ports import free_port, free_ports
from tests.harness.sidecar import to_toml
from tests.harness.tools import NginxBinary
from tests.integration.certificates import Authority

_HTTP2_DIRECTIVE: Final = (1, 25, 1)
"""The version from which ``http2 on`` replaces listen's parameter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What a catalog says of one service: its tags without their prefix, and of each instance a port."""

    name: str
    tags: tuple[str, ...]
    ports: tuple[int, ...]
    second: tuple[str, ...] = ()
    """More tags of all instances but the first."""
    status: str = "passing"

    def entries(self) -> list[dict[str, object]]:
        return [self._entry(number, port) for number, port in enumerate(self.ports)]

    def _entry(self, number: int, port: int) -> dict[str, object]:
        tags = (*self.tags, *(self.second if number else ()))
        name = f"{self.name}-{number}"
        return {
            "Node": {"Node": "node", "Address": "127.0.0.1", "Datacenter": "dc1"},
            "Service": {
                "ID": name,
                "Service": self.name,
                "Tags": [f"proxygen.{tag}" for tag in tags],
                "Meta": {},
                "Address": "127.0.0.1",
                "Port": port,
                "Weights": {"Passing": 1, "Warning": 1},
                "CreateIndex": 10,
                "ModifyIndex": 10,
            },
            "Checks": [{"CheckID": f"service:{name}", "Status": self.status, "Node": "node", "ServiceID": name}],
        }


@dataclass(slots=True, kw_only=True)
class Site:
    """A running nginx with its ports, and what reached the instances behind it."""

    nginx: NginxServer
    http: int
    https: int
    authority: Authority
    record: Record
    said: str = ""
    """What proxygen remarked when it rendered."""
    _contexts: dict[str, ssl.SSLContext] = field(default_factory=dict)

    @property
    def version(self) -> tuple[int, int, int]:
        return self.nginx.binary.version

    def connect(self, host: str, *, way: Way = "http", source: str = "127.0.0.1") -> Connection:
        """Connect as a client that wants this host. Raise ssl.SSLError where the handshake fails."""
        if way in {"http", "h2c"}:
            return Connection(port=self.http, source=source)
        return Connection(port=self.https, source=source, tls=self._context(way), name=host)

    def _context(self, way: Way) -> ssl.SSLContext:
        if way not in self._contexts:
            context = ssl.create_default_context(cadata=self.authority.pem.decode())
            context.set_alpn_protocols(["h2" if way == "h2" else "http/1.1"])
            if way == "tls13":
                context.minimum_version = ssl.TLSVersion.TLSv1_3
            self._contexts[way] = context
        return self._contexts[way]

    def configuration(self) -> str:
        """All that proxygen rendered."""
        return "".join(path.read_text() for path in sorted(self.nginx.output.glob("current/*.d/*.conf")))


@contextmanager
def proxied(
    binary: NginxBinary,
    directory: Path,
    services: Iterable[Service],
    record: Record,
    *,
    settings: Mapping[str, object] | None = None,
    workers: int = 2,
    names: Sequence[str] = ("*.req.example.com",),
    http: str = "",
    stream: str = "",
) -> Iterator[Site]:
    """Render the services once, as ``proxygen render`` does, and start nginx on the result.

    ``http`` and ``stream`` are what the operator says in his nginx.conf.
    """
    authority, certificates = Authority(), directory / "certificates"
    certificates.mkdir(parents=True)
    authority.issue(certificates, "all", *names)
    http_port, https_port = free_port(), free_port()
    nginx = NginxServer(
        binary, directory / "nginx", output=directory / "output", workers=workers, http=http, stream=stream
    )
    knobs: dict[str, object] = {
        "proxy.http_listen": f"127.0.0.1:{http_port}",
        "proxy.https_listen": f"127.0.0.1:{https_port}",
        "proxy.certificates": str(certificates),
        "nginx.binary": str(binary.path),
        "nginx.conf": str(nginx.conf),
        "nginx.prefix": str(nginx.directory),
        # What nginx includes, so that its configuration counts; rendered is to another place, for this is not touched.
        "output.directory": str(nginx.output),
        "traffic.sample": 0,
        **(settings or {}),
    }
    said = _render(directory, knobs, services)
    nginx.start()
    try:
        yield Site(nginx=nginx, http=http_port, https=https_port, authority=authority, record=record, said=said)
    finally:
        nginx.stop()


def _render(directory: Path, knobs: Mapping[str, object], services: Iterable[Service]) -> str:
    catalog, config = directory / "catalog.json", directory / "proxygen.toml"
    document: dict[str, Any] = {
        "datacenter": "dc1",
        "services": {service.name: service.entries() for service in services},
    }
    catalog.write_text(json.dumps(document))
    config.write_text(to_toml(knobs))
    target, live = directory / "rendered", directory / "output"
    live.mkdir()
    (live / "current").symlink_to(target)
    done = warm.run(["render", "--config", config, "--catalog", catalog, "--output", target], timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stderr


def pair(record: Record, stack: ExitStack) -> tuple[int, int]:
    """Start two instances; return their ports."""
    first, second = (stack.enter_context(Scripted(name, record)).port for name in ("first", "second"))
    return first, second


def service_of(case: Case, ports: Sequence[int]) -> Service:
    """A service of the case's own, so that no case meets what another left."""
    tags = (f"route={case.host}{case.path}", "tls=auto", *case.tags)
    return Service(name=case.name, tags=tags, second=case.second, ports=_ports_of(case, ports))


def _ports_of(case: Case, ports: Sequence[int]) -> tuple[int, ...]:
    return (*free_ports(case.closed), *ports[case.closed :])


@contextmanager
def bare(binary: NginxBinary, directory: Path, cases: Iterable[Case], record: Record) -> Iterator[Site]:
    """Start an nginx whose servers say nothing but proxy_pass, with an upstream of two instances for each case.

    One worker, as failures are counted by each.
    """
    authority = Authority()
    certificate = authority.issue(_made(directory), "all", "*.req.example.com")
    http, https = free_port(), free_port()
    with ExitStack() as stack:
        ports = pair(record, stack)
        lines = [
            "server_names_hash_bucket_size 128;",
            f"ssl_certificate {certificate};",
            f"ssl_certificate_key {certificate.with_suffix('.key')};",
        ]
        for case in cases:
            servers = " ".join(f"server 127.0.0.1:{port};" for port in _ports_of(case, ports))
            lines += [
                f"upstream {case.name} {{ {servers} }}",
                f"server {{ listen 127.0.0.1:{http}; listen 127.0.0.1:{https} ssl; server_name {case.host};"
                f" {case.bare_conf} location / {{ proxy_pass http://{case.name}; }} }}",
            ]
        nginx = NginxServer(
            binary, directory / "nginx", output=_made(directory / "output"), http="\n".join(lines), workers=1
        )
        nginx.start()
        stack.callback(nginx.stop)
        yield Site(nginx=nginx, http=http, https=https, authority=authority, record=record)


def _made(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    return directory
