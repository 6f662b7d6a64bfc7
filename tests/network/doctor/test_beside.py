"""What other programs have written is read as they themselves read it."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path

import pytest

from proxygen.network.doctor.arp import read_sender
from proxygen.network.doctor.beside import read_docker, read_module, read_networkd
from proxygen.network.doctor.facts import DockerFacts, NetworkdFacts
from proxygen.network.doctor.finding import Unknown


def networkd(directory: Path, **files: str) -> NetworkdFacts | Unknown:
    """Write files by their paths with ``__`` for slashes, and read them all."""
    runs = directory / "netif"
    runs.mkdir()
    for name, text in files.items():
        path = directory / f"{name.replace('__', '/')}.conf"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return read_networkd(runs=runs, folders=[directory / "etc", directory / "lib"])


def test_networkd_removes_foreign_routes_unless_told_otherwise(tmp_path: Path) -> None:
    assert networkd(tmp_path) == NetworkdFacts(foreign_routes=True, foreign_rules=True)


def test_networkds_drop_ins_win_over_its_file_and_over_one_another_by_name(tmp_path: Path) -> None:
    found = networkd(
        tmp_path,
        etc__networkd="[Network]\nManageForeignRoutes=yes\n",
        lib__networkd="[Network]\nManageForeignRoutingPolicyRules=no\n",
        **{
            "etc__networkd.conf.d__10-a": "# why\n[DHCPv4]\nDUIDType=link-layer\n[Network]\nManageForeignRoutes = no\n",
            "lib__networkd.conf.d__05-b": "[Network]\nManageForeignRoutes=yes\nManageForeignRoutingPolicyRules=0\n",
        },
    )
    assert found == NetworkdFacts(foreign_routes=False, foreign_rules=False)


def test_a_drop_in_of_etc_masks_its_namesake(tmp_path: Path) -> None:
    found = networkd(
        tmp_path,
        **{
            "etc__networkd.conf.d__a": "",
            "lib__networkd.conf.d__a": "[Network]\nManageForeignRoutes=no\n",
        },
    )
    assert found == NetworkdFacts(foreign_routes=True, foreign_rules=True)


def test_a_file_of_networkd_that_is_none_is_no_all_clear(tmp_path: Path) -> None:
    assert isinstance(networkd(tmp_path, etc__networkd="ManageForeignRoutes=no\n"), Unknown)


def test_networkd_that_does_not_run_is_not_judged(tmp_path: Path) -> None:
    assert isinstance(read_networkd(runs=tmp_path / "none", folders=[]), Unknown)


async def test_dockers_options_are_known_where_only_the_file_is(tmp_path: Path) -> None:
    file = tmp_path / "daemon.json"
    file.write_text('{"bip": "10.99.1.1/24"}')
    found = await read_docker(file)
    assert isinstance(found, DockerFacts)
    assert found.options == {"bip": "10.99.1.1/24"}


@pytest.mark.parametrize("text", ["{", "[]", "\xff"])
async def test_dockers_file_that_cannot_be_read_is_told_and_not_taken_for_an_empty_one(
    tmp_path: Path, text: str
) -> None:
    file = tmp_path / "daemon.json"
    file.write_bytes(text.encode("latin-1"))
    found = await read_docker(file)
    assert isinstance(found, Unknown)
    assert str(file) in found.reason


async def test_a_module_that_nobody_has_is_missing() -> None:
    assert not (await read_module("no_such_module", exists=False)).present
    assert (await read_module("no_such_module", exists=True)).present


def test_only_who_claims_the_address_is_taken_for_its_holder() -> None:
    address = IPv4Address("192.0.2.1")
    head = bytes.fromhex("ffffffffffff 525400000002 0806 0001 0800 06 04 0002".replace(" ", ""))
    mac = bytes.fromhex("525400000002")
    claim = head + mac + address.packed + bytes(6) + bytes(4)
    assert read_sender(claim, address) == "52:54:00:00:00:02"
    assert read_sender(claim + bytes(18), address) == "52:54:00:00:00:02"
    assert read_sender(claim, IPv4Address("192.0.2.7")) is None
    assert read_sender(claim[:30], address) is None
    question = head + mac + bytes(4) + bytes(6) + address.packed
    assert read_sender(question, address) is None
