"""Hosts under which several services hold paths: one browser origin, and who held it first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

from proxygen.catalog import ServiceName
from proxygen.kit.texts import keep_some, name_some
from proxygen.proxy.plan.copies import wider
from proxygen.proxy.plan.reserved import reservations
from proxygen.proxy.plan.types import Claim, Policy, RouteClaim, Service

_TOLD: Final = 10

_Rank = tuple[bool, bool, int, ServiceName]
"""Who asks for paths of a host: whether it did not hold the root, or any path, before; its age; its name."""


def host_holders(
    wanted: Iterable[tuple[Service, RouteClaim]], held: Mapping[Claim, ServiceName], policy: Policy
) -> Mapping[str, ServiceName]:
    """Return who holds each named host: who held its root before, else any path of it, else the older registration.

    A name that a wildcard covers is its own service's where that claims the root: whole names may be somebody else's.
    A mere path of it is under the wildcard, and so the name is the wildcard's holder's, unless a rule reserves it for
    others. Where hosts are whole that takes the path away, so not from who had it before, or is older than a wildcard
    that is as new. What is for any host is nobody's.
    """
    known, rules = _hosts_held(held), reservations(policy.claims)
    asking: dict[str, dict[_Rank, bool]] = defaultdict(dict)
    for service, claim in wanted:
        if claim.host:
            rank = _rank(service, claim.host, held, known)
            asking[claim.host][rank] = claim.path == "/" or asking[claim.host].get(rank, False)
    first: dict[str, _Rank] = {}
    for host in sorted(asking, key=_widest_first):
        over = (first[each] for each in wider(host) if each in first)
        above = next((rank for rank in over if rules.may_claim(rank[-1], RouteClaim(host, "/"))), None)
        own = [
            rank
            for rank, has_root in asking[host].items()
            if above is None or has_root or (policy.hosts_whole and _keeps_path(rank, above))
        ]
        first[host] = min(own) if own or above is None else above
    return {host: rank[-1] for host, rank in first.items()}


def any_host_holder(
    wanted: Iterable[tuple[Service, RouteClaim]], held: Mapping[Claim, ServiceName]
) -> ServiceName | None:
    """Return who speaks for the hosts that nobody names: who has the root of any host, else who had any path of it
    before, else the older registration."""
    known = _hosts_held(held)
    asking = ((claim.path != "/", _rank(service, "", held, known)) for service, claim in wanted if not claim.host)
    first = min(asking, default=None)
    return None if first is None else first[1][-1]


def _hosts_held(held: Mapping[Claim, ServiceName]) -> frozenset[tuple[str, ServiceName]]:
    return frozenset((claim.host, name) for claim, name in held.items() if isinstance(claim, RouteClaim))


def _rank(
    service: Service,
    host: str,
    held: Mapping[Claim, ServiceName],
    known: frozenset[tuple[str, ServiceName]],
) -> _Rank:
    is_root_new = held.get(RouteClaim(host, "/")) != service.name
    return is_root_new, (host, service.name) not in known, service.registered, service.name


def _widest_first(host: str) -> tuple[int, bool]:
    return host.count("."), not host.startswith("*.")


def _keeps_path(rank: _Rank, above: _Rank) -> bool:
    _, is_new, *age = rank
    _, is_wildcard_new, *wildcard_age = above
    return not is_new or (is_wildcard_new and age < wildcard_age)


def shared_hosts(
    services: Mapping[ServiceName, Service],
    holders: Mapping[Claim, ServiceName],
    held: Mapping[Claim, ServiceName],
    policy: Policy,
) -> Mapping[ServiceName, tuple[str, ...]]:
    """Say to each service with which others it shares a host; nothing to those that share none."""
    routes = [(claim, name) for claim, name in holders.items() if isinstance(claim, RouteClaim) and claim.host]
    several = shared(routes)
    if not several:
        return {}
    paths: dict[str, dict[ServiceName, list[RouteClaim]]] = defaultdict(lambda: defaultdict(list))
    for claim, name in routes:
        if claim.host in several:
            paths[claim.host][name].append(claim)
    asking = ((services[name], claim) for claim, name in routes if claim.host in several or claim.is_wide)
    holder_of = host_holders(asking, held, policy)
    warnings: dict[ServiceName, list[str]] = defaultdict(list)
    for host, by_service in sorted(paths.items()):
        holder = holder_of[host]
        others = sorted(by_service.keys() - {holder})
        if not others:
            continue
        warnings[holder].append(f"{name_some(others)} hold paths under {host}, which this service holds; {_CURE}")
        for name in others:
            taken = name_some(sorted(map(str, by_service[name])))
            warnings[name].append(f"it holds {taken}, under a host that service {holder} holds; {_CURE}")
    return {name: keep_some(said, _TOLD, "and so it is with {} more hosts") for name, said in warnings.items()}


def shared(named: Iterable[tuple[RouteClaim, ServiceName]]) -> set[str]:
    """Return the hosts of which several services may hold paths; a wildcard serves what it covers, save its roots."""
    routes = tuple(named)
    first: dict[str, ServiceName] = {}
    several = {claim.host for claim, name in routes if first.setdefault(claim.host, name) != name}
    wildcards = {claim.host for claim, _ in routes if claim.is_wide}
    if wildcards:
        rooted = {claim.host for claim, _ in routes if claim.path == "/"}
        several |= {host for host in first.keys() - rooted if not wildcards.isdisjoint(wider(host))}
    return several


_CURE: Final = 'to a browser both are one site; proxy.hosts = "whole" keeps a host to one service'
