"""The bench of requests measures what it says."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.bench.passing import HOST, STATES, maps_asked, measure
from tests.harness.tools import NginxBinary, missing


@pytest.fixture(autouse=True)
def wrk() -> None:
    if shutil.which("wrk") is None:
        missing("wrk")


def test_both_pass_on_and_hold_the_same(any_nginx_binary: NginxBinary, tmp_path: Path) -> None:
    figures = measure(any_nginx_binary, tmp_path, pairs=1, connections=100)
    assert figures.throughput > 0
    assert all(size > 0 for pair in figures.kilobytes.values() for size in pair)
    assert all(state in str(figures) for state in STATES)


def test_a_host_without_a_port_is_compared_with_nothing(any_nginx_binary: NginxBinary, tmp_path: Path) -> None:
    """Who named a port is found by one expression over two hosts: such a request shall not pay for it."""
    asked = maps_asked(any_nginx_binary, tmp_path)
    assert f'"{HOST}" "{HOST}"' in asked
    assert not [line for line in asked if f"|{HOST}|" in line], asked


@pytest.mark.bench
def test_a_request_costs_little_more_than_a_bare_one(any_nginx_binary: NginxBinary, tmp_path: Path) -> None:
    figures = measure(any_nginx_binary, tmp_path, pairs=10, connections=2_000)
    assert figures.throughput > 0.7
    assert figures.memory["idle"] < 1.3
