"""Where routes of any host or a wildcard serve narrower hosts: who gets the places there are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from types import MappingProxyType
from typing import Final

from proxygen.catalog import ServiceName
from proxygen.proxy.plan.reserved import Reservations, reservations
from proxygen.proxy.plan.types import Claim, Copy, Policy, RouteClaim, Service
from proxygen.tags import Path

Routes = Mapping[str, Mapping[Path, ServiceName]]
"""Who holds which paths of each host that has a virtual server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WiderRoutes:
    """Wider routes under narrower hosts."""

    given: frozenset[Copy] = frozenset()
    refused: Mapping[ServiceName, Copy] = field(default_factory=lambda: MappingProxyType({}))
    """For each service that would have too many, the first that it does not get."""


def own_routes(holders: Mapping[Claim, ServiceName], reserved: Iterable[str] = ()) -> Routes:
    """Return the routes of each host. The default server is there without any, and so is a ``reserved`` host."""
    own: dict[str, dict[Path, ServiceName]] = defaultdict(dict)
    for host in ("", *reserved):
        own[host] = {}
    for claim, name in holders.items():
        if isinstance(claim, RouteClaim):
            own[claim.host][Path(claim.path)] = name
    return dict(own)


def settle_copies(
    own: Routes, services: Mapping[ServiceName, Service], policy: Policy, before: frozenset[Copy]
) -> WiderRoutes:
    """Say under which hosts a wider route serves: where no route of the host covers its path and the operator lets its
    service claim the host; where hosts are whole, only where its service has routes of its own.

    A service has ``bounds.copies`` of them: first those that it had, then those of older hosts. So nobody loses what is
    served by what others register, and no claim is refused for it. Under a host where a route does not serve, it counts
    as not claimed.
    """
    wide: dict[ServiceName, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for level in filter(is_wide, own):
        for path, name in own[level].items():
            wide[name][level].append(path)
    if not wide:
        return WiderRoutes()
    site = _Site(own, policy)
    had: dict[ServiceName | None, list[Copy]] = defaultdict(list)
    for copy in sorted(before):
        had[own.get(copy.wider, {}).get(Path(copy.path))].append(copy)
    covered = _covered(own, services)
    given: set[Copy] = set()
    refused = {}
    for name, by_level in wide.items():
        there = (Copy(host, level, path) for level in by_level for host in covered[level] for path in by_level[level])
        asked = chain(had[name], (copy for copy in there if copy not in before))
        possible = (copy for copy in asked if site.lets(name, copy))
        given.update(islice(possible, policy.bounds.copies))
        if more := next(possible, None):
            refused[name] = more
    return WiderRoutes(given=frozenset(given), refused=MappingProxyType(refused))


class _Site:
    """The hosts as they are, for whom a wider route may serve."""

    def __init__(self, own: Routes, policy: Policy) -> None:
        self._own: Final = own
        self._rules: Final[Reservations] = reservations(policy.claims)
        self._whole: Final = (
            {host: frozenset(routes.values()) for host, routes in own.items()} if policy.hosts_whole else {}
        )

    def lets(self, name: ServiceName, copy: Copy) -> bool:
        routes = self._own.get(copy.host)
        if routes is None or is_covered(Path(copy.path), routes):
            return False
        here = self._whole.get(copy.host)
        return (not here or name in here) and self._rules.may_claim(name, RouteClaim(copy.host, copy.path))


def _covered(own: Routes, services: Mapping[ServiceName, Service]) -> Mapping[str, list[str]]:
    """The hosts that have no route for all paths, under each wider one that covers them; the older first."""

    def age(host: str) -> tuple[int, str]:
        return min((services[name].registered for name in own[host].values()), default=0), host

    covered: dict[str, list[str]] = defaultdict(list)
    for host in sorted((host for host, routes in own.items() if "/" not in routes), key=age):
        for level in wider(host):
            covered[level].append(host)
    return covered


def over_the_bound(copies: WiderRoutes, policy: Policy) -> Mapping[ServiceName, tuple[str, ...]]:
    """Say to each service that would have too many copies what it does not get."""
    most = policy.bounds.copies
    return {
        name: (
            f"its routes of any host or a wildcard serve {most} places under narrower hosts, as many as a service may "
            f"have (bounds.copies); not served: {copy} and what comes after it",
        )
        for name, copy in copies.refused.items()
    }


def is_wide(host: str) -> bool:
    return not host or host.startswith("*.")


def wider(host: str) -> Iterator[str]:
    """Yield the wildcards that cover a host, the closest first, and last any host ("")."""
    if not host:
        return
    rest = host.removeprefix("*.").partition(".")[2]
    while rest:
        yield f"*.{rest}"
        rest = rest.partition(".")[2]
    yield ""


def is_covered(path: Path, routes: Container[str]) -> bool:
    """Tell whether one of the routes takes requests for a path: by whole segments, so /api does not take /apix."""
    part: str = path
    while part:
        if part in routes:
            return True
        part = part.rpartition("/")[0]
    return "/" in routes
