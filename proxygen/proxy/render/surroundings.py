"""What rendering must know beside the plan: of nginx, of the operator's wishes and of his fragments."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from proxygen.kit.templating import Block
from proxygen.proxy.plan.types import Authorities
from proxygen.proxy.render.views import ListenView
from proxygen.tags.shares import Share


@dataclass(frozen=True, slots=True, kw_only=True)
class Snippets:
    """The operator's own fragments by file name, read from disk by the caller."""

    files: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def __getitem__(self, name: str) -> tuple[Block, ...]:
        text = self.files.get(name)
        return () if text is None else (Block(text if text.endswith("\n") else text + "\n"),)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficLog:
    """How nginx tells the sidecar of its requests."""

    socket: str
    mark: str
    """Exists while somebody listens."""
    sample: Share
    """The part of all requests that nginx reports, in basis points."""
    default_log: str | None = None
    """nginx's own access log, where nginx.conf names none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestDefaults:
    """The operator's wishes for every request that no tag of its service answers otherwise."""

    body_size: int = 0
    """Bytes; 0: no limit."""
    header_size: int = 32_768
    """Bytes."""
    any_header_names: bool = False
    timeout: int = 300_000
    """Milliseconds, as all time-outs here."""
    idle_timeout: int = 3_600_000
    keepalive_timeout: int = 1_000
    request_buffering: bool = True
    response_buffering: bool = True
    retries_unsafe: bool = False
    accel_headers: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What rendering must know of nginx and of the operator's wishes, beside the plan."""

    http: tuple[str, ...] = ("80",)
    https: tuple[str, ...] = ("443",)
    stream_address: str | None = None
    trusted_proxies: tuple[str, ...] = ()
    hsts_max_age: int = 31_536_000
    """Seconds."""
    retry_after: int = 5
    """Seconds."""
    keepalive_min_timeout: bool = False
    keepalive_by_default: bool = False
    http2_directive: bool = False
    reject_handshake: bool = False
    operator_directives: frozenset[str] = frozenset()
    """http-level directives that nginx.conf already holds and that may stand only once."""
    operator_says: frozenset[str] = frozenset()
    """All that stands in nginx.conf's ``http`` itself."""
    operator_lines: tuple[Block, ...] = ()
    """Lines of nginx.conf's ``http`` that may have to be said again; ``operator_stream_lines`` likewise."""
    operator_stream_lines: tuple[Block, ...] = ()
    operator_stream_directives: frozenset[str] = frozenset()
    share_from: int = 0
    """Hosts from which on those that need nothing of their own share virtual servers; 0: never."""
    operator_defaults: frozenset[str] = frozenset()
    """Listen addresses for which nginx.conf already has a default server."""
    operator_servers: tuple[Block, ...] = ()
    """Copies of those of the operator's servers that ours would stand before, though they answer by default."""
    requests: RequestDefaults = field(default_factory=RequestDefaults)
    traffic: TrafficLog | None = None
    pushed: bool = False
    """Whether servers and shares are pushed: nginx has the Lua for it."""
    upstream_ca: Authorities | None = None

    @property
    def networks_trusted(self) -> tuple[str, ...]:
        """Each network once, in one spelling: nginx warns of a second one, and a warning is a refusal."""
        return tuple(dict.fromkeys(str(ipaddress.ip_network(network)) for network in self.trusted_proxies))

    def http_listens(self, *, default: bool) -> tuple[ListenView, ...]:
        return tuple(ListenView(address=listen, default=default and self._free(listen)) for listen in self.http)

    def https_listens(self, *, default: bool) -> tuple[ListenView, ...]:
        return tuple(
            ListenView(address=listen, tls=True, http2=not self.http2_directive, default=default and self._free(listen))
            for listen in self.https
        )

    def _free(self, listen: str) -> bool:
        return listen not in self.operator_defaults

    @property
    def https_port(self) -> str:
        port = self.https[0].rpartition(":")[2] if self.https else "443"
        return "" if port == "443" else f":{port}"
