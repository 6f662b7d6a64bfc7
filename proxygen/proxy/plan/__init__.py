"""Catalog -> Plan: who should get which traffic. Pure: no clock, no file, no log."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from types import MappingProxyType
from typing import Final

from proxygen.catalog import Catalog, Instance, ServiceName
from proxygen.proxy.plan.admission import NO_PAST, Past, Pasts
from proxygen.proxy.plan.certificates import choose_certificates, without_effect
from proxygen.proxy.plan.claims import Grounds, settle_claims
from proxygen.proxy.plan.copies import Routes, WiderRoutes, own_routes, settle_copies
from proxygen.proxy.plan.endpoints import stream_endpoint
from proxygen.proxy.plan.hosts import served_routes, virtual_servers
from proxygen.proxy.plan.hsts import settle_hsts
from proxygen.proxy.plan.operators import Operators
from proxygen.proxy.plan.origins import shared_hosts
from proxygen.proxy.plan.reserved import reserved_hosts, standing
from proxygen.proxy.plan.service import needs_past, plan_service
from proxygen.proxy.plan.types import (
    Claim,
    Conflict,
    Copy,
    Endpoint,
    Memory,
    Plan,
    Policy,
    PortClaim,
    Quarantine,
    RouteClaim,
    Service,
    ServiceState,
    StreamServer,
)
from proxygen.tags import Protocol
from proxygen.tags.shares import parse_override

__all__ = ["Planner", "plan_routes"]


def plan_routes(
    catalog: Catalog,
    policy: Policy,
    memory: Memory | None = None,
    refused: Mapping[ServiceName, Quarantine] | None = None,
) -> Plan:
    """Plan a catalog from nothing; `Planner` does the same and remembers what did not change."""
    return Planner(policy).plan(catalog, memory or Memory(), refused or {})


_STREAMS: Final = (Protocol.TCP, Protocol.UDP)
_NONE_CLOSED: Final[Mapping[Protocol, frozenset[Endpoint]]] = MappingProxyType(dict.fromkeys(_STREAMS, frozenset()))

_Elsewhere = tuple[tuple[str, tuple[Instance, ...]], ...]
"""The instances of one service in other datacenters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Inputs:
    """What a service is planned from."""

    instances: tuple[Instance, ...]
    override: str | None
    elsewhere: _Elsewhere
    closed: Mapping[Protocol, frozenset[Endpoint]]
    """Places of its instances at which a stream of that protocol listens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """A service as it was planned last."""

    inputs: _Inputs
    at_home: frozenset[Endpoint]
    """Places of its instances at which a stream could listen."""
    past: Past | None
    """What was served before; None where it makes no difference."""
    service: Service | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Marks:
    """What is said of services beside their own instances."""

    pasts: Pasts
    refused: Mapping[ServiceName, Quarantine]
    """By a gate."""
    overrides: Mapping[ServiceName, str]
    unreadable: Mapping[ServiceName, str]
    """What is wrong with an override."""


_CopyInputs = tuple[Routes, Mapping[ServiceName, int], frozenset[Copy]]
"""Who holds which routes, how old services are, and where wider routes served before."""


class Planner:
    """Plans catalogs one after the other. Services whose inputs did not change are taken from the last plan."""

    def __init__(self, policy: Policy) -> None:
        self._policy: Final = policy
        self._reserved: Final = reserved_hosts(policy)
        self._operators: Final = Operators(policy.listens)
        self._known: dict[ServiceName, _Known] = {}
        self._copies: tuple[_CopyInputs, WiderRoutes] | None = None
        self._warned: dict[ServiceName, tuple[Service, tuple[str, ...], Service]] = {}

    def plan(self, catalog: Catalog, memory: Memory, refused: Mapping[ServiceName, Quarantine]) -> Plan:
        """``refused`` names services that a gate refused: they are quarantined with the gate's reason."""
        overrides, unreadable = _overrides(catalog, memory)
        marks = _Marks(pasts=Pasts(memory), refused=refused, overrides=overrides, unreadable=unreadable)
        listening = _listening(memory.holders, refused)
        services, holders, conflicts = self._settled(catalog, memory, marks, listening)
        gone = listening - _listening(holders, refused)
        if any(_is_closed_by(gone, known.inputs) for known in self._known.values()):
            services, holders, conflicts = self._settled(catalog, memory, marks, listening - gone)
        answered = {claim: name for claim, name in holders.items() if _is_answered(claim, services[name])}
        own = own_routes(answered, standing(self._reserved, _lost_hosts(services.values())))
        copies = self._settled_copies(own, services, memory.copies)
        served = served_routes(own, copies.given)
        shared = {} if self._policy.hosts_whole else shared_hosts(services, holders, memory.holders, self._policy)
        certificates = choose_certificates(services, answered, self._policy.certificate_index)
        unused = without_effect(services, answered, certificates)
        bound, unbound = settle_hsts(services, holders, memory.holders, served, self._policy)
        taking = self._operators.warnings(answered, certificates)
        services |= self._told(services, _together(shared, copies.warnings, unused, unbound, taking))
        return Plan(
            services=tuple(services.values()),
            servers=virtual_servers(services, own, served, certificates, bound, self._reserved),
            streams=_streams(services, answered),
            conflicts=conflicts,
            memory=Memory(holders=holders, overrides=overrides, copies=copies.given),
        )

    def _settled_copies(
        self, own: Routes, services: Mapping[ServiceName, Service], before: frozenset[Copy]
    ) -> WiderRoutes:
        """The same as last time where routes, ages and what was served are the same: most passes change addresses."""
        ages = {name: service.registered for name, service in services.items()}
        inputs = (own, ages, before)
        if self._copies is None or self._copies[0] != inputs:
            self._copies = (inputs, settle_copies(own, services, self._policy, before))
        return self._copies[1]

    def _settled(
        self, catalog: Catalog, memory: Memory, marks: _Marks, listening: frozenset[PortClaim]
    ) -> tuple[dict[ServiceName, Service], Mapping[Claim, ServiceName], tuple[Conflict, ...]]:
        """Plan each service by itself, and settle who gets what it claims. ``listening``: where streams do."""
        self._known = {name: self._one(name, catalog, marks, listening) for name in sorted(catalog.services)}
        services = {
            name: _marked(known.service, marks) for name, known in self._known.items() if known.service is not None
        }
        grounds = Grounds(held=memory.holders, policy=self._policy, occupied=self._occupied(services))
        holders, conflicts = settle_claims(services.values(), grounds)
        return services, holders, conflicts

    def _one(self, name: ServiceName, catalog: Catalog, marks: _Marks, listening: frozenset[PortClaim]) -> _Known:
        before, override = self._known.get(name), marks.overrides.get(name)
        instances, elsewhere = catalog.services[name], _elsewhere(catalog, name)
        if before is not None and (before.inputs.instances, before.inputs.elsewhere) == (instances, elsewhere):
            at_home = before.at_home
        else:
            at_home = _at_home((*instances, *(one for _, others in elsewhere for one in others)), self._policy)
        closed = _closed(at_home, listening)
        inputs = _Inputs(instances=instances, override=override, elsewhere=elsewhere, closed=closed)
        if before is not None and before.inputs == inputs and _is_past_the_same(before, name, marks.pasts):
            return before
        service, past = self._planned(name, inputs, marks.pasts)
        return _Known(inputs=inputs, at_home=at_home, past=past, service=service)

    def _planned(self, name: ServiceName, inputs: _Inputs, pasts: Pasts) -> tuple[Service | None, Past | None]:
        """Plan one service, with what was served before where that makes a difference."""
        policy = self._policy
        shares = None if inputs.override is None else parse_override(inputs.override)

        def plan(past: Past) -> Service | None:
            return plan_service(name, inputs.instances, dict(inputs.elsewhere), shares, policy, past)

        service = plan(NO_PAST)
        if service is not None and (places := inputs.closed[_spoken(service)]):
            policy = replace(policy, denied_endpoints=policy.denied_endpoints | places)
            service = plan(NO_PAST)
        if service is None or not needs_past(service):
            return service, None
        past = pasts.of(name)
        return service if past == NO_PAST else plan(past), past

    def _occupied(self, services: Mapping[ServiceName, Service]) -> Mapping[PortClaim, ServiceName]:
        """Ports at which an instance is on this host: a stream that listened there would send to itself, or take the
        place of one that is in quarantine for a while."""
        if not any(isinstance(claim, PortClaim) for service in services.values() for claim in service.claims):
            return {}
        return {
            PortClaim(_spoken(service), place.port): name
            for name, service in services.items()
            for place in self._known[name].at_home
        }

    def _told(
        self, services: Mapping[ServiceName, Service], warnings: Mapping[ServiceName, tuple[str, ...]]
    ) -> Mapping[ServiceName, Service]:
        """Add warnings to services; one that is told the same as before stays the same object."""
        told = {}
        for name, said in warnings.items():
            before = self._warned.get(name)
            if before is not None and before[0] is services[name] and before[1] == said:
                told[name] = before
            else:
                warned = replace(services[name], warnings=(*services[name].warnings, *said))
                told[name] = (services[name], said, warned)
        self._warned = told
        return {name: warned for name, (_, _, warned) in told.items()}


