"""The steps from what the kernel has of ours to what it should have. Pure.

A packet must never meet a route whose neighbour is not there yet: what a route needs comes before it and goes after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from proxygen.network.kernel.state import Entry, Forward, KernelState, Neighbour, Route


class KernelVerb(Enum):
    """How an entry comes or goes. None of them can hit a route of somebody else."""

    ADD = "add"
    """Refused where a route with the same key is there, whosever it is."""
    APPEND = "append"
    """Put a route behind one of ours with the same key, which a later step removes: no packet is without a route."""
    REPLACE = "replace"
    """In place of whatever the table of a link of ours has under the key."""
    REMOVE = "remove"
    """Just this entry; of routes only one that has our protocol."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelRequest:
    """One request to the kernel."""

    verb: KernelVerb
    entry: Entry

    def __str__(self) -> str:
        return f"{self.verb.value} {self.entry}"


def steps_between(actual: KernelState, desired: KernelState) -> tuple[KernelRequest, ...]:
    """Return what leads from one state to the other, in order. Between equal states there is nothing to do.

    ``desired`` has each key once.
    """
    return (
        *_replacements(desired.neighbours - actual.neighbours),
        *_replacements(desired.forwards - actual.forwards),
        *_new_routes(actual.routes, desired.routes),
        *_removals(_superfluous(actual.routes, desired.routes)),
        *_removals(_unkeyed(actual.forwards, desired.forwards)),
        *_removals(_unkeyed(actual.neighbours, desired.neighbours)),
    )


def _replacements(entries: Iterable[Neighbour | Forward]) -> Iterator[KernelRequest]:
    return (KernelRequest(verb=KernelVerb.REPLACE, entry=entry) for entry in sorted(entries, key=_order))


def _removals(entries: Iterable[Entry]) -> Iterator[KernelRequest]:
    return (KernelRequest(verb=KernelVerb.REMOVE, entry=entry) for entry in sorted(entries, key=_order, reverse=True))


def _new_routes(actual: frozenset[Route], desired: frozenset[Route]) -> Iterator[KernelRequest]:
    """Yield what brings new routes; one that has another gateway now goes as soon as its successor is there."""
    former = _by_key(actual)
    for route in sorted(desired - actual, key=_order):
        old = former.get(route.key, ())
        yield KernelRequest(verb=KernelVerb.APPEND if old else KernelVerb.ADD, entry=route)
        yield from _removals(old)


def _superfluous(actual: frozenset[Route], desired: frozenset[Route]) -> Iterator[Route]:
    replaced = {route.key for route in desired - actual}
    return (route for route in actual - desired if route.key not in replaced)


def _unkeyed(
    actual: frozenset[Neighbour] | frozenset[Forward], desired: frozenset[Neighbour] | frozenset[Forward]
) -> Iterator[Neighbour | Forward]:
    """Yield what is not wanted, and not replaced already."""
    kept = {entry.key for entry in desired}
    return (entry for entry in actual if entry.key not in kept)


def _by_key(routes: Iterable[Route]) -> dict[object, list[Route]]:
    found: dict[object, list[Route]] = {}
    for route in routes:
        found.setdefault(route.key, []).append(route)
    return found


def _order(entry: Entry) -> tuple[object, ...]:
    """By key, and among several of one key always the same."""
    return (*entry.key, str(entry))
