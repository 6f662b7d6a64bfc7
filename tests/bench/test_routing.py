"""The bench of routes measures what it says, and a thousand hosts are no burden."""

from __future__ import annotations

import pytest

from tests.bench.routing import CONFIGS, measure


@pytest.mark.parametrize(("backend", "entries"), [("host-gw", 20), ("vxlan", 60)])
async def test_both_make_the_same_routes(backend: str, entries: int) -> None:
    """It ends with an error of its own where they do not."""
    figures = await measure(backend, 20, 1)
    assert (figures.hosts, figures.entries) == (20, entries)
    assert min(figures.batch, figures.from_nothing, figures.unchanged, figures.one_more) > 0
    assert figures.backend in str(figures)


@pytest.mark.bench
@pytest.mark.parametrize("backend", CONFIGS)
async def test_what_is_as_it_should_be_costs_less_than_making_it(backend: str) -> None:
    """A pass with nothing to do, as there is one every few seconds; and making it stays near `ip -batch`."""
    figures = await measure(backend, 1000, 5)
    assert figures.unchanged < figures.from_nothing
    assert figures.ratio < 30