_Warnings = Mapping[ServiceName, tuple[str, ...]]


def _together(*said: _Warnings) -> _Warnings:
    return {name: tuple(chain.from_iterable(each.get(name, ()) for each in said)) for name in sorted({*chain(*said)})}


def _is_past_the_same(known: _Known, name: ServiceName, pasts: Pasts) -> bool:
    return known.past is None or known.past == pasts.of(name)


def _at_home(instances: Iterable[Instance], policy: Policy) -> frozenset[Endpoint]:
    places = (stream_endpoint(instance.address, instance.port, policy) for instance in instances)
    return frozenset(place for place in places if place is not None)


def _closed(at_home: frozenset[Endpoint], listening: frozenset[PortClaim]) -> Mapping[Protocol, frozenset[Endpoint]]:
    """Those of the places at which a stream of a protocol listens."""
    if not (at_home and listening):
        return _NONE_CLOSED
    return {
        protocol: frozenset(place for place in at_home if PortClaim(protocol, place.port) in listening)
        for protocol in _STREAMS
    }


def _marked(service: Service, marks: _Marks) -> Service:
    """The service as planned, with what a gate and the operator's override say of it."""
    refused, unreadable = marks.refused.get(service.name), marks.unreadable.get(service.name)
    if refused is not None and (service.quarantine is None or refused.lost or refused.withdrawn):
        service = replace(service, state=ServiceState.QUARANTINED, upstreams=(), split=None, quarantine=refused)
    if unreadable is not None:
        service = replace(service, warnings=(*service.warnings, unreadable))
    return service


