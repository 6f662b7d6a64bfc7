"""What is counted as it happens: passes, stages, requests to Consul. The rest is read at the scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prometheus_client import Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.metrics_core import Metric

from proxygen.kit.metrics import Family
from proxygen.proxy.admin.families import (
    ADMIN_CONNECTIONS,
    ADMIN_TURNED_AWAY,
    APPLIED,
    CONSUL_LATENCY,
    CONSUL_REQUESTS,
    PASSES,
    PROPAGATION,
    RELOADS,
    STAGES,
)
from proxygen.proxy.admin.report import ApplyReport
from proxygen.proxy.apply.outcome import Outcome, WayToNginx

_ENDS: Final = ("answered", "denied", "failed")


class Meter:
    """The instruments of one sidecar, in no registry: several sidecars may live in one process."""

    def __init__(self) -> None:
        self._passes: Final = _counter(PASSES)
        self._applied: Final = _counter(APPLIED)
        self._stages: Final = _histogram(STAGES)
        self._reloads: Final = _histogram(RELOADS)
        self._propagation: Final = _histogram(PROPAGATION)
        self._requests: Final = _counter(CONSUL_REQUESTS)
        self._latency: Final = _histogram(CONSUL_LATENCY)
        family = ADMIN_CONNECTIONS
        self._connections: Final = Gauge(family.name, family.help, family.labels, registry=None)
        self._turned_away: Final = _counter(ADMIN_TURNED_AWAY)
        self._process: Final = ProcessCollector(registry=None)
        # A series that is there from the start has a rate from its first event on.
        for outcome in Outcome:
            self._passes.labels(outcome)
        for way in WayToNginx:
            self._applied.labels(way)
        for end in _ENDS:
            self._requests.labels(end)

    def passed(self, step: ApplyReport) -> None:
        """Count one pass of the loop."""
        self._passes.labels(step.outcome).inc()
        if step.outcome == Outcome.APPLIED:
            self._applied.labels(step.by).inc()
        for stage, seconds in step.durations.items():
            self._stages.labels(stage).observe(seconds)
        if step.outcome == Outcome.APPLIED and "prove" in step.durations:
            self._reloads.observe(step.durations.get("reload", 0.0) + step.durations["prove"])
        if step.propagation is not None:
            self._propagation.observe(step.propagation)

    def asked_consul(self, end: str, seconds: float | None) -> None:
        """Count one request to Consul; ``seconds`` is None for one that was to wait for a change."""
        self._requests.labels(end).inc()
        if seconds is not None and end == "answered":
            self._latency.observe(seconds)

    def watch_connections(self, listener: str, count: Callable[[], int], reasons: Iterable[str]) -> None:
        """Read the number of a listener's connections at each scrape. ``reasons`` are those of `turned_away`."""
        self._connections.labels(listener).set_function(count)
        for reason in reasons:
            self._turned_away.labels(listener, reason)

    def turned_away(self, listener: str, reason: str) -> None:
        self._turned_away.labels(listener, reason).inc()

    def collect(self) -> Iterator[Metric]:
        for instrument in (
            self._passes,
            self._applied,
            self._stages,
            self._reloads,
            self._propagation,
            self._requests,
            self._latency,
            self._connections,
            self._turned_away,
            self._process,
        ):
            for metric in instrument.collect():
                # When each series began is told by process_start_time_seconds, once for all.
                metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
                yield metric


def _counter(family: Family) -> Counter:
    return Counter(family.name, family.help, family.labels, registry=None)


def _histogram(family: Family) -> Histogram:
    return Histogram(family.name, family.help, family.labels, registry=None, buckets=family.buckets)
