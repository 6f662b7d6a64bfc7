"""What other programs have written is read as they themselves read it."""

from __future__ import annotations

import shutil
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from proxygen.network.doctor.arp import read_sender
from proxygen.network.doctor.beside import read_docker, read_firewall, read_manager, read_module, read_networkd
from proxygen.network.doctor.facts import DockerFacts, ManagerFacts, NetworkdFacts
from proxygen.network.doctor.finding import Unknown
from proxygen.network.doctor.packets import Ruleset


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


def a_program(directory: Path, name: str, says: str, status: int = 0) -> None:
    """Put a program on the test's own PATH that prints what the real one would."""
    script = directory / name
    script.write_text(f"#!/bin/sh\ncat <<'END'\n{says}\nEND\nexit {status}\n")
    script.chmod(0o755)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "bin"
    directory.mkdir()
    (directory / "cat").symlink_to(shutil.which("cat") or "/bin/cat")
    (directory / "sh").symlink_to("/bin/sh")
    monkeypatch.setenv("PATH", str(directory))
    return directory


async def test_nfts_listing_is_found_behind_its_warnings(programs: Path) -> None:
    chain = (
        '{"family": "ip", "table": "t", "name": "f", "type": "filter", "hook": "forward", "prio": 0, "policy": "drop"}'
    )
    a_program(programs, "nft", f'# Warning: a table is managed by iptables-nft\n{{"nftables": [{{"chain": {chain}}}]}}')
    found = await read_firewall()
    assert isinstance(found, Ruleset)
    assert [one.drops for one in found.chains] == [True]


async def test_without_nft_iptables_is_asked(programs: Path) -> None:
    a_program(programs, "iptables-save", "*filter\n:FORWARD DROP [0:0]\nCOMMIT")
    found = await read_firewall()
    assert isinstance(found, Ruleset)
    assert [one.name for one in found.chains] == ["FORWARD"]


async def test_what_iptables_can_tell_is_believed_before_what_nft_shows_of_it(programs: Path) -> None:
    chain = '{"family": "ip", "table": "filter", "name": "FORWARD", "type": "filter", "hook": "forward", "prio": 0}'
    foreign = chain.replace("filter", "other", 1)
    a_program(programs, "nft", f'{{"nftables": [{{"chain": {chain}}}, {{"chain": {foreign}}}]}}')
    a_program(
        programs, "iptables-save", "# Generated by iptables-save v1.8.9 (nf_tables)\n*filter\n:FORWARD DROP [0:0]"
    )
    found = await read_firewall()
    assert isinstance(found, Ruleset)
    assert {one.table for one in found.chains} == {"ip other", "iptables filter"}


async def test_the_old_iptables_hides_no_table_of_nft(programs: Path) -> None:
    chain = '{"family": "ip", "table": "filter", "name": "FORWARD", "type": "filter", "hook": "forward", "prio": 0}'
    a_program(programs, "nft", f'{{"nftables": [{{"chain": {chain}}}]}}')
    a_program(programs, "iptables-save", "# Generated by iptables-save v1.8.9\n*filter\n:FORWARD ACCEPT [0:0]")
    found = await read_firewall()
    assert isinstance(found, Ruleset)
    assert [one.table for one in found.chains] == ["ip filter"]


@pytest.mark.parametrize("says", ["Operation not permitted", "{", '{"nftables": [{"chain": {}}]}'])
async def test_a_firewall_that_does_not_tell_its_rules_is_no_all_clear(programs: Path, says: str) -> None:
    a_program(programs, "nft", says, status=says.startswith("Op"))
    assert isinstance(await read_firewall(), Unknown)


async def test_network_managers_devices_are_read_with_colons_in_their_names(programs: Path) -> None:
    a_program(programs, "nmcli", "eth0:connected\nbr\\:1:connected (externally)\npxvx1:unmanaged")
    found = await read_manager()
    assert isinstance(found, ManagerFacts)
    assert found.states == {"eth0": "connected", "br:1": "connected (externally)", "pxvx1": "unmanaged"}


async def test_a_network_manager_that_is_not_there_or_does_not_run_is_not_judged(programs: Path) -> None:
    assert isinstance(await read_manager(), Unknown)
    a_program(programs, "nmcli", "Error: NetworkManager is not running.", status=8)
    assert isinstance(await read_manager(), Unknown)
