"""Catalog -> Plan: who should get which traffic. Pure: no clock, no file, no log."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from types import MappingProxyType
from typing import Final

from proxygen.model import Catalog, Instance, ServiceName
from proxygen.plan.admission import NO_PAST, Past
from proxygen.plan.certificates import choose_certificates
from proxygen.plan.claims import settle_claims
from proxygen.plan.hosts import virtual_servers
from proxygen.plan.service import needs_past, plan_service
from proxygen.plan.types import (
    Claim,
    Memory,
    Plan,
    Policy,
    PortClaim,
    Quarantine,
    Served,
    Service,
    ServiceState,
    StreamServer,
)
from proxygen.shares import parse_override

__all__ = ["Planner", "plan_routes"]


def plan_routes(
    catalog: Catalog,
    policy: Policy,
    memory: Memory | None = None,
    refused: Mapping[ServiceName, Quarantine] | None = None,
) -> Plan:
    """Plan a catalog from nothing; `Planner` does the same and remembers what did not change."""
    return Planner(policy).plan(catalog, memory or Memory(), refused or {})


_Elsewhere = tuple[tuple[str, tuple[Instance, ...]], ...]
"""The instances of one service in other datacenters."""

_Inputs = tuple[tuple[Instance, ...], str | None, _Elsewhere, Past]

_Known = dict[ServiceName, tuple[_Inputs, Service | None]]
"""Per service: its inputs, and what was planned from them."""


class Planner:
    """Plans catalogs one after the other. Services whose inputs did not change are taken from the last plan."""

    def __init__(self, policy: Policy) -> None:
        self._policy: Final = policy
        self._known: _Known = {}

    def plan(self, catalog: Catalog, memory: Memory, refused: Mapping[ServiceName, Quarantine]) -> Plan:
        """``refused`` names services that a gate refused: they are quarantined with the gate's reason."""
        overrides, unreadable = _overrides(catalog, memory)
        services: dict[ServiceName, Service] = {}
        known: _Known = {}
        held = _Held(memory)
        for name in sorted(catalog.services):
            inputs = (catalog.services[name], overrides.get(name), _elsewhere(catalog, name))
            service = self._plan_one(name, inputs, held, known)
            if service is None:
                continue
            if name in refused and (service.quarantine is None or refused[name].lost or refused[name].withdrawn):
                service = replace(
                    service,
                    state=ServiceState.QUARANTINED,
                    upstreams=(),
                    split=None,
                    quarantine=refused[name],
                )
            if name in unreadable:
                service = replace(service, warnings=(*service.warnings, unreadable[name]))
            services[name] = service
        self._known = known
        holders, conflicts = settle_claims(services.values(), memory.holders, self._policy.claims)
        answered = {claim: name for claim, name in holders.items() if _is_answered(claim, services[name])}
        certificates = choose_certificates(services, answered, self._policy.certificates)
        return Plan(
            services=tuple(services.values()),
            servers=virtual_servers(services, answered, certificates, self._policy.claims),
            streams=_streams(services, answered),
            conflicts=conflicts,
            memory=Memory(holders=holders, overrides=overrides),
        )

    def _plan_one(
        self, name: ServiceName, inputs: tuple[tuple[Instance, ...], str | None, _Elsewhere], held: _Held, known: _Known
    ) -> Service | None:
        before = self._known.get(name)
        if before is not None and before[0][:3] == inputs:
            (*_, past), service = before
            if service is None or not needs_past(service) or past == held.past_of(name):
                known[name] = before
                return service
        instances, override, elsewhere = inputs
        shares = None if override is None else parse_override(override)
        past = NO_PAST
        service = plan_service(name, instances, dict(elsewhere), shares, self._policy)
        if service is not None and needs_past(service) and (past := held.past_of(name)) != NO_PAST:
            service = plan_service(name, instances, dict(elsewhere), shares, self._policy, past)
        known[name] = ((*inputs, past), service)
        return service


class _Held:
    """A memory by service; most plans never ask."""

    def __init__(self, memory: Memory) -> None:
        self._memory: Final = memory

    def past_of(self, name: ServiceName) -> Past:
        return Past(served=self._memory.served.get(name, Served()), claims=self._claims.get(name, frozenset()))

    @cached_property
    def _claims(self) -> Mapping[ServiceName, frozenset[Claim]]:
        found: dict[ServiceName, set[Claim]] = defaultdict(set)
        for claim, name in self._memory.holders.items():
            found[name].add(claim)
        return {name: frozenset(claims) for name, claims in found.items()}


def _elsewhere(catalog: Catalog, name: ServiceName) -> _Elsewhere:
    if not catalog.elsewhere:
        return ()
    return tuple((datacenter, services[name]) for datacenter, services in catalog.elsewhere.items() if name in services)


def _is_answered(claim: Claim, service: Service) -> bool:
    quarantine = service.quarantine
    return quarantine is None or not (quarantine.withdrawn or claim in quarantine.lost)


def _streams(services: Mapping[ServiceName, Service], holders: Mapping[Claim, ServiceName]) -> tuple[StreamServer, ...]:
    # A service in quarantine may hold ports of both protocols.
    ports: dict[tuple[ServiceName, str], list[PortClaim]] = defaultdict(list)
    for claim, name in holders.items():
        if isinstance(claim, PortClaim):
            ports[name, claim.protocol].append(claim)
    return tuple(StreamServer(tuple(sorted(ports[key])), services[key[0]]) for key in sorted(ports))


def _overrides(catalog: Catalog, memory: Memory) -> tuple[Mapping[ServiceName, str], Mapping[ServiceName, str]]:
    """The operator's overrides that parse, and what is wrong with the others.

    One that does not parse leaves the last one that did in force: the share in the tags may be far from what the
    operator last asked for.
    """
    settled, unreadable = {}, {}
    for name, text in catalog.overrides.items():
        try:
            parse_override(text)
        except ValueError as error:
            before = memory.overrides.get(name)
            if before is not None:
                settled[name] = before
            unreadable[name] = f"the override in KV is ignored and {before or 'the tags'} stays in force: {error}"
        else:
            settled[name] = text
    return MappingProxyType(settled), MappingProxyType(unreadable)
