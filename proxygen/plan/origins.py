"""Hosts under which several services hold paths: one browser origin, and who held it first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Final

from proxygen.model import ServiceName
from proxygen.plan.types import Claim, RouteClaim, Service

_NAMED: Final = 3


def host_holders(
    wanted: Iterable[tuple[Service, RouteClaim]], held: Mapping[Claim, ServiceName]
) -> Mapping[str, ServiceName]:
    """Return who holds each named host: who held its root before, else any path of it, else the older registration.

    A wildcard is a host by itself: a name that it covers may be somebody else's. What is for any host is nobody's.
    """
    known = {(claim.host, name) for claim, name in held.items() if isinstance(claim, RouteClaim)}
    ranks: dict[str, tuple[bool, bool, int, ServiceName]] = {}
    for service, claim in wanted:
        if claim.host:
            rank = (
                held.get(RouteClaim(claim.host, "/")) != service.name,
                (claim.host, service.name) not in known,
                service.registered,
                service.name,
            )
            ranks[claim.host] = min(rank, ranks.get(claim.host, rank))
    return {host: rank[-1] for host, rank in ranks.items()}


def shared_hosts(
    services: Mapping[ServiceName, Service], holders: Mapping[Claim, ServiceName], held: Mapping[Claim, ServiceName]
) -> Mapping[ServiceName, tuple[str, ...]]:
    """Say to each service with which others it shares a host; nothing to those that share none."""
    routes = [(claim, name) for claim, name in holders.items() if isinstance(claim, RouteClaim) and claim.host]
    first: dict[str, ServiceName] = {}
    shared = {claim.host for claim, name in routes if first.setdefault(claim.host, name) != name}
    if not shared:
        return {}
    paths: dict[str, dict[ServiceName, list[RouteClaim]]] = defaultdict(lambda: defaultdict(list))
    for claim, name in routes:
        if claim.host in shared:
            paths[claim.host][name].append(claim)
    holder_of = host_holders(((services[name], claim) for claim, name in routes if claim.host in shared), held)
    warnings: dict[ServiceName, list[str]] = defaultdict(list)
    for host, by_service in sorted(paths.items()):
        holder = holder_of[host]
        others = sorted(by_service.keys() - {holder})
        warnings[holder].append(f"{_listed(others)} hold paths under {host}, which this service holds; {_CURE}")
        for name in others:
            taken = _listed(sorted(map(str, by_service[name])))
            warnings[name].append(f"it holds {taken}, under a host that service {holder} holds; {_CURE}")
    return {name: tuple(said) for name, said in warnings.items()}


_CURE: Final = 'to a browser both are one site; proxy.hosts = "whole" keeps a host to one service'


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(islice(names, _NAMED)) + more
