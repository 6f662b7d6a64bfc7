"""What a metric is, and a page of them for agents that have no admin API.

The sidecar's are in `proxygen.proxy.admin`; those of the network's agent and of the registrator stand beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from proxygen.kit.errors import SettingsError

if TYPE_CHECKING:
    # Loaded where metrics are asked for: an application that registers itself needs none.
    from prometheus_client.metrics_core import Metric


@dataclass(frozen=True, slots=True)
class Family:
    """One metric."""

    name: str
    """Without the suffixes that its type adds."""
    type: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def series(self) -> str:
        """The name under which queries find it."""
        return f"{self.name}_total" if self.type == "counter" else self.name


@dataclass(frozen=True, slots=True)
class Reading:
    """What a metric is now, by the values of its labels."""

    family: Family
    values: Mapping[tuple[str, ...], float]


def one(family: Family, value: float) -> Reading:
    """A metric without labels."""
    return Reading(family, {(): value})


@contextmanager
def serving(address: str, read: Callable[[], Iterable[Reading]], *, setting: str) -> Iterator[None]:
    """Serve what ``read`` tells at each scrape, from a thread, while the block runs; ``off``: nothing.

    Raise SettingsError, which names ``setting``, where the address cannot be had.
    """
    if address == "off":
        yield
        return
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry()
    registry.register(_Page(read))
    host, _, port = address.rpartition(":")
    try:
        server, thread = start_http_server(int(port), host.strip("[]"), registry)
    except OSError as error:
        raise SettingsError(
            f"{setting} = {address!r}: {error.strerror}; choose another ADDRESS:PORT, or off"
        ) from error
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Page:
    """A collector, as prometheus_client calls what it asks at each scrape."""

    def __init__(self, read: Callable[[], Iterable[Reading]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

        for reading in self._read():
            family = reading.family
            kind = CounterMetricFamily if family.type == "counter" else GaugeMetricFamily
            metric = kind(family.name, family.help, labels=family.labels)
            for labels, value in reading.values.items():
                metric.add_metric(labels, value)
            yield metric

    def describe(self) -> Iterator[Metric]:
        """Nothing: an agent that has only begun has not all of them yet."""
        return iter(())
