"""Which services changed, told from two answers to the same question. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto

from proxygen.consul.decode import CheckRecord, RegistrationState

CheckKey = tuple[str, str]
"""Node and CheckID, which together are unique."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """What a difference between two lists of checks touches."""

    services: frozenset[str]
    nodes: frozenset[str]
    """Nodes whose own checks changed: every service on them is touched."""


class CheckRun(Enum):
    """What a check shows of whether it has run since its agent started."""

    NOT_YET = auto()
    """It is critical only because it has not."""
    DONE = auto()
    """Its output shows that it has."""
    UNTOLD = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckState:
    """What matters of a check: where anything else in it changes, nothing has changed."""

    status: str
    run: CheckRun
    service_name: str
    """Empty for a check of the node."""
    service_id: str


Checks = Mapping[CheckKey, CheckState]


def index_checks(checks: Iterable[CheckRecord]) -> Checks:
    """Return the state of each check."""
    return {
        (check.node, check.check_id): CheckState(
            status=check.status, run=_run_of(check), service_name=check.service_name, service_id=check.service_id
        )
        for check in checks
    }


def _run_of(check: CheckRecord) -> CheckRun:
    if check.unchecked:
        return CheckRun.NOT_YET
    return CheckRun.DONE if check.speaks else CheckRun.UNTOLD


def compare_checks(before: Checks, after: Checks) -> Changed:
    """Return what appeared, vanished, or has another state."""
    services: set[str] = set()
    nodes: set[str] = set()
    # Items compare as a whole, so a check that changed is in the difference of both sides.
    for (node, _), check in before.items() ^ after.items():
        if check.service_name:
            services.add(check.service_name)
        else:
            nodes.add(node)
    return Changed(services=frozenset(services), nodes=frozenset(nodes))


def compare_registrations(
    before: Mapping[str, RegistrationState], after: Mapping[str, RegistrationState]
) -> frozenset[str]:
    """Return the services of which a node's registrations, by ServiceID, differ."""
    return frozenset(registration.service for _, registration in before.items() ^ after.items())
