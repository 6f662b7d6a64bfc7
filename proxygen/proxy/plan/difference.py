"""What is different between two plans, in words: the cause of a generation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from proxygen.catalog import ServiceName
from proxygen.proxy.plan.types import PlannedInstance, Service, ServiceState
from proxygen.tags.shares import STABLE, Share, format_share

MOST_NAMED: Final = 4
"""Services that are named; of more, their number is."""

_Services = Mapping[ServiceName, Service]


def difference(before: _Services, after: _Services) -> str:
    """Return one line, such as ``web: 1 instance more; shop: new``; "" where, and only where, nothing differs."""
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    said = [f"{name}: {_of_one(before.get(name), after.get(name))}" for name in changed[:MOST_NAMED]]
    if len(changed) > MOST_NAMED:
        said.append(f"{len(changed) - MOST_NAMED} more services")
    return "; ".join(said)


def _of_one(before: Service | None, after: Service | None) -> str:
    if after is None:
        return "gone"
    if before is None:
        return "new, quarantined" if after.quarantine else "new"
    return ", ".join(_parts(before, after)) or "details"


def _parts(before: Service, after: Service) -> Iterator[str]:
    if before.state is not after.state:
        yield _STATES[after.state]
    yield from _instances(_by_identity(before), _by_identity(after))
    yield from _shares(_asked(before), _asked(after))
    if before.claims != after.claims:
        yield "other routes"
    if before.options != replace(after.options, route=before.options.route):
        yield "other options"


_STATES: Final = {
    ServiceState.SERVED: "served again",
    ServiceState.NOBODY: "nobody left to serve it",
    ServiceState.QUARANTINED: "quarantined",
}


def _by_identity(service: Service) -> Mapping[tuple[str, str, str], PlannedInstance]:
    everywhere = (*service.instances, *service.elsewhere)
    return {(instance.datacenter, instance.node, instance.id): instance for instance in everywhere}


def _instances(
    before: Mapping[tuple[str, str, str], PlannedInstance], after: Mapping[tuple[str, str, str], PlannedInstance]
) -> Iterator[str]:
    more, fewer = len(after.keys() - before.keys()), len(before.keys() - after.keys())
    if more:
        yield f"{_count(more)} more"
    if fewer:
        yield f"{_count(fewer)} fewer"
    both = before.keys() & after.keys()
    turned = [after[identity].state for identity in both if before[identity].state is not after[identity].state]
    for state in sorted(set(turned)):
        yield f"{_count(turned.count(state))} now {state}"
    moved = sum(replace(before[identity], state=after[identity].state) != after[identity] for identity in both)
    if moved > len(turned):
        yield f"{_count(moved - len(turned))} changed"


def _count(number: int) -> str:
    return f"{number} instance{'' if number == 1 else 's'}"


def _asked(service: Service) -> Mapping[str, Share]:
    # Stable gets what the others leave.
    return {variant.name: variant.asked for variant in service.variants if variant.name != STABLE}


def _shares(before: Mapping[str, Share], after: Mapping[str, Share]) -> Iterator[str]:
    for name in sorted(before.keys() & after.keys()):
        if before[name] != after[name]:
            yield f"{name} {format_share(before[name])} -> {format_share(after[name])}"
