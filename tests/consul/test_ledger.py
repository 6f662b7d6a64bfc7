"""How old what we know is, by the questions that were asked."""

from __future__ import annotations

from math import inf

from proxygen.consul.ledger import Ledger


def test_nothing_is_fresh_before_everything_was_answered() -> None:
    ledger = Ledger()
    assert ledger.freshness() == inf
    ledger.expect("catalog")
    ledger.expect("service web")
    ledger.believed("catalog")
    assert ledger.freshness() == inf
    ledger.believed("service web")
    assert ledger.freshness() < inf


def test_a_question_that_comes_later_makes_nothing_less_fresh() -> None:
    """A sidecar that was ready does not stop to be so because a service is new or has changed."""
    ledger = Ledger()
    ledger.expect("catalog")
    ledger.believed("catalog")
    ledger.expect("service new")
    assert ledger.freshness() < inf
    ledger.forget("catalog")
    ledger.forget("service new")
    assert ledger.freshness() == inf
