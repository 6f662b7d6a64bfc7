"""What FRR's programs say, read: a program that says canned things stands for vtysh."""

from __future__ import annotations

import json
import shlex
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from proxygen.kit.errors import NetworkError
from proxygen.network.frr.daemons import Frr, FrrPlace

ONE, TWO = IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2")
OWN = IPv4Network("10.99.3.0/24")


def says(directory: Path, text: object, status: int = 0) -> Frr:
    """Return an FRR whose vtysh says one thing, whatever it is asked."""
    program = directory / "vtysh"
    said = text if isinstance(text, str) else json.dumps(text)
    program.write_text(f"#!/bin/sh\nprintf '%s' {shlex.quote(said)}\nexit {status}\n")
    program.chmod(0o755)
    return Frr(FrrPlace(vtysh=str(program), reload=program, directory=directory, state=directory / "state"))


@pytest.mark.parametrize(
    "said",
    [
        {"peers": {"192.0.2.1": {}, "192.0.2.2": {}}},
        {"ipv4Unicast": {"peers": {"192.0.2.1": {}, "192.0.2.2": {}}}},
    ],
)
async def test_bgps_neighbours_are_read_of_every_version(tmp_path: Path, said: object) -> None:
    assert await says(tmp_path, said).bgp_neighbours() == {ONE, TWO}


@pytest.mark.parametrize(
    "said",
    [
        {"192.0.2.1": [{"ifaceAddress": "192.0.2.1"}], "0.0.0.0": [{"ifaceAddress": "192.0.2.2"}]},
        {"neighbors": {"192.0.2.1": [{"ifaceAddress": "192.0.2.1"}], "192.0.2.2": [{"ifaceAddress": "192.0.2.2"}]}},
    ],
)
async def test_ospfs_neighbours_are_read_of_every_version(tmp_path: Path, said: object) -> None:
    assert await says(tmp_path, said).ospf_neighbours() == {ONE, TWO}


async def test_a_router_without_neighbours_says_so(tmp_path: Path) -> None:
    assert await says(tmp_path, {}).bgp_neighbours() == frozenset()
    assert await says(tmp_path, {}).ospf_neighbours() == frozenset()


@pytest.mark.parametrize(
    ("path", "announced"),
    [
        ({"sourced": True, "local": True, "valid": True}, True),
        ({"sourced": True, "local": True}, False),
        ({"valid": True, "peer": {"peerId": "192.0.2.2"}}, False),
    ],
)
async def test_only_a_prefix_of_our_own_making_counts_as_announced(
    tmp_path: Path, path: dict[str, object], announced: bool
) -> None:
    assert await says(tmp_path, {"paths": [path]}).announces_bgp(OWN) is announced


async def test_a_prefix_that_ospf_did_not_originate_is_not_announced(tmp_path: Path) -> None:
    assert not await says(tmp_path, {"routerId": "192.0.2.3"}).announces_ospf(OWN)
    assert await says(tmp_path, {"AS External Link States": {"10.99.3.0": {}}}).announces_ospf(OWN)


@pytest.mark.parametrize("said", ["", "% BGP instance not found", '{"peers": '])
async def test_an_answer_that_is_none_is_no_empty_list(tmp_path: Path, said: str) -> None:
    with pytest.raises(NetworkError, match="answers"):
        await says(tmp_path, said).bgp_neighbours()


async def test_daemons_that_do_not_answer_are_said(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="failed to connect to any daemons"):
        await says(tmp_path, "Exiting: failed to connect to any daemons.", status=1).running()


async def test_a_refusal_is_told_in_frrs_words_with_the_line(tmp_path: Path) -> None:
    said = (
        "% Can not configure the local system as neighbor\n"
        "line 2: Failure to communicate[13] to bgpd, line:  neighbor 192.0.2.1 peer-group PROXYGEN\n\n"
        "2026-01-01 \x1b[91mWARNING\x1b[0m: frr-reload.py failed due to\n"
    )
    with pytest.raises(NetworkError) as caught:
        await says(tmp_path, said, status=1).reload(tmp_path / "frr.conf")
    assert str(caught.value).endswith(
        ": % Can not configure the local system as neighbor (neighbor 192.0.2.1 peer-group PROXYGEN)"
    )


async def test_the_version_is_read(tmp_path: Path) -> None:
    assert str(await says(tmp_path, "FRRouting 10.2.1 (host) on Linux(6.1).\nCopyright").version()) == "10.2.1"
    with pytest.raises(NetworkError, match="version"):
        await says(tmp_path, "something else").version()


def test_what_is_missing_is_said_with_the_cure(tmp_path: Path) -> None:
    frr = says(tmp_path, "")
    frr.check_tools()
    (tmp_path / "vtysh.conf").write_text("hostname x\nno  service integrated-vtysh-config\n")
    with pytest.raises(NetworkError, match="integrated"):
        frr.check_tools()
    for place, cure in (
        (FrrPlace(vtysh=str(tmp_path / "none"), reload=tmp_path / "vtysh", directory=tmp_path), "Debian: frr"),
        (FrrPlace(vtysh=str(tmp_path / "vtysh"), reload=tmp_path / "none", directory=tmp_path), "frr-pythontools"),
    ):
        with pytest.raises(NetworkError, match=cure):
            Frr(place).check_tools()


def test_a_state_directory_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(NetworkError, match="state"):
        says(tmp_path, "").settle()
