"""From claims that were won to virtual servers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from proxygen.model import ServiceName
from proxygen.plan.certificates import certificate_for
from proxygen.plan.reserved import may_claim
from proxygen.plan.types import Certificate, Claim, Location, Policy, RouteClaim, Service, VirtualServer
from proxygen.tags import AUTO, Host, Path

_Routes = dict[Path, Service]


def virtual_servers(
    services: Mapping[ServiceName, Service],
    holders: Mapping[Claim, ServiceName],
    certificates: Mapping[str, Certificate],
    policy: Policy,
    reserved: Iterable[str] = (),
) -> tuple[VirtualServer, ...]:
    """One virtual server per host, the default server first. A ``reserved`` host has one though nobody claims it.

    The most specific host decides first, then the longest path (as in the Gateway API's precedence): a route
    of a wildcard or of any host serves a named host only at paths that no route of the named host covers. So
    nobody takes a path away from a host by claiming it for all hosts, and a host that the operator's rules reserve
    is served by those that may claim it only. Where hosts are whole, nobody else serves a path of a named host at all.
    """
    own: dict[str, _Routes] = defaultdict(dict)
    own[""] = {}
    for claim, name in holders.items():
        if isinstance(claim, RouteClaim):
            own[claim.host][Path(claim.path)] = services[name]
    kept = frozenset(reserved)
    for host in kept:
        own.setdefault(host, {})
    # Most catalogs have few of them or none, and thousands of hosts that they may cover.
    wide = {host for host, routes in own.items() if routes and (not host or host.startswith("*."))}
    servers = []
    for host in sorted(own):
        routes = own[host]
        covering = [wider for wider in _wider(host) if wider in wide] if wide else []
        if covering:
            routes = dict(routes)
        holders_here = {service.name for service in routes.values()} if policy.hosts_whole else set()
        for wider in covering:
            allowed = {
                path: service
                for path, service in own[wider].items()
                if may_claim(service.name, RouteClaim(host, path), policy.claims)
                and (not holders_here or service.name in holders_here)
            }
            _fall_back(routes, allowed)
        servers.append(
            VirtualServer(
                host=Host(host) if host else None,
                locations=tuple([Location(path, routes[path]) for path in sorted(routes)]),
                certificate=certificates.get(host)
                or _wider_certificate(host, covering, certificates, is_free=host in kept and not own[host]),
            )
        )
    return tuple(servers)


def _wider_certificate(
    host: str, covering: Iterable[str], certificates: Mapping[str, Certificate], *, is_free: bool
) -> Certificate | None:
    """The certificate of a wildcard that holds this host too: a path that is claimed for one host must not take
    HTTPS away from what the wildcard serves there. A reserved host that is ``free`` takes any: without one, HTTPS
    requests for it would be the wildcard's."""
    for wider in covering:
        certificate = certificates.get(wider)
        if certificate is not None and (is_free or certificate_for(host, AUTO, (certificate,)) is not None):
            return certificate
    return None


def _wider(host: str) -> Iterable[str]:
    """Yield the wildcards that cover a host, the closest first, and last any host ("")."""
    if not host:
        return
    rest = host.removeprefix("*.").partition(".")[2]
    while rest:
        yield f"*.{rest}"
        rest = rest.partition(".")[2]
    yield ""


def _fall_back(routes: _Routes, wider: _Routes) -> None:
    """Add the wider host's routes at paths that nothing covers yet."""
    narrow = tuple(routes)
    for path, service in wider.items():
        if not any(covers(own, path) for own in narrow):
            routes[path] = service


def covers(prefix: Path, path: Path) -> bool:
    """Tell whether a route's path takes requests for another: by whole segments, so /api does not take /apix."""
    return prefix == "/" or path == prefix or path.startswith(f"{prefix}/")
