"""The bench of imports measures what it says, and an application pays no more for us than for `requests`."""

from __future__ import annotations

import pytest

from tests.bench.importing import STATEMENTS, measure


def test_every_statement_is_measured() -> None:
    costs = measure(turns=1)
    assert costs.keys() == STATEMENTS.keys()
    assert all(cost.mib > 1 for cost in costs.values())


@pytest.mark.bench
def test_importing_registration_costs_less_than_requests() -> None:
    costs = measure()
    ours, theirs = costs["import proxygen.registration"], costs["import requests"]
    assert ours.seconds < theirs.seconds
    assert ours.mib < theirs.mib
