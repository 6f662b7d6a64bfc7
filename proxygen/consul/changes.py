"""Which services changed, told from two answers to the same question. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from proxygen.consul.decode import CheckRecord, RegistrationState

CheckKey = tuple[str, str]
"""Node and CheckID, which together are unique."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """What a difference between two lists of checks touches."""

    services: frozenset[str]
    nodes: frozenset[str]
    """Nodes whose own checks changed: every service on them is touched."""


def index_checks(checks: Iterable[CheckRecord]) -> dict[CheckKey, tuple[str, str, str]]:
    """Return what matters of each check: its status, whether it has run, and whose it is."""
    return {
        (check.node, check.check_id): (
            "unchecked" if check.unchecked else f"{check.status}, has run" if check.speaks else check.status,
            check.service_name,
            check.service_id,
        )
        for check in checks
    }


def compare_checks(
    before: Mapping[CheckKey, tuple[str, str, str]], after: Mapping[CheckKey, tuple[str, str, str]]
) -> Changed:
    """Return what appeared, vanished, or has another status or owner."""
    services: set[str] = set()
    nodes: set[str] = set()
    # Items compare as a whole, so a check that changed is in the difference of both sides.
    for (node, _), (_, service, _) in before.items() ^ after.items():
        if service:
            services.add(service)
        else:
            nodes.add(node)
    return Changed(services=frozenset(services), nodes=frozenset(nodes))


def compare_registrations(
    before: Mapping[str, RegistrationState], after: Mapping[str, RegistrationState]
) -> frozenset[str]:
    """Return the services of which a node's registrations, by ServiceID, differ."""
    return frozenset(registration.service for _, registration in before.items() ^ after.items())
