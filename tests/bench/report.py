"""Measurements as a table for people, and as JSON for machines."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tests.bench.contenders import Usage

COLD_START: Final = "cold start"


@dataclass(slots=True)
class Record:
    """Everything that was seen of one contender at one size."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """By change; `COLD_START` is one of them."""
    started: list[Usage] = field(default_factory=list)
    """Of each start, once everything was served."""
    ended: list[Usage] = field(default_factory=list)
    """The same at the end of each turn."""
    changes: int = 0

    @property
    def cpu_start(self) -> float:
        return statistics.mean(usage.cpu for usage in self.started)

    @property
    def cpu_change(self) -> float:
        """CPU seconds by change."""
        return (sum(usage.cpu for usage in self.ended) - sum(usage.cpu for usage in self.started)) / self.changes

    @property
    def reloads(self) -> int:
        """How many reloads the changes took."""
        return sum(usage.reloads for usage in self.ended) - sum(usage.reloads for usage in self.started)

    @property
    def peak(self) -> float:
        """MiB."""
        return max(usage.peak for usage in self.ended) / 2**20

    @property
    def nginx(self) -> float:
        """MiB that nginx's processes held together when they served in peace."""
        return max(usage.nginx for usage in self.ended) / 2**20

    @property
    def sockets(self) -> int:
        return max(usage.sockets for usage in (*self.started, *self.ended))

    def rows(self) -> dict[str, list[float]]:
        """Return the seconds by change, and all changes together."""
        changes = {name: values for name, values in self.seconds.items() if name != COLD_START}
        return {**self.seconds, "all changes": [value for values in changes.values() for value in values]}


def quantile(values: Sequence[float], part: float) -> float:
    """Return the smallest value that is not exceeded by ``part`` of all (nearest rank)."""
    return sorted(values)[max(0, math.ceil(part * len(values)) - 1)]


def spread(values: Sequence[float]) -> float:
    """Return p99 as a multiple of the median."""
    return quantile(values, 0.99) / quantile(values, 0.5)


def table(size: int, records: Mapping[str, Record]) -> Iterable[str]:
    """Yield lines; a ratio is the contender's median as a multiple of the first's, and p99's is by its own median."""
    own = next(iter(records.values())).rows()
    yield f"{size} services x 3 instances"
    yield f"  {'':22}" + "".join(f"{name:>42}" for name in records)
    for change in own:
        cells = []
        for record in records.values():
            values = record.rows()[change]
            ratio = quantile(values, 0.5) / quantile(own[change], 0.5)
            told = " / ".join(f"{quantile(values, part) * 1000:.0f}" for part in (0.5, 0.9, 0.99))
            cells.append(f"{told} ms  x{ratio:.2f}  p99 x{spread(values):.1f}")
        yield f"  {change:22}" + "".join(f"{cell:>42}" for cell in cells)
    rows = {
        "CPU, cold start": [f"{record.cpu_start:.2f} s" for record in records.values()],
        "CPU, each change": [f"{record.cpu_change * 1000:.0f} ms" for record in records.values()],
        "reloads / changes": [f"{record.reloads} / {record.changes}" for record in records.values()],
        "peak memory": [f"{record.peak:.0f} MiB" for record in records.values()],
        "nginx's memory": [f"{record.nginx:.0f} MiB" for record in records.values()],
        "sockets to Consul": [str(record.sockets) for record in records.values()],
    }
    for title, cells in rows.items():
        yield f"  {title:22}" + "".join(f"{cell:>42}" for cell in cells)


def as_json(records: Mapping[str, Record]) -> dict[str, Any]:
    return {
        name: {
            "milliseconds": {
                change: {f"p{part:g}": round(quantile(values, part / 100) * 1000, 1) for part in (50, 90, 99)}
                for change, values in record.rows().items()
            },
            "samples": {change: len(values) for change, values in record.rows().items()},
            "p99_by_median": {change: round(spread(values), 2) for change, values in record.rows().items()},
            "reloads": record.reloads,
            "changes": record.changes,
            "cpu_start_seconds": round(record.cpu_start, 3),
            "cpu_change_seconds": round(record.cpu_change, 4),
            "peak_mib": round(record.peak, 1),
            "nginx_mib": round(record.nginx, 1),
            "sockets": record.sockets,
        }
        for name, record in records.items()
    }
