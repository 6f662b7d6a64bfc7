"""The bench itself works: it measures what it says, on a few services and one change of each kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.propagation import compare, fleet_of, makers_for
from tests.bench.report import as_json, quantile, table


@pytest.mark.timeout(600)
async def test_every_kind_of_change_is_felt_and_told(tmp_path: Path) -> None:
    """Each contender that is here feels each change; proxygen stays below the aims for memory and sockets."""
    with fleet_of(3, tmp_path) as fleet:
        makers = makers_for(fleet.consul, "wheel")
        (tmp_path / "turns").mkdir()
        records = await compare(fleet, makers, tmp_path / "turns", turns=1, changes=1)
    assert next(iter(records)) == "proxygen"
    for record in records.values():
        assert record.changes == 6
        assert all(0 < value < 10 for values in record.seconds.values() for value in values)
    own = records["proxygen"]
    assert own.peak < 120
    assert own.sockets <= 64
    assert any("registered" in line for line in table(3, records))
    assert as_json(records)["proxygen"]["samples"]["registered"] == 1


def test_a_quantile_is_a_value_that_was_seen() -> None:
    """Nearest rank: never between two values, never beyond the largest."""
    values = [5.0, 1.0, 3.0]
    assert [quantile(values, part) for part in (0.01, 0.5, 0.9, 0.99, 1)] == [1.0, 3.0, 5.0, 5.0, 5.0]
