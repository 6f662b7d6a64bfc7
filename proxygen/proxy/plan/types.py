"""What a plan is made of. Every text in here was judged: it came through a type of `tags` or `ipaddress`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_network
from types import MappingProxyType
from typing import Final, NamedTuple, NewType

from proxygen.catalog import Health, Instance, ServiceName
from proxygen.proxy.plan.bounds import Bounds
from proxygen.tags import Host, IPNetwork, Path, ProxyTags
from proxygen.tags.shares import Share

Ident = NewType("Ident", str)
"""A service's name inside nginx: ``[a-z0-9_]`` only, and unique by a hash of the real name."""


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """An address literal and a port. Names are refused: nginx's master would resolve them, and one failure
    rejects the whole configuration."""

    address: str
    port: int

    @classmethod
    def of(cls, address: IPv4Address | IPv6Address, port: int) -> Endpoint:
        """From an address and a port, with brackets around IPv6."""
        return cls(f"[{address}]" if address.version == 6 else str(address), port)

    def __str__(self) -> str:
        return f"{self.address}:{self.port}"


@dataclass(frozen=True, slots=True)
class Server:
    """One line of an upstream."""

    endpoint: Endpoint
    weight: int
    backup: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """One nginx upstream: the servers of one variant, and behind them, as backup, those of stable."""

    name: Ident
    variant: str
    servers: tuple[Server, ...]
    balanced: bool = True
    """False: the service's method is left out, because there is one server to choose from and nginx would refuse
    the backups behind it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForceRule:
    """Requests whose header or cookie matches go to ``upstream`` whatever their share says."""

    source: str
    """``header`` or ``cookie``."""
    name: str
    value: str | None
    """The exact value that matches; None: ``always`` goes to ``upstream``, ``never`` to ``otherwise``."""
    upstream: Ident
    otherwise: Ident


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """How requests are divided between upstreams: force rules first, then the hash ranges."""

    pieces: tuple[tuple[Share, Ident], ...]
    """(size in basis points, upstream), in the order of the hash space; sizes sum to 10 000."""
    force: tuple[ForceRule, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A named subset of a service's instances."""

    name: str
    asked: Share
    """What tags or the operator's override ask for."""
    effective: Share
    """What it gets, given who is there."""


class PlannedState(StrEnum):
    """Why an instance gets traffic or not."""

    SERVING = "serving"
    STANDBY = "standby"
    """In another datacenter: its turn comes when the local instances fail."""
    DRAINED = "drained"
    """Its weight is 0."""
    UNHEALTHY = "unhealthy"
    NO_PORT = "no port"
    LEFT_OUT = "left out"
    """Its tags, address or port cannot be used, and it never served with others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedInstance:
    """An instance as the plan sees it, for those who ask why."""

    node: str
    id: str
    datacenter: str
    address: str
    port: int
    variant: str
    weight: int
    health: Health
    state: PlannedState
    unchecked: bool = False
    """As in `Instance`; it serves where ``health`` is still what it was before."""
    problem: str = ""
    """Why its registration cannot be used as it is. Where it is not left out, it has the tags of before."""


class ServiceState(StrEnum):
    """What requests of a service's routes meet."""

    SERVED = "served"
    NOBODY = "nobody"
    """No instance can take a request: its routes answer 503."""
    QUARANTINED = "quarantined"
    """Left out: the routes that it holds answer 503."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantine:
    """Why one service is left out."""

    service: ServiceName
    place: str
    reason: str
    lost: frozenset[Claim] = frozenset()
    """Hosts or ports that nginx itself refuses: not even a page of ours can stand there."""
    withdrawn: bool = False
    """Refused in quarantine too: none of its routes is answered."""

    def __str__(self) -> str:
        return f"service {self.service}: {self.place}: {self.reason}"


@dataclass(frozen=True, slots=True, order=True)
class RouteClaim:
    """A host (None: any) and a path prefix that one service holds."""

    host: str
    """Empty for any host."""
    path: str

    @property
    def is_wide(self) -> bool:
        """Whether it is for any host or a wildcard."""
        return not self.host or self.host.startswith("*.")

    def __str__(self) -> str:
        return f"{self.host or '*any host*'}{self.path}"


@dataclass(frozen=True, slots=True, order=True)
class PortClaim:
    """A port on which one service's streams arrive."""

    protocol: str
    """``tcp`` or ``udp``."""
    port: int

    def __str__(self) -> str:
        return f"{self.protocol} port {self.port}"


