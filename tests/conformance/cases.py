"""The cases by group: what the page "What a request gets" is written from, and what is tried on each nginx."""

from __future__ import annotations

from typing import Final

from tests.conformance.case import Case, Group
from tests.conformance.groups import bodies, clients, failures, manners, protocols, smuggling

GROUPS: Final[tuple[Group, ...]] = (
    failures.FAILURES,
    failures.SENT_AGAIN,
    bodies.BODIES,
    bodies.HEADERS,
    bodies.SILENCE,
    clients.STRANGERS,
    clients.BALANCERS,
    clients.HOSTS,
    clients.PREFIXES,
    clients.HOP_BY_HOP,
    clients.LOOPS,
    protocols.PROTOCOLS,
    manners.MANNERS,
    smuggling.SMUGGLING,
)

CASES: Final[tuple[Case, ...]] = tuple(case for group in GROUPS for case in group.cases)
