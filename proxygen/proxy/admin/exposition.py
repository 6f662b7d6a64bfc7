"""One scrape: what was counted, what is so now, and both as text."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Final, TypeVar

from prometheus_client import exposition
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.utils import floatToGoString

from proxygen.kit.metrics import Family
from proxygen.proxy.admin import families
from proxygen.proxy.admin.contract import Sidecar
from proxygen.proxy.admin.report import ConsulReport, HoldReport, NginxReport, StatusReport
from proxygen.proxy.admin.service_report import WAITING, InstanceState, ServiceSummary
from proxygen.proxy.admin.traffic_report import ListenerReport
from proxygen.proxy.apply.outcome import FAILED
from proxygen.proxy.plan.types import ServiceState
from proxygen.proxy.record.events import Kind
from proxygen.proxy.traffic.tally import BOUNDS, Figures, Name

_Labels = TypeVar("_Labels", bound=tuple[str, ...])

_OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"

_SERVICE_STATES: Final = (*(state.value for state in ServiceState), WAITING)
_TOLD: Final = tuple(kind for kind in Kind if kind is not Kind.MISSED)
_ALL: Final = 10_000
"""Basis points of a whole."""


class Scrape:
    """All metrics of one moment. Made in the loop and quickly; `text` is for a thread, since it goes over all
    services."""

    def __init__(self, sidecar: Sidecar, *, streams: int) -> None:
        """``streams`` is the number of clients that follow the events."""
        self._sidecar: Final = sidecar
        overview = sidecar.overview()
        self._metrics: Final = (
            *sidecar.meter.collect(),
            *_whole(overview, ready=sidecar.readiness().ready),
            *_consul(overview.consul),
            *_nginx(overview.nginx),
            *_held(overview.hold),
            *_listener(overview.traffic),
            _gauge(families.STREAMS, streams),
            _gauges(families.CONDITIONS, {(topic.value,): len(now) for topic, now in sidecar.events.standing.items()}),
            _counter(families.EVENTS, {(kind.value,): sidecar.events.totals.get(kind, 0) for kind in _TOLD}),
        )

    def collect(self) -> Iterator[Metric]:
        """Return what prometheus_client's encoders ask a registry for."""
        yield from self._metrics
        yield from _services(self._sidecar.services())
        yield from _traffic(self._sidecar.traffic())

    def text(self, accept: str) -> tuple[bytes, str]:
        """Return body and content type, as OpenMetrics where the client's Accept asks for that."""
        # Not the library's own choice: it breaks on versions that are no numbers.
        types = {part.partition(";")[0].strip() for part in accept.split(",")}
        if "application/openmetrics-text" in types:
            return openmetrics.generate_latest(self), _OPENMETRICS  # type: ignore[no-untyped-call]
        return exposition.generate_latest(self), _TEXT


def _whole(overview: StatusReport, *, ready: bool) -> Iterator[Metric]:
    last = overview.last_apply
    yield _gauges(families.BUILD, {(overview.version, platform.python_version(), overview.nginx.version): 1})
    yield _gauge(families.READY, ready)
    yield _gauge(families.FAILING, last is not None and last.outcome in FAILED)
    yield _gauge(families.CONFLICTS, len(overview.conflicts))
    expires = {(one.name,): datetime.fromisoformat(one.expires).timestamp() for one in overview.certificates}
    yield _gauges(families.CERTIFICATE_EXPIRES, expires)
    if overview.live is not None:
        yield _gauge(families.GENERATION, overview.live.number)
        yield _gauge(families.LIVE_SINCE, datetime.fromisoformat(overview.live.since).timestamp())


def _consul(consul: ConsulReport) -> Iterator[Metric]:
    yield _gauge(families.CONSUL_FRESHNESS, float("inf") if consul.freshness is None else consul.freshness)
    yield _gauge(families.CONSUL_FRESH, consul.fresh)
    yield _counter(families.CONSUL_LIMITED, {(): consul.limited})
    yield _counter(families.CONSUL_BYTES, {(): consul.received})
    yield _gauge(families.CONSUL_SOCKETS, consul.sockets)
    yield _gauge(families.CONSUL_MAX_SOCKETS, consul.max_sockets)