Claim = RouteClaim | PortClaim


class Copy(NamedTuple):
    """A route of any host or a wildcard, under a narrower host. nginx looks for a path in one virtual server alone, so
    the route stands there too."""

    host: str
    wider: str
    """The route's own host."""
    path: str

    def __str__(self) -> str:
        return f"{self.host}{self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """A claim that two services make: who has it, who was told no."""

    claim: Claim
    holder: ServiceName | None
    """None: nobody; the operator's policy refuses the loser."""
    loser: ServiceName
    reason: str = "held by an older claim"


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One routed service, planned by itself: nothing here depends on any other service."""

    name: ServiceName
    ident: Ident
    state: ServiceState
    options: ProxyTags = field(default_factory=ProxyTags)
    """What its instances state together; per-instance keys are empty."""
    claims: tuple[Claim, ...] = ()
    """What it wants; `Plan.holders` says what it got."""
    registered: int = 0
    """Lowest CreateIndex of its instances: the age of a newcomer's claim."""
    htpasswd: str | None = None
    """Path of the file that the ``auth`` tag names."""
    variants: tuple[Variant, ...] = ()
    upstreams: tuple[Upstream, ...] = ()
    split: Split | None = None
    """None: everything goes to the only upstream."""
    instances: tuple[PlannedInstance, ...] = ()
    kept: tuple[Instance, ...] = ()
    """Instances whose registration cannot be used, with the tags of before, which they were planned with."""
    elsewhere: tuple[PlannedInstance, ...] = ()
    """Those of the other datacenter that stands behind the local ones, or serves where none of them can."""
    warnings: tuple[str, ...] = ()
    quarantine: Quarantine | None = None

    @property
    def before_backup(self) -> int:
        """How many servers can fail a request before it reaches a backup: the most of any upstream that has some."""
        backed = (upstream.servers for upstream in self.upstreams if upstream.servers[-1].backup)
        return max((sum(not server.backup for server in servers) for servers in backed), default=0)

    def claims_host(self, host: str) -> bool:
        """Whether it asks for routes of this very host, and is not only served there by a wider one."""
        return any(isinstance(claim, RouteClaim) and claim.host == host for claim in self.claims)


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A certificate with its key, found on disk and seen to fit."""

    name: str
    file: str = ""
    """The name of the operator's file."""
    hosts: tuple[str, ...]
    """DNS names in it, lower case, wildcards as ``*.example.com``."""
    certificate: str
    key: str
    fingerprint: str
    """SHA-256 over both files: a renewed certificate makes a new generation."""
    expires: float = 0.0
    """In Unix time."""
    is_previous: bool = False
    """Whether it is the last good one of a file that holds none now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateIndex:
    """Certificates by what tags ask for: thousands of services ask, each for one of thousands."""

    by_name: Mapping[str, Certificate]
    """The first of each name: NAME.crt may lie beside NAME.pem. A previous pair comes after those present."""
    by_host: Mapping[str, Certificate]
    """For each DNS name the one that expires last: a renewed one may lie beside the one before. A previous pair comes
    after those present, whenever it expires."""

    @classmethod
    def of(cls, certificates: Iterable[Certificate]) -> CertificateIndex:
        """By name the present one, by host the present one that expires last."""
        by_name: dict[str, Certificate] = {}
        by_host: dict[str, Certificate] = {}
        present_first = sorted(certificates, key=lambda each: each.is_previous)
        for certificate in present_first:
            by_name.setdefault(certificate.name, certificate)
        for certificate in sorted(present_first, key=lambda each: (each.is_previous, -each.expires)):
            for host in certificate.hosts:
                by_host.setdefault(host, certificate)
        return cls(by_name=MappingProxyType(by_name), by_host=MappingProxyType(by_host))


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorities:
    """Who may vouch for instances that speak TLS: a file of CA certificates."""

    file: str
    fingerprint: str
    """SHA-256 over the file: another authority makes a new generation."""


@dataclass(frozen=True, slots=True)
class Location:
    """One route inside a virtual server."""

    path: Path
    service: Service


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualServer:
    """One host (None: the default server) with its routes."""

    host: Host | None
    locations: tuple[Location, ...]
    """Sorted by path; nginx picks the longest prefix."""
    certificate: Certificate | None = None
    hsts: ServiceName | None = None
    """The host's holder, where its tags ask for HSTS."""
    without: frozenset[str] = frozenset()
    """Our listens where it does not stand: the operator serves the host there."""


