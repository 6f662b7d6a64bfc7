"""What the templates see: one frozen class per template, filled with typed values and nothing to decide."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

from proxygen.kit.templating import Block, Expression, Regex, Variable

Value = str | int | Variable | Expression | Regex


@dataclass(frozen=True, slots=True, kw_only=True)
class HashSize:
    """A table size of nginx, set explicitly: one long name must not reject everybody's configuration."""

    directive: str
    value: int


@dataclass(frozen=True, slots=True)
class DefaultLine:
    """A line whose words are ours or an operator's number."""

    directive: str
    words: tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Said:
    """Directives that the operator states: nginx refuses them a second time in one block."""

    names: frozenset[str]

    def __contains__(self, name: object) -> bool:
        """Whether he states it, or may: what a fragment includes is not read."""
        return name in self.names or "include" in self.names


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenView:
    """One ``listen`` directive."""

    address: str
    tls: bool = False
    http2: bool = False
    default: bool = False
    udp: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamDefaultsView:
    """stream-defaults.conf.j2"""

    hash_sizes: tuple[HashSize, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceLabel:
    """A service whose name is a log label, shared by all its locations."""

    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLine:
    """One ``server`` of an upstream; ``fail_timeout`` is in seconds, None leaves nginx's own."""

    address: str
    weight: int
    max_fails: int
    fail_timeout: int | None
    """Seconds."""
    backup: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamView:
    """One ``upstream`` block: the method, then its servers."""

    name: str
    least_conn: bool
    random: bool
    ip_hash: bool
    hash: Variable | None
    servers: tuple[ServerLine, ...]
    keepalive: int | None
    keepalive_timeout: int | None
    """Milliseconds."""
    pushed: tuple[str, ...] = ()
    """Where servers are pushed: the method and then each server, in the words that a push has for them; the method's
    directive then stands nowhere. Empty where nginx's own balancer chooses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MapLine:
    """One line of a ``map``: what is matched, and the value for it."""

    match: Value
    value: Value


@dataclass(frozen=True, slots=True, kw_only=True)
class MapView:
    """One ``map`` block."""

    source: Value
    variable: Variable
    default: Value
    lines: tuple[MapLine, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GeoView:
    """A map by the client's network."""

    variable: Variable
    lines: tuple[MapLine, ...]
    """The longest prefix counts; every client has one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessLine:
    """Whether the clients of a network are let in; ``all`` is one."""

    allows: bool
    network: str

    @property
    def directive(self) -> str:
        return "allow" if self.allows else "deny"


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One line of ``split_clients``: a share such as ``12.5%``, and its value."""

    percent: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitView:
    """One ``split_clients`` block; ``rest`` is the value of its line ``*``."""

    key: Expression
    variable: Variable
    pieces: tuple[Piece, ...]
    rest: str
    pushed: str = ""
    """Where shares are pushed: all of them, in the words that a push has for them; the block is then not written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PushView:
    """The Lua that chooses servers and splits requests, where both are pushed."""

    balancers: Block
    push: Block


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitCallView:
    """A split whose shares are pushed, at a request."""

    variable: Variable
    """That holds the upstream."""
    key: Variable
    salt: str
    """What follows the key's value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficView:
    """The log that the sidecar reads."""

    line: Expression
    splits: tuple[SplitView, ...]
    """The sample; none where nginx tells of every request."""
    told: MapView
    """Whether a request is told of: somebody listens, it is one of ours, and it is in the sample."""
    default_logs: tuple[str, ...]
    """nginx's default log, where nginx.conf names none: it would end with the first one that is named."""
    log: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientView:
    """Who the client is and what it asked for: as a trusted proxy says it, or as this nginx saw."""

    address: Value
    """With those of the proxies before us."""
    scheme: Value
    host: Value
    """With its port, where one was written."""
    port: Value
    forwarded: Value
    """Only what trusted proxies say: the others stand in the headers of their own."""
    prefix: Value
    request_id: Value
    """The name of its request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VouchedHeader:
    """A header that reaches an instance only where a trusted proxy sent it."""

    name: str
    parameter: str
    """How FastCGI and uwsgi call it."""
    sent: Variable
    given: Value
    """What the instance gets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpView:
    """http.conf.j2"""

    hash_sizes: tuple[HashSize, ...]
    reject_tls: bool
    tls_listens: tuple[ListenView, ...]
    tls_defaults: tuple[DefaultLine, ...]
    hsts: str
    trusted_proxies: tuple[str, ...]
    """Networks, each once."""
    vouched: tuple[VouchedHeader, ...]
    client: ClientView
    agains: tuple[MapView, ...]
    """By number of tries: where a request goes that must not be sent twice and that failed."""
    redirect_port: str
    """``:PORT`` where HTTPS has another than its own."""
    retry_after: int
    """Seconds."""
    not_found: Expression
    unavailable: Expression
    geos: tuple[GeoView, ...]
    """Who is turned away by a tag."""
    rests: tuple[MapView, ...]
    """By prefix that `strip-prefix` takes off: what is left of a path as the client wrote it."""
    error_html: Expression
    """The page for every other error."""
    traffic: TrafficView | None
    push: PushView | None
    snippets: tuple[Block, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Zone:
    """One ``limit_req_zone``."""

    zone: str
    """``zone=NAME:SIZE``: nginx knows quotes at the beginning of a token only, so such tokens come whole."""
    rate: str
    """``rate=…``"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceView:
    """upstream.conf.j2"""

    service: ServiceLabel
    upstreams: tuple[UpstreamView, ...]
    maps: tuple[MapView, ...]
    splits: tuple[SplitView, ...]
    zones: tuple[Zone, ...]


class RequestKind(Enum):
    """Whose requests a location takes; an Enum so that inert values keep it."""

    ALL = ""
    ONCE = "once"
    """Those that nginx would send to a second instance, after one may have done what they ask."""
    WAIT = "wait"
    """Those that are meant to wait: WebSockets, event streams, long polls."""
    ADMITTED = "admitted"
    """Behind a gate: those that are neither."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchView:
    """One ``location`` directive that leads to a `LocationView`."""

    path: str
    """Of a named location its name."""
    exact: bool
    strip: Regex
    apart: Expression | None
    """The named location of a request that `kind` tells apart; None where there is none, and in those."""
    kind: RequestKind
    gate: Expression | None = None
    """Where a request goes on to with the password that the tag asks for: what the operator asks for is next."""

    @property
    def takes_all(self) -> bool:
        """Whether requests come here by their path."""
        return self.kind is RequestKind.ALL

    @property
    def is_once(self) -> bool:
        """Whether it takes what nginx would send to a second instance after a first may have done it."""
        return self.kind is RequestKind.ONCE

    @property
    def waits(self) -> bool:
        """Whether its answers may be silent for long: WebSockets, event streams."""
        return self.kind is RequestKind.WAIT

    @property
    def has_error_page(self) -> bool:
        """Whether it leads a status elsewhere itself, which ends what the virtual server says for it."""
        return self.apart is not None or self.is_once


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitView:
    """One ``limit_req``."""

    zone: str
    """``zone=NAME``"""
    burst: int


class Template(Enum):
    """The template that speaks a protocol; an Enum so that inert values keep it."""

    PROXY = "proxy.conf.j2"
    GRPC = "grpc.conf.j2"
    FASTCGI = "fastcgi.conf.j2"
    UWSGI = "uwsgi.conf.j2"

    @property
    def module(self) -> str:
        """By which its directives begin."""
        return self.value.partition(".")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrite:
    """One ``rewrite``: what is matched, and the path in its place."""

    match: Value
    value: Value


@dataclass(frozen=True, slots=True, kw_only=True)
class LocationView:
    """location.conf.j2"""

    matches: tuple[MatchView, ...]
    service: Value
    """Its name, for logs."""
    variant: Value
    told: bool
    """Whether the sidecar is told of its requests."""
    unavailable: bool
    redirect: Expression | None
    error_pages: tuple[Block, ...]
    """The operator's own, which stand first."""
    has_error_page: bool
    """Whether all of it has one of its own, by which those of the virtual server end; nginx keeps each list anew."""
    hsts: bool
    headers: tuple[Block, ...]
    """The operator's own, which one of ours beside them would hide."""
    denied: Variable | None
    """Not empty for clients that its tags turn away."""
    htpasswd: str | None
    realm: str
    satisfy_all: bool
    """Whether the operator would let in who has the password or the address."""
    limit: LimitView | None
    limits: tuple[Block, ...]
    """The operator's own, beside it."""
    gate_lines: tuple[Block, ...]
    """What of its fragment nginx obeys before it asks for a password."""
    ignored: tuple[DefaultLine, ...]
    """By which instances' orders to nginx are ignored, where its fragment ends those of the virtual server."""
    parameters: tuple[Block, ...]
    """The operator's own, for FastCGI and uwsgi."""
    body_size: int | None
    cookie: Variable | None
    strip: bool
    rest: Variable | None
    """What is left of the path as the client wrote it, where that counts: as it is where the request is found."""
    kept: Variable | None
    """What it was there: a subrequest, as of the operator's ``auth_request``, shares variables and begins anew."""
    prefix: str
    """What `strip` takes away."""
    redirects: tuple[Rewrite, ...]
    """How an answer's Location gets it back; ``cookie_paths`` likewise."""
    cookie_paths: tuple[Rewrite, ...]
    protocol: Template
    tls_upstream: bool
    plain_connection: bool
    apart_by: Variable
    """Tells which requests have a named location of their own."""
    grpc_errors: bool
    client: ClientView
    vouched: tuple[VouchedHeader, ...]
    again: Variable | None
    """Where a request that must not be sent twice goes when it failed; None where it is not sent again at all."""
    own_errors: bool
    """Whether it leads errors to our pages; ``own_errors`` of a virtual server likewise."""
    said: Said
    """By its fragment; ``said_around`` by what stands around it too."""
    said_around: Said
    connect_timeout: int
    """Milliseconds, as all time-outs here."""
    timeout: int | None
    """None: as the virtual server says."""
    idle_timeout: int
    request_buffering: bool | None
    response_buffering: bool | None
    """None: as the virtual server says."""
    no_retries: bool
    retries_unsafe: bool
    tries: int
    share: SplitCallView | None
    """Where its service's shares are pushed."""
    target: Expression
    """Where requests go; the service itself where they go nowhere."""
    snippets: tuple[Block, ...]

    @property
    def is_gated(self) -> bool:
        """Whether an ``auth_request`` decides about at least one of its paths."""
        return any(match.gate for match in self.matches)

    @property
    def protocol_template(self) -> str:
        """The name of the template's part for this protocol."""
        return self.protocol.value

    @property
    def passed_to(self) -> Expression:
        """The target with the path, where nginx is not to choose that."""
        return self.target if self.kept is None else Expression((*self.target.parts, self.kept))


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateView:
    """Files of one certificate, and its fingerprint: a renewed one is another text, so nginx is reloaded."""

    certificate: str
    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustView:
    """Which instances that speak TLS are believed."""

    file: str
    fingerprint: str
    https: bool
    """Whether any is spoken to by https; ``grpcs`` likewise."""
    grpcs: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SubrequestView:
    """Where nginx asks by itself, as the operator says for all virtual servers."""

    path: Regex
    """As it stands: nginx reads no variable there."""
    answer: DefaultLine


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualServerView:
    """server.conf.j2"""

    names: tuple[str, ...]
    targets: MapView | None
    """For hosts that share it: from host to where requests go."""
    labels: MapView | None
    """For the same: from host to service."""
    listens: tuple[ListenView, ...]
    http2: bool
    certificate: CertificateView | None
    tls_defaults: tuple[DefaultLine, ...]
    keepalive_min_timeout: bool
    trusted_proxies: tuple[str, ...]
    heard: str | None
    """Path that exists while a sidecar listens to what it is told; None where it is told nothing."""
    trust: TrustView | None
    defaults: tuple[DefaultLine, ...]
    grpc: bool
    client: ClientView
    vouched: tuple[VouchedHeader, ...]
    """Headers that only trusted proxies may send."""
    other_spellings: tuple[str, ...]
    """Of those headers and of ours: dropped."""
    hsts: bool
    """Whether a location of it has HSTS: its errors then say so too."""
    error_headers: tuple[Block, ...]
    """The operator's own: a location that adds any hides those around it."""
    error_pages: tuple[Block, ...]
    """Those that nginx.conf names for all virtual servers, which ours would hide."""
    passed_headers: tuple[Block, ...]
    """The same of what he passes to instances; ``passed_grpc_headers`` likewise."""
    passed_grpc_headers: tuple[Block, ...]
    own_errors: bool
    has_root: bool
    pushed: bool
    """Whether upstreams are told when a request has ended."""
    strips: bool
    """Whether a location of it takes a prefix off the path as the client wrote it."""
    subrequests: tuple[SubrequestView, ...]
    """Those that neither the operator nor an instance answers."""
    snippets: tuple[Block, ...]

    @property
    def name(self) -> str:
        """The only host, for an operator's own template: with such a one no hosts share a virtual server."""
        return self.names[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamView:
    """stream.conf.j2"""

    service: ServiceLabel
    upstreams: tuple[UpstreamView, ...]
    splits: tuple[SplitView, ...]
    listens: tuple[ListenView, ...]
    access: tuple[AccessLine, ...]
    connect_timeout: int
    timeout: int
    no_retries: bool
    tries: int
    unavailable: bool
    target: Expression
    snippets: tuple[Block, ...]


_T = TypeVar("_T")


def inert(view: _T) -> _T:
    """The same view with every text replaced by a harmless one: what a template prints for it cannot have been
    shaped by a value. Numbers, flags, enumerations, emptiness and the operator's own files stay."""
    return _inert(view)  # type: ignore[no-any-return]


def _inert(value: Any) -> Any:
    match value:
        case Block() | Enum() | bool() | int() | None:
            return value
        case str():
            return "inert" if value else ""
        case tuple():
            return tuple(_inert(item) for item in value)
        case Variable():
            return Variable("inert")
        case Regex():
            return Regex("inert")
        case Expression():
            return Expression(("inert",))
        case ServerLine():
            # One address looks like any other: upstreams that differ in addresses and weights only share a shape.
            return dataclasses.replace(value, address="inert", weight=min(value.weight, 2))
        case PushView():
            return value
        case HashSize() | DefaultLine() | Said():
            return value
    return dataclasses.replace(
        value, **{field.name: _inert(getattr(value, field.name)) for field in dataclasses.fields(value)}
    )


def as_context(view: Any) -> dict[str, object]:
    """The view's fields by name, for a template."""
    return {field.name: getattr(view, field.name) for field in dataclasses.fields(view)}
