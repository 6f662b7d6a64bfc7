"""Where routes of any host or a wildcard serve narrower hosts: who gets the places there are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from heapq import merge
from itertools import chain, islice
from types import MappingProxyType
from typing import Final

from proxygen.catalog import ServiceName
from proxygen.proxy.plan.bounds import Bounds
from proxygen.proxy.plan.reserved import Reservations, reservations
from proxygen.proxy.plan.types import Claim, Copy, Policy, RouteClaim, Service
from proxygen.tags import Path

Routes = Mapping[str, Mapping[Path, ServiceName]]
"""Who holds which paths of each host that has a virtual server."""


_Aged = tuple[int, str]
"""A host, behind its age."""
_Groups = dict[str, dict[ServiceName | None, dict[tuple[int, ...], list[_Aged]]]]
"""By the wider host that covers them, whose they are where hosts are whole, and the rules that reserve them."""

_LOOKED_AT: Final = 20
"""Places that are looked at for each copy that a service may have, and one more: no service makes every pass long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WiderRoutes:
    """Wider routes under narrower hosts."""

    given: frozenset[Copy] = frozenset()
    warnings: Mapping[ServiceName, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    """For those who do not get all that they could have."""


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

    A service has ``bounds.copies`` of them, and all together ``bounds.all_copies``: first those that they had, then
    those of older services, each at older hosts first. So nobody loses what is served by what others register, and no
    claim is refused for it. Under a host where a route does not serve, it counts as not claimed.
    """
    wide: dict[ServiceName, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for level in filter(is_wide, own):
        for path, name in own[level].items():
            wide[name][level].append(path)
    if not wide:
        return WiderRoutes()
    had: dict[ServiceName | None, list[Copy]] = defaultdict(list)
    for copy in sorted(before):
        had[own.get(copy.wider, {}).get(Path(copy.path))].append(copy)
    site = _Site(own, services, policy, frozenset(level for levels in wide.values() for level in levels))
    in_turn = sorted(wide, key=lambda name: (services[name].registered, name))
    seekers = [_Seeker(name, had[name], site.places(name, wide[name], before), site, policy.bounds) for name in in_turn]
    room = policy.bounds.all_copies
    for take in (_Seeker.keep, _Seeker.gain):
        for seeker in seekers:
            room -= take(seeker, room)
    return WiderRoutes(
        given=frozenset(chain.from_iterable(seeker.given for seeker in seekers)),
        warnings=MappingProxyType({seeker.name: said for seeker in seekers if (said := seeker.warnings())}),
    )


class _Seeker:
    """A service with wider routes, and the places that it gets for them."""

    def __init__(
        self, name: ServiceName, had: Iterable[Copy], others: Iterator[Copy], site: _Site, bounds: Bounds
    ) -> None:
        self.name: Final = name
        self.given: Final[list[Copy]] = []
        self._bounds: Final = bounds
        self._had: Final = (copy for copy in had if site.keeps(name, copy))
        self._others: Final = others
        self._most: Final = _LOOKED_AT * (bounds.copies + 1)
        self._new: Final = filter(site.is_open, islice(others, self._most))

    def keep(self, room: int) -> int:
        """Take of what it had what there is room for; return how much that is."""
        return self._take(self._had, room)

    def gain(self, room: int) -> int:
        """Take of the rest."""
        return self._take(self._new, room)

    def _take(self, copies: Iterator[Copy], room: int) -> int:
        found = [*islice(copies, min(room, self._bounds.copies - len(self.given)))]
        self.given.extend(found)
        return len(found)

    def warnings(self) -> tuple[str, ...]:
        """Say what it does not get."""
        more = next(self._had, None) or next(self._new, None)
        unseen = next(self._others, None) if more is None else None
        if more is None and unseen is None:
            return ()
        bounds, has = self._bounds, len(self.given)
        rest = f"not served: {more} and what comes after it, except where a host has the path itself"
        if unseen is not None:
            why = f"no more than {self._most} others are looked at (bounds.copies: {bounds.copies})"
            rest = f"not looked at: {unseen} and what comes after it; where no other route serves, they answer 404"
        elif has >= bounds.copies:
            why = f"that is as many as a service may have (bounds.copies: {bounds.copies})"
        else:
            why = f"all services together have as many as they may (bounds.all_copies: {bounds.all_copies})"
        return (f"its routes of any host or a wildcard serve {has} places under narrower hosts, and {why}; {rest}",)


class _Site:
    """The hosts as they are, for whom a wider route may serve: gathered by who may serve there, the older first, so
    that a service looks at none that is closed to it."""

    def __init__(
        self, own: Routes, services: Mapping[ServiceName, Service], policy: Policy, levels: frozenset[str]
    ) -> None:
        self._own: Final = own
        self._rules: Final[Reservations] = reservations(policy.claims)
        self._is_whole: Final = policy.hosts_whole
        self._groups: Final[_Groups] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
        self._everywhere: Final[dict[str, Set[Path]]] = {}

        def age(host: str) -> _Aged:
            return min((services[name].registered for name in own[host].values()), default=0), host

        for aged in sorted(age(host) for host, routes in own.items() if "/" not in routes):
            _, host = aged
            rules = self._rules.reserving(host)
            tenants = (*{*own[host].values()},) if self._is_whole else ()
            routes = own[host].keys()
            for level in levels.intersection(wider(host)):
                self._everywhere[level] = self._everywhere.get(level, routes) & routes
                for tenant in tenants or (None,):
                    self._groups[level][tenant][rules].append(aged)

    def places(
        self, name: ServiceName, routes: Mapping[str, Iterable[Path]], before: frozenset[Copy]
    ) -> Iterator[Copy]:
        """Yield where a service's routes may serve beside where any did before; nothing of a path that each host takes
        itself."""
        left = {level: [path for path in paths if not self._is_closed(level, path)] for level, paths in routes.items()}
        there = (
            Copy(host, level, path)
            for level, paths in left.items()
            if paths
            for host in self._hosts(name, level)
            for path in paths
        )
        return (copy for copy in there if copy not in before)

    def _is_closed(self, level: str, path: Path) -> bool:
        return is_covered(path, self._everywhere.get(level, ()))

    def _hosts(self, name: ServiceName, level: str) -> Iterator[str]:
        open_to_it = (
            aged
            for tenant in (None, name)
            for rules, aged in self._groups[level][tenant].items()
            if self._rules.lets(name, rules)
        )
        return (host for _, host in merge(*open_to_it))

    def keeps(self, name: ServiceName, copy: Copy) -> bool:
        """Whether a service may go on serving there."""
        here = self._own[copy.host].values() if self._is_whole and copy.host in self._own else ()
        return (
            self.is_open(copy)
            and (not here or name in here)
            and self._rules.may_claim(name, RouteClaim(copy.host, copy.path))
        )

    def is_open(self, copy: Copy) -> bool:
        """Whether no route of the host takes the path."""
        routes = self._own.get(copy.host)
        return routes is not None and not is_covered(Path(copy.path), routes)


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
