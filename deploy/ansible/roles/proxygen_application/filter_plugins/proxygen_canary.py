"""Whether a canary does worse than stable, by what the sidecars' API tells of a service."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

STABLE = "stable"

_SURE = 1.96
"""Standard deviations: of a hundred canaries as good as stable, two or three are called worse."""


@dataclass(frozen=True)
class Figures:
    """The last half minute of one variant, by all sidecars together."""

    requests: float
    bad: float
    """Answered with 5xx, or only by another instance: stable stands behind the canary, and hides one that is down."""

    @property
    def rate(self) -> float:
        return self.bad / self.requests if self.requests else 0.0

    @property
    def least_rate(self) -> float:
        """The lower end of Wilson's interval: three failures out of three say less than thirty out of thirty."""
        if not self.requests:
            return 0.0
        square = _SURE * _SURE / self.requests
        spread = _SURE * math.sqrt(self.rate * (1 - self.rate) / self.requests + square / (4 * self.requests))
        return max(0.0, (self.rate + square / 2 - spread) / (1 + square))


@dataclass(frozen=True)
class Verdict:
    """``outcome`` is good, worse or inconclusive."""

    outcome: str
    reason: str


def proxygen_canary_verdict(
    reports: Sequence[Mapping[str, Any]], margin: float = 1.0, minimum_requests: int = 20, variant: str = "canary"
) -> dict[str, str]:
    """Judge the canary by ``/api/v1/services/NAME`` of each sidecar. ``margin`` is in percent."""
    return asdict(_judge(reports, margin, minimum_requests, variant))


def proxygen_canary_asked(reports: Sequence[Mapping[str, Any]], variant: str = "canary") -> float:
    """Return the share in percent that all sidecars give the canary at least; 0 where one has none."""
    shares = [_variant(report, variant).get("effective", 0) for report in reports]
    return min(shares, default=0) / 100


def proxygen_serving(report: Mapping[str, Any], ids: Iterable[str]) -> bool:
    """Tell whether a sidecar sends requests to all of these instances."""
    serving = {
        instance["id"]
        for variant in report.get("variants", ())
        for instance in variant.get("instances", ())
        if instance["state"] == "serving"
    }
    return serving.issuperset(ids)


def _judge(reports: Sequence[Mapping[str, Any]], margin: float, minimum_requests: int, variant: str) -> Verdict:
    for report in reports:
        if report.get("state") == "quarantined":
            reason = (report.get("quarantine") or {}).get("reason", "no reason is told")
            return Verdict("worse", f"the service is quarantined: {reason}")
        if not any(item["state"] == "serving" for item in _variant(report, variant).get("instances", ())):
            return Verdict("worse", f"no instance of the {variant} serves")
    tried, stable = _figures(reports, variant), _figures(reports, STABLE)
    said = f"{_text(tried)} failed on the {variant}, {_text(stable)} on {STABLE}"
    if tried.least_rate > stable.rate + margin / 100:
        return Verdict("worse", said)
    if tried.requests < minimum_requests:
        return Verdict("inconclusive", f"{said}; at least {minimum_requests} requests are needed to tell")
    return Verdict("good", said)


def _variant(report: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return next((item for item in report.get("variants", ()) if item["name"] == name), {})


def _figures(reports: Iterable[Mapping[str, Any]], name: str) -> Figures:
    traffics = [traffic for report in reports if (traffic := _variant(report, name).get("traffic"))]
    requests = sum(traffic["requests"] for traffic in traffics)
    # One request may be several of these. A canary that hangs up is asked for a moment only: then nginx passes over it,
    # and stable answers in its place at once, without a retry.
    bad = sum(
        min(traffic["requests"], traffic["errors"] + max(traffic["retried"], traffic.get("backed_up", 0)))
        for traffic in traffics
    )
    return Figures(requests, bad)


def _text(figures: Figures) -> str:
    return f"{figures.bad:g} of {figures.requests:g} requests ({figures.rate:.1%})"


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "proxygen_canary_asked": proxygen_canary_asked,
            "proxygen_canary_verdict": proxygen_canary_verdict,
            "proxygen_serving": proxygen_serving,
        }
