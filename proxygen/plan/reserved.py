"""Hosts that the operator reserves (``proxy.claims``): who may claim them, and which answer while nobody does."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Final

from proxygen.model import ServiceName
from proxygen.plan.types import Claim, Policy, RouteClaim

Rules = Mapping[str, tuple[str, ...]]

_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST: Final = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*")
_SPECIAL: Final = re.compile(r"[*?\[\]]")


def may_claim(service: ServiceName, claim: Claim, rules: Rules) -> bool:
    """A host that a rule reserves is for the services of that rule; a host that no rule names is free."""
    if not isinstance(claim, RouteClaim):
        return True
    matching = [names for pattern, names in rules.items() if _reserves(pattern, claim)]
    return not matching or any(fnmatchcase(service, name) for names in matching for name in names)


def reserved_hosts(policy: Policy) -> frozenset[str]:
    """The reserved hosts that nginx has a virtual server for, claimed or not: no wider route takes their requests.

    None that nginx.conf serves itself, by a wildcard neither: to nginx ours would go first.
    """
    named = filter(_HOST.fullmatch, policy.claims)
    return frozenset(host for host in named if policy.operator_hosts.isdisjoint(_covering(host)))


def _covering(host: str) -> Iterator[str]:
    """Yield a host, and the wildcards that hold it."""
    yield host
    _, *suffix = host.split(".")
    for at in range(len(suffix)):
        yield f"*.{'.'.join(suffix[at:])}"


def _reserves(pattern: str, claim: RouteClaim) -> bool:
    if fnmatchcase(claim.host, pattern):
        return True
    # nginx names no virtual server by a pattern such as shop-*.example.com, so what may cover its hosts is refused.
    return claim.is_wide and not _HOST.fullmatch(pattern) and _may_meet(pattern, claim.host.removeprefix("*"))


def _may_meet(pattern: str, suffix: str) -> bool:
    """Whether a host that ends in ``suffix`` may match a pattern: by what stands behind its last special character."""
    tail = _SPECIAL.split(pattern)[-1]
    return tail.endswith(suffix) or suffix.endswith(tail)
