"""A report names every check, with what came of it, and never a finding without its cure."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from proxygen.network.doctor import CHECKS, describe
from proxygen.network.doctor.finding import Unknown
from proxygen.network.doctor.registry import judge
from tests.network.doctor.well import KERNEL, WELL

ILL = judge(
    replace(
        WELL,
        kernel=replace(KERNEL, forwards={"all": False}, rp_filter={"all": 1}),
        networkd=Unknown("systemd-networkd does not run on this host"),
    ),
    CHECKS,
)


def test_the_text_has_a_line_for_each_check() -> None:
    text = describe(ILL)
    assert [
        name for name in (check.name for check in CHECKS) if f" {name} " not in text and f" {name}\n" not in text
    ] == []


def test_the_text_says_what_is_wrong_how_bad_it_is_and_what_to_do() -> None:
    text = describe(ILL)
    assert "✗ forwarding\n    error: net.ipv4.ip_forward is 0" in text
    assert "    cure: sysctl -w net.ipv4.ip_forward=1\n" in text
    assert "! rp-filter\n    warning: " in text
    assert "systemd-networkd does not run on this host" in text
    assert text.endswith(f"1 error, 1 warning; {len(CHECKS) - 5} clean, 3 skipped")


def test_the_json_has_the_same() -> None:
    body = msgspec.json.decode(msgspec.json.encode(ILL))
    assert {one["check"]: one["outcome"] for one in body["examined"]}["forwarding"] == "found"
    assert body["findings"][0] == {
        "check": "forwarding",
        "severity": "error",
        "text": "net.ipv4.ip_forward is 0: packets between hosts and containers are dropped",
        "cure": "sysctl -w net.ipv4.ip_forward=1",
    }