def _spoken(service: Service) -> Protocol:
    """What packets to its instances are."""
    return Protocol.UDP if service.options.protocol is Protocol.UDP else Protocol.TCP


def _listening(holders: Mapping[Claim, ServiceName], refused: Mapping[ServiceName, Quarantine]) -> frozenset[PortClaim]:
    """The ports of streams, without those that nginx refused and that nothing listens on."""
    ports = ((claim, refused.get(name)) for claim, name in holders.items() if isinstance(claim, PortClaim))
    return frozenset(claim for claim, why in ports if why is None or not (why.withdrawn or claim in why.lost))


def _is_closed_by(ports: frozenset[PortClaim], inputs: _Inputs) -> bool:
    return any(PortClaim(protocol, place.port) in ports for protocol in _STREAMS for place in inputs.closed[protocol])


def _lost_hosts(services: Iterable[Service]) -> frozenset[str]:
    """Hosts that nginx itself refuses."""
    lost = (claim for service in services if service.quarantine for claim in service.quarantine.lost)
    return frozenset(claim.host for claim in lost if isinstance(claim, RouteClaim))


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
            kept = "the tags stay" if before is None else f"{before} stays"
            unreadable[name] = f"the override in KV is ignored and {kept} in force: {error}"
        else:
            settled[name] = text
    return MappingProxyType(settled), MappingProxyType(unreadable)
