"""HSTS: a browser that hears it at one path obeys it for the whole host (RFC 6797), so only its holder says it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from types import MappingProxyType

from proxygen.catalog import ServiceName
from proxygen.kit.texts import name_some
from proxygen.proxy.plan.origins import any_host_holder, host_holders, shared
from proxygen.proxy.plan.types import Claim, RouteClaim, Service


def settle_hsts(
    services: Mapping[ServiceName, Service],
    holders: Mapping[Claim, ServiceName],
    held: Mapping[Claim, ServiceName],
    *,
    are_whole: bool,
) -> tuple[Mapping[str, ServiceName], Mapping[ServiceName, tuple[str, ...]]]:
    """Return whose ``hsts`` tag binds each host ("": hosts without a name here), and warnings for the others."""
    if not any(service.options.hsts for service in services.values()):
        return MappingProxyType({}), {}
    routes = [(services[name], claim) for claim, name in holders.items() if isinstance(claim, RouteClaim)]
    # Of most hosts one service has all routes, and there are thousands of them.
    holder_of = {claim.host: service.name for service, claim in routes}
    if several := shared((claim, service.name) for service, claim in routes if claim.host):
        asking = ((service, claim) for service, claim in routes if claim.host in several or claim.is_wide)
        holder_of |= host_holders(asking, held, are_whole=are_whole)
    if "" in holder_of and (of_any := any_host_holder(routes, held)):
        holder_of[""] = of_any
    lost: dict[ServiceName, set[str]] = defaultdict(set)
    for service, claim in routes:
        if service.options.hsts and holder_of[claim.host] != service.name:
            lost[service.name].add(claim.host or "any host")
    bound = {host: name for host, name in holder_of.items() if services[name].options.hsts}
    return MappingProxyType(bound), {name: (_unheard(hosts),) for name, hosts in lost.items()}


def _unheard(hosts: set[str]) -> str:
    return (
        f"hsts=true has no effect under {name_some(sorted(hosts))}: browsers obey it for the whole host, and another"
        " service holds that"
    )
