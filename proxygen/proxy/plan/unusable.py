"""Instances whose registration cannot be used as it is: who they are, why, and what becomes of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from proxygen.proxy.plan.types import PlannedInstance, PlannedState, Service

NAMED: Final = 3
"""Of a service, in one place: its instances may be a thousand."""

_OUT: Final = frozenset({PlannedState.LEFT_OUT, PlannedState.NO_PORT})


def left_out(service: Service) -> list[PlannedInstance]:
    """Those that get no requests because something of theirs cannot be used."""
    return [one for one in service.instances if one.state in _OUT]


def kept_as_before(service: Service) -> list[PlannedInstance]:
    """Return those that are served with the tags that they had before."""
    return [one for one in service.instances if one.problem and one.state not in _OUT]


def describe(one: PlannedInstance) -> str:
    """One line for people: which instance, why, and what becomes of it."""
    problem = one.problem or "port: it is registered without one"
    return f"instance {one.id!r:.80} on {one.node!r:.80}: {problem}; {_fate(one)}"


def describe_more(those: list[PlannedInstance]) -> str:
    """Count those that `NAMED` leaves over; all of them have the same fate."""
    return f"{len(those) - NAMED} more instances cannot be used as they are registered; of each: {_fate(those[0])}"


def describe_all(service: Service) -> Iterator[str]:
    """A line for each of the first few, then how many more there are."""
    for those in (left_out(service), kept_as_before(service)):
        yield from map(describe, those[:NAMED])
        if len(those) > NAMED:
            yield describe_more(those)


def _fate(one: PlannedInstance) -> str:
    return "it is left out" if one.state in _OUT else "it is served with the tags that it had before"
