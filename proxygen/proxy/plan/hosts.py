"""From claims that were won to virtual servers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from proxygen.catalog import ServiceName
from proxygen.proxy.plan.certificates import is_for
from proxygen.proxy.plan.copies import Routes, is_covered, is_wide, wider
from proxygen.proxy.plan.reserved import Reserved
from proxygen.proxy.plan.types import Certificate, Copy, Location, Service, VirtualServer
from proxygen.tags import Host, Path


def served_routes(own: Routes, copies: Iterable[Copy]) -> Routes:
    """Return the routes of each host, with those that wider hosts lend it.

    The most specific host decides first, then the longest path (as in the Gateway API's precedence): a route
    of a wildcard or of any host serves a named host only at paths that no route of the named host covers. So
    nobody takes a path away from a host by claiming it for all hosts.
    """
    lent: dict[str, dict[str, dict[Path, ServiceName]]] = defaultdict(lambda: defaultdict(dict))
    for copy in copies:
        path = Path(copy.path)
        lent[copy.host][copy.wider][path] = own[copy.wider][path]
    served = dict(own)
    for host, levels in lent.items():
        routes = dict(own[host])
        for level in filter(levels.__contains__, wider(host)):
            routes |= {path: name for path, name in levels[level].items() if not is_covered(path, routes)}
        served[host] = routes
    return served


def virtual_servers(
    services: Mapping[ServiceName, Service],
    own: Routes,
    served: Routes,
    certificates: Mapping[str, Certificate],
    bound: Mapping[str, ServiceName],
    reserved: Mapping[str, Reserved],
) -> tuple[VirtualServer, ...]:
    """One virtual server per host, the default server first, with the routes ``served`` there.

    ``bound``: whose HSTS binds a host. A ``reserved`` host without routes of its own stands only where the operator
    does not serve it.
    """
    # Most catalogs have few of them or none, and thousands of hosts that they may cover.
    wide = {host for host, routes in own.items() if routes and is_wide(host)}
    servers = []
    for host in sorted(own):
        routes = served[host]
        covering = [each for each in wider(host) if each in wide] if wide else []
        certificate = certificates.get(host)
        certificate = certificate or _wider_certificate(host, covering, certificates, is_free=not own[host])
        without = reserved[host].without(covering) if host in reserved and not own[host] else frozenset()
        if without and reserved[host].is_left_out(without, is_secure=certificate is not None):
            continue
        servers.append(
            VirtualServer(
                host=Host(host) if host else None,
                locations=tuple([Location(path, services[routes[path]]) for path in sorted(routes)]),
                certificate=certificate,
                hsts=bound.get(host),
                without=without,
            )
        )
    return tuple(servers)


def _wider_certificate(
    host: str, covering: Iterable[str], certificates: Mapping[str, Certificate], *, is_free: bool
) -> Certificate | None:
    """The certificate of a wildcard that holds this host too: a path that is claimed for one host must not take
    HTTPS away from what the wildcard serves there. A reserved host that is ``free`` takes any: without one, HTTPS
    requests for it would be the wildcard's."""
    for host_above in covering:
        certificate = certificates.get(host_above)
        if certificate is not None and (is_free or is_for(certificate, host)):
            return certificate
    return None
