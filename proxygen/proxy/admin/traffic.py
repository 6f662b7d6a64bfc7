"""Counted requests as the admin API tells them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from proxygen.proxy.admin.service_report import ServiceDetail, ServiceSummary
from proxygen.proxy.admin.traffic_report import HistoryReport, ListenerReport, TrafficReport
from proxygen.proxy.traffic.listener import Listener
from proxygen.proxy.traffic.tally import STEP, Figures, Name, Tally
from proxygen.tags.shares import WHOLE

_WINDOW: Final = 6
"""Steps: half a minute, the step that is not over included."""


@dataclass(frozen=True, slots=True)
class Recent:
    """The last half minute of all variants."""

    figures: Mapping[Name, Figures] = field(default_factory=dict)
    seconds: float = 0.0

    @classmethod
    def of(cls, tally: Tally) -> Recent:
        return cls(tally.window(_WINDOW), (_WINDOW - 1) * STEP + tally.since_step)

    def summarised(self, summary: ServiceSummary) -> ServiceSummary:
        """Return the same with its traffic."""
        names = [variant.name for variant in summary.variants]
        reports = self._reports(summary.name, names)
        if not reports:
            return summary
        variants = tuple(replace(variant, traffic=reports.get(variant.name)) for variant in summary.variants)
        return replace(summary, variants=variants, unserved=reports.get(""))

    def detailed(self, detail: ServiceDetail, tally: Tally) -> ServiceDetail:
        """Return the same with its traffic and the last minutes of it."""
        names = [variant.name for variant in detail.variants]
        reports = self._reports(detail.name, names)
        if not reports:
            return detail
        history = {variant: _history(steps) for variant, steps in tally.history(detail.name).items()}
        variants = tuple(
            replace(variant, traffic=reports.get(variant.name), history=history.get(variant.name))
            for variant in detail.variants
        )
        return replace(detail, variants=variants, unserved=reports.get(""), unserved_history=history.get(""))

    def _reports(self, service: str, variants: Sequence[str]) -> dict[str, TrafficReport]:
        found = {
            variant: self.figures[service, variant] for variant in (*variants, "") if (service, variant) in self.figures
        }
        served = sum(figures.requests for variant, figures in found.items() if variant)
        return {variant: self._report(figures, served if variant else 0.0) for variant, figures in found.items()}

    def _report(self, figures: Figures, served: float) -> TrafficReport:
        return TrafficReport(
            seconds=round(self.seconds, 1),
            requests=_rounded(figures.requests),
            errors=_rounded(figures.errors),
            classes={name: _rounded(count) for name, count in figures.classes.items() if count},
            retried=_rounded(figures.retried),
            backed_up=_rounded(figures.backed_up),
            share=round(figures.requests / served * WHOLE) if served else None,
            p50=_seconds(figures.quantile(0.5)),
            p95=_seconds(figures.quantile(0.95)),
            p99=_seconds(figures.quantile(0.99)),
        )


def _history(steps: Sequence[Figures]) -> HistoryReport:
    return HistoryReport(
        step=STEP,
        requests=tuple(_rounded(step.requests) for step in steps),
        errors=tuple(_rounded(step.errors) for step in steps),
        p95=tuple(_seconds(step.quantile(0.95)) for step in steps),
    )


def _rounded(count: float) -> float:
    return round(count, 2)


def _seconds(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def listener_report(listener: Listener | None, tally: Tally, *, sample: float, problem: str) -> ListenerReport:
    """``problem`` is why nginx cannot tell of its requests."""
    if listener is None:
        return ListenerReport(sample=sample, problem=problem)
    ends = tally.ends
    return ListenerReport(
        sample=sample,
        problem=problem or listener.problem,
        counted=ends.counted,
        thinned=ends.thinned,
        unknown=ends.unknown,
        malformed=ends.malformed,
        full=listener.full,
        lost=listener.lost,
    )