@dataclass(frozen=True, slots=True)
class StreamServer:
    """The TCP or UDP ports of one service: more than one while a rolling deploy changes the port. One in quarantine may
    have both kinds, and then two of these."""

    claims: tuple[PortClaim, ...]
    """Never empty; sorted, and of one protocol."""
    service: Service


@dataclass(frozen=True, slots=True)
class GoodTags:
    """A service's instances, with the tags that they were last served with."""

    there: tuple[Instance, ...] = ()
    gone: tuple[Instance, ...] = ()
    """Some that are no longer registered: during a rolling deploy one goes and comes back by the same name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What a plan must know of the one before: who holds which claim, where wider routes serve, what parsed last."""

    holders: Mapping[Claim, ServiceName] = field(default_factory=lambda: MappingProxyType({}))
    overrides: Mapping[ServiceName, str] = field(default_factory=lambda: MappingProxyType({}))
    copies: frozenset[Copy] = frozenset()
    good_tags: Mapping[ServiceName, GoodTags] = field(default_factory=lambda: MappingProxyType({}), compare=False)
    """Not part of what a plan gives: only what went live was served."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Who gets which traffic. The same plan renders to the same bytes."""

    services: tuple[Service, ...]
    """Routed services by name, quarantined ones included."""
    servers: tuple[VirtualServer, ...]
    """The default server first, then by host."""
    streams: tuple[StreamServer, ...]
    conflicts: tuple[Conflict, ...] = ()
    memory: Memory = field(default_factory=Memory)

    @property
    def quarantined(self) -> tuple[Quarantine, ...]:
        return tuple(service.quarantine for service in self.services if service.quarantine)


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorNames:
    """The ``server_name`` of nginx.conf's own servers at one address."""

    hosts: frozenset[str] = frozenset()
    """In lower case; wildcards at the front (``*.example.com``) and at the end (``www.*``) among them."""
    patterns: tuple[str, ...] = ()
    """Regular expressions in their order, without the tilde."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """An address at which our virtual servers listen, and whom the operator serves there himself."""

    text: str
    """As the settings say it."""
    is_tls: bool = False
    names: OperatorNames = field(default_factory=OperatorNames)


ANYWHERE: Final = (ip_network("0.0.0.0/0"), ip_network("::/0"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the operator allows, and what the plan may refer to."""

    prefix: str = "proxygen"
    seed: str = ""
    allowed: tuple[IPNetwork, ...] = ANYWHERE
    denied: tuple[IPNetwork, ...] = ()
    denied_endpoints: frozenset[Endpoint] = frozenset()
    """Endpoints that only the sidecar itself may speak to: Consul's agent, the admin API, the stamp; and the proxy's
    own, which would send a request round in circles."""
    own_addresses: frozenset[IPv4Address | IPv6Address] = frozenset()
    """This host's own addresses, beside loopback."""
    own_networks: tuple[IPNetwork, ...] = ()
    """Networks of which this host answers at every address."""
    own_ports: frozenset[int] = frozenset()
    """Ports of ours that are closed at all of this host's addresses."""
    stream_address: IPv4Address | IPv6Address | None = None
    """Where streams listen; None: at all of this host's addresses."""
    claims: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    """Host pattern to the service name patterns that may claim it."""
    listens: tuple[Listening, ...] = ()
    """Where our virtual servers listen."""
    hosts_whole: bool = False
    """Who holds a host holds all its paths."""
    streams: bool = True
    """nginx.conf includes the stream part of a generation."""
    stream_ports: range = range(1024, 65536)
    reserved_ports: frozenset[int] = frozenset()
    """Ports that the virtual servers, the stamp or the admin API listen on."""
    taken_ports: Mapping[tuple[str, int], str] = field(default_factory=lambda: MappingProxyType({}))
    """Ports on which a server of the operator's listens, by protocol and number, with its place."""
    certificates: tuple[Certificate, ...] = ()
    certificate_index: CertificateIndex = field(init=False, repr=False, compare=False)
    htpasswd: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """htpasswd file's name to its path."""
    ungated: frozenset[str] = frozenset()
    """Services beside whose password nginx cannot ask for the operator's, who asks for one."""
    bounds: Bounds = field(default_factory=Bounds)
    knows_files: bool = True
    """False: certificates and htpasswd files are elsewhere, and what tags say of them is believed."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "certificate_index", CertificateIndex.of(self.certificates))
