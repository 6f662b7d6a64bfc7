"""The bench of pushes measures what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.pushing import cost, interval, pushed_under_load
from tests.harness.tools import NginxBinary, find_lua_nginx, missing


@pytest.fixture
def lua_nginx() -> NginxBinary:
    binary = find_lua_nginx()
    if binary is None:
        missing("nginx with libnginx-mod-http-lua")
    return binary


def test_both_balance_the_same_and_the_loss_has_an_interval(lua_nginx: NginxBinary, tmp_path: Path) -> None:
    found = cost(lua_nginx, tmp_path, pairs=1)
    assert found.requests > 0
    assert found.loss.least <= found.loss.middle <= found.loss.most < 1
    assert found.cpu.middle > -1


async def test_pushes_cost_no_request_no_stream_and_no_worker(lua_nginx: NginxBinary, tmp_path: Path) -> None:
    found = await pushed_under_load(lua_nginx, tmp_path, pushes=12)
    assert found.pushes == 12
    assert found.requests > 0
    assert (found.failed, found.sockets_cut, found.streams_cut) == (0, 0, 0)
    assert (found.reloads, found.new_workers) == (0, 0)


@pytest.mark.bench
def test_lua_costs_at_most_a_tenth_of_the_throughput(lua_nginx: NginxBinary, tmp_path: Path) -> None:
    assert cost(lua_nginx, tmp_path, pairs=30).loss.most < 0.1


def test_an_interval_holds_the_median_and_not_the_stray_value() -> None:
    found = interval([0.1] * 20 + [5.0])
    assert (found.least, found.middle, found.most) == (0.1, 0.1, 0.1)
