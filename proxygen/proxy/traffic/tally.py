"""Requests by service and variant: since the start, and over the last minutes in steps of a few seconds."""

from __future__ import annotations

import threading
import time
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, NewType

from proxygen.proxy.traffic.lines import Line, parse
from proxygen.tags.shares import WHOLE, Share

Name = tuple[str, str]
"""(service, variant); the variant is "" for requests that nginx answered by itself: refused, redirected, 503."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a line's target stands for."""

    name: Name
    backups: frozenset[str] = frozenset()
    """The addresses of nginx's backups behind it: stable's instances behind another variant, another datacenter's."""


CLASSES: Final = ("other", "1xx", "2xx", "3xx", "4xx", "5xx")
BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper ends in seconds of the response times' buckets; one more takes what is longer."""

STEP: Final = 5
"""Seconds."""
STEPS: Final = 60
"""Five minutes."""

_BUCKETS: Final = len(CLASSES)
_SECONDS: Final = _BUCKETS + len(BOUNDS) + 1
_RETRIED: Final = _SECONDS + 1
_BACKED_UP: Final = _RETRIED + 1
_COLUMNS: Final = _BACKED_UP + 1
_ERRORS: Final = CLASSES.index("5xx")
_UPGRADED: Final = CLASSES.index("1xx")

Moment = NewType("Moment", int)
"""A step's number: monotonic seconds divided by `STEP`."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Requests of one variant over some time, extrapolated to all of them where only a sample was told."""

    row: tuple[float, ...]

    @property
    def requests(self) -> float:
        """All of them, whatever their status."""
        return sum(self.row[:_BUCKETS])

    @property
    def errors(self) -> float:
        """Those answered with 5xx."""
        return self.row[_ERRORS]

    @property
    def classes(self) -> Mapping[str, float]:
        """Requests by class of status."""
        return dict(zip(CLASSES, self.row[:_BUCKETS], strict=True))

    @property
    def buckets(self) -> tuple[float, ...]:
        """Requests by response time: one more than `BOUNDS`, not cumulative. WebSockets are not in it: their time is
        how long they were open."""
        return self.row[_BUCKETS:_SECONDS]

    @property
    def cumulative(self) -> tuple[float, ...]:
        """The same as Prometheus has it: up to each bound, then all."""
        return tuple(accumulate(self.buckets))

    @property
    def seconds(self) -> float:
        """The sum of all response times."""
        return self.row[_SECONDS]

    @property
    def retried(self) -> float:
        """Requests for which more than one server was asked."""
        return self.row[_RETRIED]

    @property
    def backed_up(self) -> float:
        """Requests that a backup answered, whether one of the variant's own servers was asked before or not: nginx
        passes over those that failed a moment ago."""
        return self.row[_BACKED_UP]

    def quantile(self, part: float) -> float | None:
        """Return seconds, on a straight line within the bucket as Prometheus does; None where nothing was timed. What
        is longer than the last bound counts as that bound."""
        wanted = part * sum(self.buckets)
        if wanted <= 0:
            return None
        low, below = 0.0, 0.0
        for high, count in zip(BOUNDS, self.buckets, strict=False):
            if below + count >= wanted and count:
                return low + (high - low) * (wanted - below) / count
            low, below = high, below + count
        return BOUNDS[-1]


