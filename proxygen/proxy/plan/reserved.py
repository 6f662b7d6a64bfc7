"""Hosts that the operator reserves (``proxy.claims``): who may claim them, and which answer while nobody does."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from fnmatch import translate
from functools import lru_cache
from typing import Final

from proxygen.catalog import ServiceName
from proxygen.proxy.plan.types import Claim, Policy, RouteClaim

_Rules = tuple[tuple[str, tuple[str, ...]], ...]
_Matches = Callable[[str], object]

_MOST_KNOWN: Final = 65_536
"""Hosts, and services beside a rule, whose match is remembered from pass to pass."""

_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST: Final = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*")
_SPECIAL: Final = re.compile(r"[*?\[\]]")


def reservations(rules: Mapping[str, tuple[str, ...]]) -> Reservations:
    """Return the rules with what is known of hosts and services by now."""
    return _reservations(tuple(rules.items()))


@lru_cache(maxsize=4)
def _reservations(rules: _Rules) -> Reservations:
    return Reservations(rules)


class Reservations:
    """Who may claim which host. A host is matched once, however many services claim paths under it or reach it by a
    wider route; a service once for each rule."""

    def __init__(self, rules: _Rules) -> None:
        self._hosts: Final = [(pattern, _matcher(pattern)) for pattern, _ in rules]
        self._names: Final = [[_matcher(name) for name in names] for _, names in rules]
        self._reserving: Final = lru_cache(_MOST_KNOWN)(self._find_reserving)
        self._is_for: Final = lru_cache(_MOST_KNOWN)(self._match_names)

    def may_claim(self, service: ServiceName, claim: Claim) -> bool:
        """A host that a rule reserves is for the services of that rule; a host that no rule names is free."""
        if not self._hosts or not isinstance(claim, RouteClaim):
            return True
        matching = self._reserving(claim.host)
        return not matching or any(self._is_for(service, rule) for rule in matching)

    def _find_reserving(self, host: str) -> tuple[int, ...]:
        found = enumerate(self._hosts)
        return tuple(rule for rule, (pattern, matches) in found if matches(host) or _may_cover(pattern, host))

    def _match_names(self, service: ServiceName, rule: int) -> bool:
        return any(matches(service) for matches in self._names[rule])


def _matcher(pattern: str) -> _Matches:
    # fnmatch itself remembers 256 patterns, and compiles each one anew where there are more.
    return re.compile(translate(pattern)).match


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


def _may_cover(pattern: str, host: str) -> bool:
    """nginx names no virtual server by a pattern such as shop-*.example.com, so what may cover its hosts is refused."""
    if host and not host.startswith("*."):
        return False
    return not _HOST.fullmatch(pattern) and _may_meet(pattern, host.removeprefix("*"))


def _may_meet(pattern: str, suffix: str) -> bool:
    """Whether a host that ends in ``suffix`` may match a pattern: by what stands behind its last special character."""
    tail = _SPECIAL.split(pattern)[-1]
    return tail.endswith(suffix) or suffix.endswith(tail)
