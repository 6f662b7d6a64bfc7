"""What the operator allows, from settings and from what this host is; names are looked up here and nowhere else."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Final
from urllib.parse import urlsplit

from proxygen.consul.address import parse_address
from proxygen.kit.errors import BadInput
from proxygen.proxy.nginx.addresses import Occupied
from proxygen.proxy.nginx.conf import OperatorConf, Statement
from proxygen.proxy.plan.bounds import Bounds
from proxygen.proxy.plan.reserved import reserved_remarks
from proxygen.proxy.plan.types import Certificate, Endpoint, Listening, Policy
from proxygen.proxy.policy.operator_files import read_htpasswd
from proxygen.proxy.policy.own_addresses import read_own_addresses
from proxygen.settings import ProxySettings, Settings
from proxygen.tags import IPNetwork

PATIENCE: Final = 2.0
"""Seconds that a name may take to be looked up."""

CONSUL_PORTS: Final = (8500, 8501, 8502, 8503)
"""HTTP, HTTPS, gRPC and gRPC over TLS, as Consul's documentation names them."""

_Address = IPv4Address | IPv6Address

_UNSPECIFIED: Final = {4: "0.0.0.0", 6: "::"}  # noqa: S104

_CLOSING: Final = frozenset({"allow", "auth_basic", "auth_jwt", "auth_request", "deny", "stub_status"})
"""What says that a server is not for everybody."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where something listens that no tag may reach."""

    host: str
    """Empty for all addresses of this host."""
    port: int
    is_exact: bool = False
    """It listens at this very address, and the port at this host's others may be an application's."""


def read_policy(
    settings: Settings,
    conf: OperatorConf | None,
    held: Occupied,
    *,
    certificates: tuple[Certificate, ...],
    own: frozenset[IPNetwork],
) -> tuple[Policy, tuple[str, ...]]:
    """Return the policy, and what could not be found out for it. Takes its time: not on an event loop.

    Raise BadInput where a setting cannot be used.
    """
    proxy = settings.proxy
    low, _, high = proxy.stream_ports.partition("-")
    endpoints, ports, unknown = _ours(settings, own)
    operator_endpoints, operator_ports = _operators(held, _closed(conf))
    policy = replace(
        read_instance_policy(settings),
        seed=proxy.seed or socket.gethostname(),
        denied_endpoints=endpoints | operator_endpoints,
        own_addresses=frozenset(network.network_address for network in own if network.num_addresses == 1),
        own_networks=tuple(sorted((network for network in own if network.num_addresses > 1), key=str)),
        own_ports=ports | operator_ports,
        stream_address=ip_address(proxy.stream_address) if proxy.stream_address else None,
        listens=tuple(_ours_listening(proxy, held)),
        streams=conf is None or "stream" in conf.includes,
        stream_ports=range(int(low), int(high or low) + 1),
        reserved_ports=frozenset(place.port for place in _listening(settings)),
        taken_ports=held.ports(proxy.stream_address),
        certificates=certificates,
        htpasswd=read_htpasswd(proxy.htpasswd),
    )
    return policy, (*unknown, *reserved_remarks(policy))


def _ours_listening(proxy: ProxySettings, held: Occupied) -> Iterator[Listening]:
    """Without certificates nothing of ours listens for HTTPS."""
    for text in proxy.http_listen:
        yield Listening(text=text, names=held.names(text))
    for text in proxy.https_listen if proxy.certificates is not None else ():
        yield Listening(text=text, is_tls=True, names=held.names(text))


def read_claim_policy(settings: Settings) -> Policy:
    """Return what decides over claims alone, for a place that is not the proxy's host."""
    return Policy(
        prefix=settings.proxy.tag_prefix,
        claims=_rules(settings.proxy.claims),
        hosts_whole=settings.proxy.hosts == "whole",
        bounds=Bounds(**settings.bounds.model_dump()),
    )


def read_instance_policy(settings: Settings) -> Policy:
    """Return what the settings alone say of instances: what is known of the proxy's host is not in it.

    Raise BadInput where a setting cannot be used.
    """
    return replace(
        read_claim_policy(settings),
        allowed=_networks(settings.proxy.allowed_addresses, "proxy.allowed_addresses"),
        denied=_networks(settings.proxy.denied_addresses, "proxy.denied_addresses"),
    )


def _networks(texts: tuple[str, ...], key: str) -> tuple[IPNetwork, ...]:
    try:
        return tuple(ip_network(text) for text in texts)
    except ValueError as error:
        raise BadInput(f"{key}: {error}") from error


def _rules(claims: Mapping[str, tuple[str, ...]]) -> Mapping[str, tuple[str, ...]]:
    """Hosts are in lower case, whatever the operator writes."""
    rules: dict[str, tuple[str, ...]] = {}
    for pattern, names in claims.items():
        rules[pattern.lower()] = (*rules.get(pattern.lower(), ()), *names)
    return rules


# --- what is ours on this host, and must not be reached through a tag


