"""The bench itself works: it measures what it says, on a few services and one change of each kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.contenders import PUSHED
from tests.bench.propagation import KINDS, compare, fleet_of, makers_for, rounds_of
from tests.bench.report import as_json, quantile, table
from tests.harness.tools import first_nginx


@pytest.mark.timeout(600)
async def test_every_kind_of_change_is_felt_and_told(tmp_path: Path) -> None:
    """Each contender that is here feels each change; proxygen stays below the aims for memory and sockets."""
    with fleet_of(len(KINDS), tmp_path) as fleet:
        makers = makers_for(fleet.consul, first_nginx())
        (tmp_path / "turns").mkdir()
        records = await compare(fleet, makers, tmp_path / "turns", turns=1, changes=1)
    assert next(iter(records)) == "proxygen"
    for record in records.values():
        assert record.changes == len(KINDS)
        assert all(0 < value < 10 for values in record.seconds.values() for value in values)
    taken = {name: record.reloads for name, record in records.items()}
    assert taken.pop(PUSHED, 0) == 0
    assert all(count >= len(KINDS) for count in taken.values()), taken
    own = records["proxygen"]
    assert own.peak < 120
    assert own.sockets <= 64
    assert any("registered" in line for line in table(len(KINDS), records))
    assert as_json(records)["proxygen"]["samples"]["registered"] == 1


def test_each_change_is_one_of_another_service_while_there_are_any() -> None:
    services = [f"s{number}" for number in range(20)]
    (few,) = rounds_of(services, 0, 2)
    assert [service for _, service in few] == services[:16]
    many = rounds_of(services, 16, 4)
    assert [len(samples) for samples in many] == [20, 12]
    for samples in many:
        assert len({service for _, service in samples}) == len(samples)


def test_a_quantile_is_a_value_that_was_seen() -> None:
    """Nearest rank: never between two values, never beyond the largest."""
    values = [5.0, 1.0, 3.0]
    assert [quantile(values, part) for part in (0.01, 0.5, 0.9, 0.99, 1)] == [1.0, 3.0, 5.0, 5.0, 5.0]
