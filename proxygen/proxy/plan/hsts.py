"""HSTS: a browser that hears it at one path obeys it for the whole host (RFC 6797), so only its holder says it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from proxygen.catalog import ServiceName
from proxygen.kit.texts import name_some
from proxygen.proxy.plan.copies import Routes, wider
from proxygen.proxy.plan.origins import any_host_holder, host_holders, shared
from proxygen.proxy.plan.types import Claim, Policy, RouteClaim, Service


def settle_hsts(
    services: Mapping[ServiceName, Service],
    holders: Mapping[Claim, ServiceName],
    held: Mapping[Claim, ServiceName],
    served: Routes,
    policy: Policy,
) -> tuple[Mapping[str, ServiceName], Mapping[ServiceName, tuple[str, ...]]]:
    """Return whose ``hsts`` tag binds each host ("": hosts without a name here), and warnings for the others."""
    if not any(service.options.hsts for service in services.values()):
        return MappingProxyType({}), {}
    holder_of = _holders(services, holders, held, served, policy)
    lost: dict[ServiceName, set[str]] = defaultdict(set)
    for host, by_path in served.items():
        for name in by_path.values():
            if services[name].options.hsts and holder_of[host] != name:
                lost[name].add(host or "any host")
    bound = {host: name for host, name in holder_of.items() if services[name].options.hsts}
    return MappingProxyType(bound), {name: (_unheard(hosts),) for name, hosts in lost.items()}


def _holders(
    services: Mapping[ServiceName, Service],
    holders: Mapping[Claim, ServiceName],
    held: Mapping[Claim, ServiceName],
    served: Routes,
    policy: Policy,
) -> Mapping[str, ServiceName]:
    """Return each host's holder; a reserved host without a claim has that of the wider host which serves it."""
    routes = [(services[name], claim) for claim, name in holders.items() if isinstance(claim, RouteClaim)]
    # Of most hosts one service has all routes, and there are thousands of them.
    holder_of = {claim.host: service.name for service, claim in routes}
    if several := shared((claim, service.name) for service, claim in routes if claim.host):
        asking = ((service, claim) for service, claim in routes if claim.host in several or claim.is_wide)
        holder_of |= host_holders(asking, held, policy)
    if "" in holder_of and (of_any := any_host_holder(routes, held)):
        holder_of[""] = of_any
    for host in served.keys() - holder_of.keys():
        serving = _serving(host, served, services, holders)
        if holder := _wider_holder(host, serving, held, policy):
            holder_of[host] = holder
    return holder_of


_Serving = Sequence[tuple[Service, RouteClaim]]
"""Wider routes that serve a host."""


def _serving(
    host: str, served: Routes, services: Mapping[ServiceName, Service], holders: Mapping[Claim, ServiceName]
) -> _Serving:
    return [
        (services[name], claim)
        for path, name in served[host].items()
        for claim in (RouteClaim(level, path) for level in wider(host))
        if holders.get(claim) == name
    ]


def _wider_holder(
    host: str, serving: _Serving, held: Mapping[Claim, ServiceName], policy: Policy
) -> ServiceName | None:
    """Who holds the closest wildcard of those that serve a host, else who speaks for any host."""
    wildcards = host_holders(serving, held, policy)
    return next((wildcards[each] for each in wider(host) if each in wildcards), None) or any_host_holder(serving, held)


def _unheard(hosts: set[str]) -> str:
    return (
        f"hsts=true has no effect under {name_some(sorted(hosts))}: browsers obey it for the whole host, and another"
        " service holds that"
    )