def _nginx(nginx: NginxReport) -> Iterator[Metric]:
    yield _gauge(families.NGINX_MAX_DRAINING, nginx.max_draining)
    if nginx.visible:
        yield _gauge(families.NGINX_UP, nginx.master is not None)
    if nginx.accepting is not None and nginx.draining is not None:
        workers = {("accepting",): nginx.accepting, ("draining",): nginx.draining}
        yield _gauges(families.NGINX_WORKERS, workers)


def _held(hold: HoldReport | None) -> Iterator[Metric]:
    kept = hold.services if hold is not None else {}
    is_pinned = hold is not None and hold.pinned is not None
    yield _gauges(families.HELD, {("guard",): bool(kept), ("rollback",): is_pinned})
    yield _gauge(families.HELD_SERVICES, len(kept))
    yield _gauges(families.SERVICE_KEPT, {(name,): count for name, count in kept.items()})


def _services(services: tuple[ServiceSummary, ...]) -> Iterator[Metric]:
    states = Counter(service.state for service in services)
    instances: Counter[InstanceState] = Counter()
    for service in services:
        instances.update(service.instances)
    yield _gauges(families.SERVICES, {(state,): states[state] for state in _SERVICE_STATES})
    yield _gauges(families.INSTANCES, {(state.value,): instances[state] for state in InstanceState})
    variants = {(service.name, variant.name): variant for service in services for variant in service.variants}
    yield _gauges(families.SERVICE_SERVING, {key: variant.serving for key, variant in variants.items()})
    yield _gauges(families.SERVICE_REGISTERED, {key: variant.registered for key, variant in variants.items()})
    split = {service.name for service in services if len(service.variants) > 1}
    shared = {key: variant for key, variant in variants.items() if key[0] in split}
    yield _gauges(families.SERVICE_SHARE, {key: variant.effective / _ALL for key, variant in shared.items()})
    yield _gauges(families.SERVICE_SHARE_ASKED, {key: variant.asked / _ALL for key, variant in shared.items()})
    quarantined = {(service.name,): 1 for service in services if service.state == ServiceState.QUARANTINED}
    yield _gauges(families.SERVICE_QUARANTINED, quarantined)
    unusable = {(service.name,): service.unusable for service in services if service.unusable}
    yield _gauges(families.SERVICE_UNUSABLE, unusable)


def _listener(listener: ListenerReport) -> Iterator[Metric]:
    yield _gauge(families.TRAFFIC_SAMPLE, listener.sample / 100)
    ends = {"counted": listener.counted, "thinned": listener.thinned}
    ends |= {"unknown": listener.unknown, "malformed": listener.malformed}
    yield _counter(families.TRAFFIC_LINES, {(end,): count for end, count in ends.items()})
    yield _counter(families.TRAFFIC_FULL, {(): listener.full})
    if listener.lost is not None:
        yield _counter(families.TRAFFIC_LOST, {(): listener.lost})


def _traffic(totals: Mapping[Name, Figures]) -> Iterator[Metric]:
    classes = {
        (*name, status): count for name, each in totals.items() for status, count in each.classes.items() if count
    }
    yield _counter(families.TRAFFIC_REQUESTS, classes)
    # What nginx answered by itself took no instance any time.
    served = {(service, variant): each for (service, variant), each in totals.items() if variant}
    yield _counter(families.TRAFFIC_RETRIED, {name: each.retried for name, each in served.items()})
    yield _counter(families.TRAFFIC_BACKED_UP, {name: each.backed_up for name, each in served.items()})
    family = families.TRAFFIC_SECONDS
    histogram = HistogramMetricFamily(family.name, family.help, labels=family.labels)
    limits = [*map(floatToGoString, BOUNDS), "+Inf"]
    for name, each in served.items():
        histogram.add_metric(name, list(zip(limits, each.cumulative, strict=True)), sum_value=each.seconds)
    yield histogram


def _gauge(family: Family, value: float) -> Metric:
    return _gauges(family, {(): value})


def _gauges(family: Family, values: Mapping[_Labels, float]) -> Metric:
    metric = GaugeMetricFamily(family.name, family.help, labels=family.labels)
    for labels, value in values.items():
        metric.add_metric(labels, float(value))
    return metric


def _counter(family: Family, values: Mapping[_Labels, float]) -> Metric:
    metric = CounterMetricFamily(family.name, family.help, labels=family.labels)
    for labels, value in values.items():
        metric.add_metric(labels, value)
    return metric
