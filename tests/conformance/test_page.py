"""docs/reference/requests.md is what the cases say, and the cases can be told from one another."""

from __future__ import annotations

from collections import Counter

from tests.conformance.cases import CASES, GROUPS
from tests.conformance.page import PAGE, text


def test_the_page_in_the_repository_is_what_the_cases_say() -> None:
    """After a change of a case: python -m tests.conformance."""
    assert PAGE.read_text(encoding="utf-8") == text()


def test_every_case_has_a_name_and_every_group_a_row_of_its_own() -> None:
    assert [name for name, count in Counter(case.name for case in CASES).items() if count > 1] == []
    for group in GROUPS:
        titles = Counter(case.title for case in group.cases)
        assert [title for title, count in titles.items() if count > 1] == []


def test_every_row_has_four_columns() -> None:
    rows = [line for line in text().splitlines() if line.startswith("|")]
    assert {row.replace("\\|", "").count("|") for row in rows} == {5}


def test_every_incident_of_requests_has_a_case_or_a_test_of_its_own() -> None:
    """T80 is about idle connections, which the table cannot show: test_idle_connections.py does."""
    assert {case.incident for case in CASES} >= {f"T{number}" for number in range(73, 87)} - {"T80"}
