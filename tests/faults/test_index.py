"""Every incident has a scenario, and the README finds it."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = Path(__file__).with_name("README.md")


@cache
def marked() -> Mapping[str, set[str]]:
    """The files in which an incident is marked."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in ROOT.glob("tests/**/test_*.py"):
        text = path.read_text()
        # To parse them all would take seconds.
        for incident in _incidents(ast.parse(text)) if "mark.incident" in text else ():
            found[incident].add(path.relative_to(ROOT).as_posix())
    return found


def _incidents(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.incident":
            yield from (ast.literal_eval(argument) for argument in node.args)


def rows() -> Mapping[str, list[str]]:
    """The files that the README names for each incident."""
    lines = [line.strip("|").split("|") for line in README.read_text().splitlines() if re.match(r"\| T\d+ ", line)]
    return {cells[0].strip(): re.findall(r"`([^`]+\.py)`", cells[-1]) for cells in lines}


INCIDENTS = tuple(rows())


@pytest.mark.parametrize("incident", INCIDENTS)
def test_every_incident_has_a_scenario_that_the_readme_names(incident: str) -> None:
    files = rows()[incident]
    assert files
    assert {f"tests/{name}" for name in files} <= marked()[incident]


def test_the_first_incidents_are_all_there() -> None:
    assert {f"T{number}" for number in range(1, 35)} <= set(INCIDENTS)


def test_no_scenario_is_of_an_unknown_incident() -> None:
    assert set(marked()) <= set(INCIDENTS)
