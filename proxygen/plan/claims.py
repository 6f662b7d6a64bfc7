"""Who holds which host and path, or port: the one that held it keeps it; between newcomers the older wins."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from types import MappingProxyType

from proxygen.model import ServiceName
from proxygen.plan.types import Claim, Conflict, RouteClaim, Service


def settle_claims(
    services: Iterable[Service],
    held: Mapping[Claim, ServiceName],
    rules: Mapping[str, tuple[str, ...]],
) -> tuple[Mapping[Claim, ServiceName], tuple[Conflict, ...]]:
    """Give every claim to one service, never to two.

    A claim stays with its holder while any registered instance of the holder still states it, whatever its
    health and however new its instances are (a rolling deploy). A free claim goes to the service with the lowest
    CreateIndex, then the lowest name.
    """
    wanted: dict[Claim, list[Service]] = defaultdict(list)
    conflicts = []
    for service in services:
        for claim in service.claims:
            if not rules or may_claim(service.name, claim, rules):
                wanted[claim].append(service)
            else:
                conflicts.append(
                    Conflict(
                        claim=claim,
                        holder=None,
                        loser=service.name,
                        reason="the operator's policy (proxy.claims) does not let this service claim this host",
                    )
                )
    holders: dict[Claim, ServiceName] = {}
    for claim, rivals in wanted.items():
        if len(rivals) == 1:
            holders[claim] = rivals[0].name
            continue
        before = held.get(claim)
        winner = min(rivals, key=lambda rival: (rival.name != before, rival.registered, rival.name))
        holders[claim] = winner.name
        conflicts.extend(
            Conflict(claim=claim, holder=winner.name, loser=rival.name) for rival in rivals if rival.name != winner.name
        )
    return MappingProxyType(holders), tuple(
        sorted(conflicts, key=lambda conflict: (str(conflict.claim), conflict.loser))
    )


def may_claim(service: ServiceName, claim: Claim, rules: Mapping[str, tuple[str, ...]]) -> bool:
    """A host that a rule names belongs to the services of that rule; a host that no rule names is free."""
    if not isinstance(claim, RouteClaim):
        return True
    matching = [names for pattern, names in rules.items() if fnmatchcase(claim.host, pattern)]
    return not matching or any(fnmatchcase(service, name) for names in matching for name in names)
