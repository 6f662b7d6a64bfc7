"""The bench of tenants who mean harm measures what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.tenants import measure
from tests.harness.tools import NginxBinary


@pytest.mark.slow
@pytest.mark.parametrize("harm", ["261 hosts with one hash", "1,100 idle admin connections"])
async def test_newcomers_are_served_before_and_after(tmp_path: Path, any_nginx_binary: NginxBinary, harm: str) -> None:
    figures = await measure(harm, tmp_path, any_nginx_binary, turns=1)
    assert len(figures.before) == len(figures.beset) == 1
    assert figures.master < 100_000_000
    assert figures.log < 1_000_000
    assert str(figures).startswith(harm)