NOTHING: Final = Figures((0.0,) * _COLUMNS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """What became of the lines that arrived."""

    counted: int = 0
    thinned: int = 0
    """Not looked at, because the CPU budget was used up; the ones beside them stand for them."""
    unknown: int = 0
    """About no service of the plan: a moment ago it had one."""
    malformed: int = 0


class _Series:
    """One variant's rows. Floats of four bytes in the ring: exact up to 16 million requests in a step."""

    __slots__ = ("newest", "ring", "total")

    def __init__(self, now: Moment) -> None:
        self.total = array("d", bytes(8 * _COLUMNS))
        self.ring = array("f", bytes(4 * _COLUMNS * STEPS))
        self.newest = now

    def advance(self, now: Moment) -> int:
        """Clear the steps that passed without a request; return where the row of ``now`` begins."""
        for moment in range(max(self.newest + 1, now - STEPS + 1), now + 1):
            start = moment % STEPS * _COLUMNS
            self.ring[start : start + _COLUMNS] = array("f", bytes(4 * _COLUMNS))
        self.newest = max(self.newest, now)
        return now % STEPS * _COLUMNS

    def row(self, moment: int) -> Sequence[float]:
        if not self.newest - STEPS < moment <= self.newest:
            return NOTHING.row
        start = moment % STEPS * _COLUMNS
        return self.ring[start : start + _COLUMNS]


class Tally:
    """The counts of one sidecar. One thread adds; any may read."""

    def __init__(
        self,
        targets: Callable[[], Mapping[str, Target]],
        clock: Callable[[], float] = time.monotonic,
        *,
        sample: Share = WHOLE,
    ) -> None:
        """``targets`` says what they stand for: the same object until something changes. Any thread may call it.

        ``sample`` is what nginx is to tell of: no line stands for more, whatever it says. One that an old worker sends
        by a larger sample stands for less.
        """
        self._heaviest: Final = WHOLE / sample
        self._look_up: Final = targets
        self._clock: Final = clock
        self._begun: Final = self._now()
        self._lock: Final = threading.Lock()
        self._targets: Mapping[str, Target] = {}
        self._series: dict[Name, _Series] = {}
        self._counted = self._thinned = self._unknown = self._malformed = 0

    def add(self, lines: Iterable[tuple[bytes, int]], *, each: int = 1, thinned: int = 0) -> None:
        """Count lines, each with how often it came. Each stands for ``each`` that arrived; ``thinned`` of them were
        not looked at."""
        with self._lock:
            # Behind the same names there may be other servers.
            self._refresh()
            now = self._now()
            self._thinned += thinned
            for datagram, times in lines:
                line = parse(datagram)
                if line is None:
                    self._malformed += times
                    continue
                target = self._targets.get(line.target)
                if target is None:
                    self._unknown += times
                    continue
                self._counted += times
                self._count(target, now, line, min(line.weight, self._heaviest) * times * each)

    def _refresh(self) -> None:
        """Take the newest names; what was counted of services and variants that are gone is forgotten."""
        targets = self._look_up()
        if targets is self._targets:
            return
        self._targets = targets
        names = {target.name for target in targets.values()}
        known = {*names, *((service, "") for service, _ in names)}
        self._series = {name: series for name, series in self._series.items() if name in known}

    def _count(self, target: Target, now: Moment, line: Line, weight: float) -> None:
        name = target.name if line.asked else (target.name[0], "")
        series = self._series.get(name)
        if series is None:
            series = self._series[name] = _Series(now)
        row, total, ring = series.advance(now), series.total, series.ring
        kind = line.status // 100 if 100 <= line.status < 600 else 0
        columns = [(kind, weight)]
        if line.asked and kind != _UPGRADED:
            bucket = bisect_left(BOUNDS, line.seconds)
            columns += [(_BUCKETS + bucket, weight), (_SECONDS, weight * line.seconds)]
        if line.asked > 1:
            columns.append((_RETRIED, weight))
        if line.server in target.backups:
            columns.append((_BACKED_UP, weight))
        for column, amount in columns:
            total[column] += amount
            ring[row + column] += amount

    @property
    def ends(self) -> Ends:
        """What became of the lines that were read, since the start."""
        return Ends(counted=self._counted, thinned=self._thinned, unknown=self._unknown, malformed=self._malformed)

    def totals(self) -> dict[Name, Figures]:
        """Everything since the start."""
        return {name: Figures(tuple(series.total)) for name, series in self._known()}

    def window(self, steps: int) -> dict[Name, Figures]:
        """Return the last steps together, the one that is not over included."""
        now = self._now()
        return {name: _sum(series, range(now - steps + 1, now + 1)) for name, series in self._known()}

    def history(self, service: str) -> dict[str, tuple[Figures, ...]]:
        """Return the steps of each of a service's variants that are over, oldest first; none from before the start."""
        now = self._now()
        first = max(self._begun, now - STEPS + 1)
        return {
            variant: tuple(Figures(tuple(series.row(moment))) for moment in range(first, now))
            for (name, variant), series in self._known()
            if name == service
        }

    def _known(self) -> list[tuple[Name, _Series]]:
        """For those who read. They sum up without the lock, so that the one who adds need not wait: at worst a request
        that is being counted stands in one column and not yet in another."""
        with self._lock:
            self._refresh()
            return list(self._series.items())

    @property
    def since_step(self) -> float:
        """Seconds since the step began that is not over."""
        return self._clock() % STEP

    def _now(self) -> Moment:
        return Moment(int(self._clock() // STEP))


def _sum(series: _Series, moments: range) -> Figures:
    if series.newest < moments.start:
        return NOTHING
    rows = [series.row(moment) for moment in moments]
    return Figures(tuple(map(sum, zip(*rows, strict=True))))