def own_networks() -> tuple[frozenset[IPNetwork], tuple[str, ...]]:
    """Return where this host answers, and why that is not known."""
    try:
        return read_own_addresses(), ()
    except OSError as error:
        return frozenset(), (
            f"this host's own addresses cannot be read ({error}): only loopback is refused for instances",
        )


def _ours(settings: Settings, own: frozenset[IPNetwork]) -> tuple[frozenset[Endpoint], frozenset[int], tuple[str, ...]]:
    """Return the places of ours, the ports that are closed at all of this host's addresses, and what is not known."""
    places = (*_listening(settings), *_asked(settings))
    known = {host: _addresses(host) if host else frozenset() for host in {place.host for place in places}}
    endpoints: set[Endpoint] = set()
    ports: set[int] = set()
    for place in places:
        addresses = known[place.host]
        endpoints |= {Endpoint.of(address, place.port) for address in addresses or ()}
        # Of a name that nobody knows, this host is what may be meant.
        if not addresses or any(_closes_port(address, place, own) for address in addresses):
            ports.add(place.port)
    unknown = sorted(host for host, addresses in known.items() if addresses is None)
    problems = (f"{host} cannot be looked up, so instances at its address are not refused" for host in unknown)
    return frozenset(endpoints), frozenset(ports), tuple(problems)


def _closes_port(address: _Address, place: _Place, own: frozenset[IPNetwork]) -> bool:
    """Whether this host's other addresses may lead there too: to what is on loopback, and to what is asked at one of
    them, for it most often listens at all."""
    if address.is_loopback or address.is_unspecified:
        return True
    return not place.is_exact and any(address in network for network in own)


def _listening(settings: Settings) -> Iterator[_Place]:
    proxy = settings.proxy
    for listen in (*proxy.http_listen, *proxy.https_listen, settings.nginx.stamp, settings.admin.listen):
        host, _, port = listen.rpartition(":")
        if port.isdigit():
            yield _Place(host.strip("[]"), int(port), is_exact=True)


def _closed(conf: OperatorConf | None) -> frozenset[int]:
    """Return the identities of the ``server`` statements of nginx.conf whose servers say who may ask."""
    closed: set[int] = set()
    server: Statement | None = None
    for each in conf.statements if conf is not None else ():
        if each.directive.name == "server" and len(each.context) == 1:
            server = each
        elif server is not None and len(each.context) > 1 and each.directive.name in _CLOSING:
            closed.add(id(server))
    return frozenset(closed)


def _operators(held: Occupied, closed: frozenset[int]) -> tuple[frozenset[Endpoint], frozenset[int]]:
    """Return where those of nginx.conf's own servers listen that are ``closed``, and the ports that they have at every
    address. Such a server may let in this host alone, and a request through us comes from there."""
    endpoints: set[Endpoint] = set()
    ports: set[int] = set()
    servers = (server for server in held.servers if id(server.statement) in closed)
    for place in (place for server in servers for place in server.addresses if place.port):
        address = _unmapped(ip_address(place.host))
        if address.is_unspecified:
            ports.add(place.port)
            continue
        endpoints.add(Endpoint.of(address, place.port))
        if address.is_loopback:
            # Linux leads the unspecified address there.
            endpoints.add(Endpoint.of(ip_address(_UNSPECIFIED[address.version]), place.port))
    return frozenset(endpoints), frozenset(ports)


def _unmapped(address: _Address) -> _Address:
    """Instances at IPv4-mapped addresses are judged as the IPv4 ones that they reach."""
    return (address.ipv4_mapped if isinstance(address, IPv6Address) else None) or address


def _asked(settings: Settings) -> Iterator[_Place]:
    """Consul's agent and the engine's API: who reaches them has the host."""
    consul = parse_address(settings.consul.address, ssl=settings.consul.ssl)
    # Behind a gateway at another port, the agent itself most often has its own.
    for port in sorted({consul.port, *CONSUL_PORTS}):
        yield _Place(consul.host, port)
    engine = urlsplit(settings.nginx.docker_host)
    if engine.scheme in ("tcp", "http", "https") and engine.hostname:
        yield _Place(engine.hostname, engine.port or 2375)


def _addresses(host: str) -> frozenset[_Address] | None:
    """What a host's name stands for, an address for itself; None where nobody answers in time."""
    if host == "localhost":
        return frozenset({ip_address("127.0.0.1"), ip_address("::1")})
    try:
        return frozenset({ip_address(host)})
    except ValueError:
        return _looked_up(host)


def _looked_up(name: str) -> frozenset[_Address] | None:
    answers: SimpleQueue[frozenset[_Address] | None] = SimpleQueue()

    def look() -> None:
        try:
            found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            answers.put(None)
        else:
            answers.put(frozenset(ip_address(str(item[4][0]).partition("%")[0]) for item in found))

    # getaddrinfo knows no time-out, and a thread of an executor would be waited for at the end of the process.
    Thread(target=look, name=f"look up {name}", daemon=True).start()
    try:
        return answers.get(timeout=PATIENCE)
    except Empty:
        return None


# --- what nginx.conf serves by itself
