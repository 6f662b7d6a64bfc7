"""Who holds which host and path, or port: the one that held it keeps it; between newcomers the older wins."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from proxygen.catalog import ServiceName
from proxygen.proxy.plan.buckets import alike, crowded
from proxygen.proxy.plan.origins import host_holders
from proxygen.proxy.plan.reserved import Reservations, reservations
from proxygen.proxy.plan.types import Claim, Conflict, Policy, PortClaim, RouteClaim, Service

_Asked = tuple[Service, Claim]

FORBIDDEN: Final = "the operator's policy (proxy.claims) does not let this service claim this host"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grounds:
    """What decides between claims, beside the services themselves."""

    held: Mapping[Claim, ServiceName] = field(default_factory=lambda: MappingProxyType({}))
    policy: Policy = field(default_factory=Policy)
    occupied: Mapping[PortClaim, ServiceName] = field(default_factory=lambda: MappingProxyType({}))
    """Ports of this host at which a service's instances are: what listened there would send to itself."""


def settle_claims(
    services: Iterable[Service], grounds: Grounds
) -> tuple[Mapping[Claim, ServiceName], tuple[Conflict, ...]]:
    """Give every claim to one service, never to two.

    A claim stays with its holder while any registered instance of the holder still states it, whatever its
    health and however new its instances are (a rolling deploy). A free claim goes to the service with the lowest
    CreateIndex, then the lowest name.
    """
    conflicts: list[Conflict] = []
    asked = _admitted(((service, claim) for service in services for claim in service.claims), grounds, conflicts)
    wanted: dict[Claim, list[Service]] = defaultdict(list)
    for service, claim in asked:
        wanted[claim].append(service)
    holders: dict[Claim, Service] = {}
    for claim, rivals in wanted.items():
        before = grounds.held.get(claim)
        winner = rivals[0] if len(rivals) == 1 else min(rivals, key=lambda rival: _rank(rival, before))
        holders[claim] = winner
        conflicts.extend(
            Conflict(claim=claim, holder=winner.name, loser=rival.name) for rival in rivals if rival is not winner
        )
    for claim, reason in _too_much(holders, grounds).items():
        conflicts.append(Conflict(claim=claim, holder=None, loser=holders.pop(claim).name, reason=reason))
    return MappingProxyType({claim: service.name for claim, service in holders.items()}), tuple(
        sorted(conflicts, key=lambda conflict: (str(conflict.claim), conflict.loser))
    )


def _rank(service: Service, before: ServiceName | None) -> tuple[bool, int, ServiceName]:
    return (service.name != before, service.registered, service.name)


def _admitted(asked: Iterable[_Asked], grounds: Grounds, conflicts: list[Conflict]) -> list[_Asked]:
    """Return what the services may claim at all; the rest becomes a conflict."""
    left = []
    rules = reservations(grounds.policy.claims)
    for service, claim in asked:
        reason = _objection(service, claim, grounds, rules)
        if reason:
            conflicts.append(Conflict(claim=claim, holder=None, loser=service.name, reason=reason))
        else:
            left.append((service, claim))
    if not grounds.policy.hosts_whole:
        return left
    routes = ((service, claim) for service, claim in left if isinstance(claim, RouteClaim))
    holders = host_holders(routes, grounds.held, grounds.policy)
    kept = []
    for service, claim in left:
        holder = holders.get(claim.host, service.name) if isinstance(claim, RouteClaim) else service.name
        if holder == service.name:
            kept.append((service, claim))
        else:
            conflicts.append(Conflict(claim=claim, holder=holder, loser=service.name, reason="held whole"))
    return kept


def _objection(service: Service, claim: Claim, grounds: Grounds, rules: Reservations) -> str:
    if isinstance(claim, PortClaim):
        there = grounds.occupied.get(claim)
        if there is None or grounds.held.get(claim) == service.name:
            return ""
        return f"an instance of service {there} is at this port of this host"
    return "" if rules.may_claim(service.name, claim) else FORBIDDEN


def _too_much(holders: Mapping[Claim, Service], grounds: Grounds) -> Mapping[Claim, str]:
    """Return the claims that would cost nginx more than the operator's bounds; what was held before goes first, then
    the older registration."""
    bounds = grounds.policy.bounds

    def rank(claim: Claim) -> tuple[object, ...]:
        return (*_rank(holders[claim], grounds.held.get(claim)), str(claim))

    ports = [claim for claim in holders if isinstance(claim, PortClaim)]
    reason = f"there are {bounds.all_ports} ports already (bounds.all_ports)"
    refused: dict[Claim, str] = dict.fromkeys(sorted(ports, key=rank)[bounds.all_ports :], reason)
    routes = [claim for claim in holders if isinstance(claim, RouteClaim)]
    look_alikes = alike({claim.host for claim in routes})
    in_turn = sorted((claim for claim in routes if claim.host in look_alikes), key=rank)
    no_room = set(crowded(dict.fromkeys(claim.host for claim in in_turn), bounds.hash_bytes))
    reason = "nginx cannot tell so many names apart: their hash is the same (bounds.hash_bytes)"
    return refused | dict.fromkeys((claim for claim in in_turn if claim.host in no_room), reason)
