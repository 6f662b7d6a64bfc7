"""Small catalogs, written as a test would say them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Any

from proxygen.catalog import Catalog, Instance, ServiceName
from proxygen.proxy.plan import plan_routes
from proxygen.proxy.plan.types import Memory, Plan, Policy, RouteClaim, Service, Upstream


def instance(service: str, number: int, *tags: str, prefix: str = "proxygen", **fields: Any) -> Instance:
    """The instance with the address 10.0.0.NUMBER; tags are written without their prefix."""
    values: dict[str, Any] = {
        "id": f"{service}-{number}",
        "node": f"node-{number}",
        "datacenter": "dc1",
        "address": str(ip_address("10.0.0.0") + number),
        "port": 8080,
        "create_index": number,
        "modify_index": number,
        **fields,
    }
    return Instance(service=ServiceName(service), tags=tuple(f"{prefix}.{tag}" for tag in tags), **values)


def catalog(*instances: Instance, overrides: Mapping[str, str] | None = None) -> Catalog:
    services: dict[ServiceName, list[Instance]] = {}
    for each in instances:
        services.setdefault(each.service, []).append(each)
    return Catalog(
        datacenter="dc1",
        services={name: tuple(sorted(found, key=lambda one: one.key)) for name, found in services.items()},
        overrides={ServiceName(name): text for name, text in (overrides or {}).items()},
    )


def plan(*instances: Instance, policy: Policy | None = None, memory: Memory | None = None, **overrides: str) -> Plan:
    return plan_routes(catalog(*instances, overrides=overrides), policy or Policy(), memory)


def service(planned: Plan, name: str) -> Service:
    return next(each for each in planned.services if each.name == name)


def shares(planned: Service) -> dict[str, int]:
    """What each variant gets, in basis points."""
    return {variant.name: variant.effective for variant in planned.variants}


def upstream(planned: Service, variant: str) -> Upstream:
    return next(each for each in planned.upstreams if each.variant == variant)


def addresses(found: Upstream, *, backup: bool = False) -> set[str]:
    return {server.endpoint.address for server in found.servers if server.backup is backup}


def claims(*texts: str) -> Sequence[RouteClaim]:
    return [RouteClaim(host, "/" + path) for host, _, path in (text.partition("/") for text in texts)]


def routes(planned: Plan) -> dict[str, str]:
    """``HOST/PATH`` to the service that serves it; the default server's host is empty."""
    return {
        f"{server.host or ''}{location.path}": location.service.name
        for server in planned.servers
        for location in server.locations
    }
