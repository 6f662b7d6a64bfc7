"""What is written to the firewall, worked out without one."""

from __future__ import annotations

from ipaddress import IPv4Network
from pathlib import Path

import pytest

from proxygen.network.firewall import FirewallNeeds, close_passage, open_passage, show_table

PASSAGE = FirewallNeeds(
    network=IPv4Network("10.99.0.0/16"), subnet=IPv4Network("10.99.3.0/24"), masquerade=True, forward=True
)


def test_the_source_of_what_crosses_hosts_is_kept_before_anything_is_masqueraded() -> None:
    lines = [line.strip() for line in show_table(PASSAGE).splitlines()]
    kept = lines.index("ip saddr 10.99.3.0/24 ip daddr 10.99.0.0/16 snat to ip saddr")
    masquerading = [number for number, line in enumerate(lines) if "masquerade" in line]
    assert len(masquerading) == 2
    assert all(kept < number for number in masquerading)


def test_without_masquerading_the_source_is_kept_all_the_same() -> None:
    """Docker masquerades then, and must not between hosts."""
    text = show_table(FirewallNeeds(network=PASSAGE.network, subnet=PASSAGE.subnet, masquerade=False, forward=True))
    assert "snat to ip saddr" in text
    assert "masquerade" not in text


def fake(directory: Path, name: str, script: str) -> None:
    (directory / name).write_text(f"#!/bin/sh\n{script}\n", encoding="ascii")
    (directory / name).chmod(0o755)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only programs there are."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))
    return directory


async def test_a_host_without_nft_is_told_what_it_lacks(tools: Path) -> None:
    (problem,) = await open_passage(PASSAGE)
    assert "nft is not installed" in problem
    assert await close_passage() == ()


async def test_each_part_that_fails_is_named_with_what_the_program_said(tools: Path) -> None:
    fake(tools, "nft", "echo 'Operation not permitted'; exit 1")
    fake(tools, "iptables", "exit 0")
    fake(tools, "iptables-restore", "echo 'Permission\n denied'; exit 4")
    assert await open_passage(PASSAGE) == (
        "nftables: Operation not permitted",
        "iptables, table filter: Permission denied",
        "iptables, table raw: Permission denied",
    )


async def test_a_kernel_without_the_table_raw_has_nothing_to_accept_there(tools: Path) -> None:
    fake(tools, "nft", "exit 0")
    fake(tools, "iptables", 'case "$*" in *raw*) echo "can\'t initialize iptables table"; exit 3;; esac')
    fake(tools, "iptables-restore", "exit 0")
    assert await open_passage(PASSAGE) == ()


async def test_a_table_filter_that_cannot_be_read_is_a_problem(tools: Path) -> None:
    fake(tools, "nft", "exit 0")
    fake(tools, "iptables", "exit 3")
    assert await open_passage(PASSAGE) == ("iptables: the table filter cannot be read",)
