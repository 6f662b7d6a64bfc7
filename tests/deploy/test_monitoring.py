"""Alert rules and dashboard ask for metrics that exist, by labels that they have."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxygen.kit.metrics import Family
from proxygen.network.agent import metrics as network
from proxygen.proxy.admin.families import FAMILIES
from proxygen.registration import metrics as registrator

MONITORING = Path(__file__).parents[2] / "deploy" / "monitoring"
MANUAL = Path(__file__).parents[2] / "docs" / "how-to" / "monitor.md"

BY_PROMETHEUS = {"job", "instance", "le"}


def series() -> dict[str, Family]:
    """Every name under which a query may find a metric."""
    ends = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
    families = (*FAMILIES, *network.FAMILIES, *registrator.FAMILIES)
    return {family.name + end: family for family in families for end in ends[family.type]}


def expressions(file: Path) -> Iterator[str]:
    if file.suffix == ".json":
        yield from _expressions_of(json.loads(file.read_text()))
    elif file.suffix == ".md":
        yield from (code for code in re.findall(r"`([^`\n]+)`", file.read_text()) if "proxygen_" in code)
    else:
        yield from re.findall(r"expr: (?:>-\n)?(.*)", file.read_text())


def _expressions_of(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        yield from (value for key, value in node.items() if key == "expr")
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _expressions_of(child)


FILES = pytest.mark.parametrize(
    "file", [MONITORING / "alerts.yml", MONITORING / "grafana.json", MANUAL], ids=lambda file: file.name
)


@FILES
def test_every_metric_that_is_asked_for_exists(file: Path) -> None:
    asked = {name for text in expressions(file) for name in re.findall(r"\bproxygen_[a-z_]+", text)}
    assert asked
    assert asked <= series().keys()


@FILES
def test_every_label_that_is_asked_for_is_one_of_that_metric(file: Path) -> None:
    for text in expressions(file):
        for name, selector in re.findall(r"\b(proxygen_[a-z_]+)\{([^}]*)\}", text):
            labels = set(re.findall(r"(\w+) *(?:=~|!=|!~|=)", selector))
            assert labels - BY_PROMETHEUS <= set(series()[name].labels), text


def test_panels_do_not_lie_on_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads((MONITORING / "grafana.json").read_text())["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
