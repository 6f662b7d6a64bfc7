"""Hosts that the operator reserves (``proxy.claims``): who may claim them, and which answer while nobody does."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import translate
from functools import lru_cache
from itertools import chain
from types import MappingProxyType
from typing import Final

from proxygen.catalog import ServiceName
from proxygen.proxy.plan.operators import answering, goes_before, overtaken, takes_from, unreadable
from proxygen.proxy.plan.types import Claim, Listening, Policy, RouteClaim

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
        return self.lets(service, self._reserving(claim.host))

    def reserving(self, host: str) -> tuple[int, ...]:
        """Return the rules that reserve a host."""
        return self._reserving(host) if self._hosts else ()

    def lets(self, service: ServiceName, rules: tuple[int, ...]) -> bool:
        """Tell whether it may claim what these rules reserve."""
        return not rules or any(self._is_for(service, rule) for rule in rules)

    def _find_reserving(self, host: str) -> tuple[int, ...]:
        found = enumerate(self._hosts)
        return tuple(rule for rule, (pattern, matches) in found if matches(host) or _may_cover(pattern, host))

    def _match_names(self, service: ServiceName, rule: int) -> bool:
        return any(matches(service) for matches in self._names[rule])


def _matcher(pattern: str) -> _Matches:
    # fnmatch itself remembers 256 patterns, and compiles each one anew where there are more.
    return re.compile(translate(pattern)).match


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserved:
    """A reserved host for which nginx has a virtual server, claimed or not: no wider route takes its requests."""

    served: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Our listens where nginx.conf serves the host itself, and by which name. To nginx ours would go first."""
    listens: tuple[Listening, ...] = ()
    """Where ours stand."""

    def without(self, wider: Iterable[str]) -> frozenset[str]:
        """Return the listens that are left to the operator: where a ``wider`` host of services does not go before him
        either. There it would get what is reserved."""
        wildcards = [each for each in wider if each]
        return frozenset(
            listen
            for listen, name in self.served.items()
            if not any(goes_before(wildcard, name) for wildcard in wildcards)
        )

    def is_left_out(self, without: frozenset[str], *, is_secure: bool) -> bool:
        """Whether no listen remains; ``is_secure``: it has a certificate."""
        left = (each for each in self.listens if each.text not in without and (is_secure or not each.is_tls))
        return bool(without) and not any(left)


def reserved_hosts(policy: Policy) -> Mapping[str, Reserved]:
    """Return them by host."""
    found = {}
    for host in filter(_HOST.fullmatch, policy.claims):
        named = ((each.text, answering(host, each.names)) for each in policy.listens)
        served = {text: name for text, name in named if name is not None}
        found[host] = Reserved(served=MappingProxyType(served), listens=policy.listens)
    return MappingProxyType(found)


def standing(reserved: Mapping[str, Reserved], lost: Collection[str]) -> frozenset[str]:
    """Return those that nginx takes. A host that it refused a service is ``lost``, unless a name of the operator's own
    is the reason, and ours does not stand beside that."""
    return frozenset(host for host, each in reserved.items() if host not in lost or host in each.served.values())


def reserved_remarks(policy: Policy) -> Iterator[str]:
    """Say what of nginx.conf a reserved wildcard goes before, and what cannot be known of it."""
    reserved = [host for host in policy.claims if _HOST.fullmatch(host)]
    if not reserved:
        return
    names = [each.names for each in policy.listens]
    for text in sorted({text for each in names for text in unreadable(each)}):
        yield (
            f"server_name ~{text} of nginx.conf cannot be read here: whether it serves a host of proxy.claims is not"
            " known, and the reserved host goes before it"
        )
    for host in reserved:
        lost = (overtaken(host, each) for each in names if answering(host, each) is None)
        for name in sorted(set(chain.from_iterable(lost))):
            yield f"{host}, which proxy.claims reserves, {takes_from(name)}"


def _may_cover(pattern: str, host: str) -> bool:
    """nginx names no virtual server by a pattern such as shop-*.example.com, so what may cover its hosts is refused."""
    if host and not host.startswith("*."):
        return False
    return not _HOST.fullmatch(pattern) and _may_meet(pattern, host.removeprefix("*"))


def _may_meet(pattern: str, suffix: str) -> bool:
    """Whether a host that ends in ``suffix`` may match a pattern: by what stands behind its last special character."""
    tail = _SPECIAL.split(pattern)[-1]
    return tail.endswith(suffix) or suffix.endswith(tail)
