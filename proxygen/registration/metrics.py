"""The registrator's metrics, read at each scrape. No label has values without bound."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from proxygen.kit.metrics import Family, Reading, one

if TYPE_CHECKING:
    from proxygen.consul.client import Statistics

# fmt: off

ENGINE: Final = Family("proxygen_registrator_engine_connected", "gauge", "1 while the engine's events are followed.")
CONTAINERS: Final = Family("proxygen_registrator_containers", "gauge", "Containers that run, by what became of them: registered, skipped (their labels are wrong), ignored (nothing asks for them).", ("state",))
SERVICES: Final = Family("proxygen_registrator_services", "gauge", "Instances that containers have registered, by whether they are in maintenance since their container ends or is paused.", ("withdrawn",))
EVENTS: Final = Family("proxygen_registrator_events", "counter", "Events of the engine about containers.")
SYNCED: Final = Family("proxygen_registrator_synced_timestamp_seconds", "gauge", "When all containers were last looked at, in seconds since 1970.")
CONSUL_REQUESTS: Final = Family("proxygen_registrator_consul_requests", "counter", "Requests to Consul, by how they ended: answered, failed.", ("outcome",))

# fmt: on

FAMILIES: Final = (ENGINE, CONTAINERS, SERVICES, EVENTS, SYNCED, CONSUL_REQUESTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerCounts:
    """What a registrator knows of its containers."""

    connected: bool
    registered: int
    skipped: int
    ignored: int
    serving: int
    """Services, as the next."""
    withdrawn: int
    events: int
    synced: float | None


def readings(figures: ContainerCounts, consul: Statistics) -> Iterator[Reading]:
    """What `Registrator.figures` says, as Prometheus's families."""
    yield one(ENGINE, figures.connected)
    yield Reading(
        CONTAINERS,
        {("registered",): figures.registered, ("skipped",): figures.skipped, ("ignored",): figures.ignored},
    )
    yield Reading(SERVICES, {("false",): figures.serving, ("true",): figures.withdrawn})
    yield one(EVENTS, figures.events)
    if figures.synced is not None:
        yield one(SYNCED, figures.synced)
    yield Reading(CONSUL_REQUESTS, {("answered",): consul.requests - consul.failures, ("failed",): consul.failures})
