"""What members say of themselves, some of them with ill intent."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxygen.network.backends.vetting import derive_mac, read_vtep, read_vteps
from proxygen.network.fabric import check_host
from tests.network.backends.fabrics import UNDERLAY, host_id, member, vtep

OWN_MAC = derive_mac(host_id(1), 1)


@given(st.text(max_size=64), st.integers(1, (1 << 24) - 1))
def test_a_derived_mac_is_one_hosts_own(identity: str, vni: int) -> None:
    """Never a group's, never one that a vendor gave out, always the same, and accepted by everybody."""
    mac = derive_mac(identity, vni)
    first = int(mac[:2], 16)
    assert first & 0x01 == 0
    assert first & 0x02
    assert derive_mac(identity, vni) == mac
    assert read_vtep({"VNI": vni, "VtepMAC": mac}, vni) == mac


def test_a_host_has_another_mac_in_another_network() -> None:
    """Two networks on one wire are not to be confused."""
    assert derive_mac(host_id(1), 1) != derive_mac(host_id(1), 2)
    assert derive_mac(host_id(1), 1) != derive_mac(host_id(2), 1)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({}, "VNI is 'None'"),
        ({"VNI": 2, "VtepMAC": "02:00:00:00:00:09"}, "VNI is '2', and the network's is 1"),
        ({"VNI": True, "VtepMAC": "02:00:00:00:00:09"}, "VNI is 'True'"),
        ({"VNI": 1, "VtepMAC": 5}, "is no MAC"),
        ({"VNI": "1", "VtepMAC": "02:00:00:00:00:09"}, "VNI is '1'"),
        ({"VNI": 1}, "VtepMAC 'None' is no MAC"),
        ({"VNI": 1, "VtepMAC": ""}, "is no MAC"),
        ({"VNI": 1, "VtepMAC": "02:00:00:00:00"}, "is no MAC"),
        ({"VNI": 1, "VtepMAC": "02:00:00:00:00:09\n"}, "is no MAC"),
        ({"VNI": 1, "VtepMAC": "02-00-00-00-00-09"}, "is no MAC"),
        ({"VNI": 1, "VtepMAC": ["02:00:00:00:00:09"]}, "is no MAC"),
        ({"VNI": 1, "VtepMAC": "x" * 5000}, "…"),
        ({"VNI": 1, "VtepMAC": "01:00:5e:00:00:01"}, "is that of a group"),
        ({"VNI": 1, "VtepMAC": "ff:ff:ff:ff:ff:ff"}, "is that of a group"),
        ({"VNI": 1, "VtepMAC": "00:00:00:00:00:00"}, "is nobody's"),
        ({"VNI": 1, "VtepMAC": OWN_MAC.upper()}, "is this host's"),
    ],
    ids=str,
)
def test_a_bad_end_is_a_problem_of_its_member_alone(data: dict[str, Any], said: str) -> None:
    """The text names the host and what it wrote, in one line of bearable length; the others are found."""
    found, problems = read_vteps([member(2, data=data), member(3)], vni=1, own_mac=OWN_MAC)
    assert found == {member(3).subnet: vtep(3)["VtepMAC"]}
    (problem,) = problems
    assert said in problem
    assert problem.startswith("10.99.2.0/24 of host 000000000000 (host2): ")
    assert "\n" not in problem
    assert len(problem) < 300


def test_who_takes_another_hosts_mac_does_not_get_its_packets() -> None:
    """The MAC is that of the host from whose id it is derived."""
    thief = member(2, data=vtep(3))
    found, problems = read_vteps([thief, member(3)], vni=1, own_mac=OWN_MAC)
    assert set(found) == {member(3).subnet}
    (problem,) = problems
    assert "(host2): its VtepMAC" in problem
    assert "also that of another host" in problem


def test_a_mac_that_nobody_can_prove_goes_to_nobody() -> None:
    """With two claims and no derivation there is no telling; the other hosts are not concerned."""
    data = {"VNI": 1, "VtepMAC": "02:00:00:00:00:99"}
    found, problems = read_vteps([member(2, data=data), member(3, data=data), member(4)], vni=1, own_mac=OWN_MAC)
    assert set(found) == {member(4).subnet}
    assert len(problems) == 2


def test_one_that_was_not_derived_is_good_enough_alone() -> None:
    """Such as one that an operator gave to the link."""
    data = {"VNI": 1, "VtepMAC": "02:00:00:00:00:99"}
    found, problems = read_vteps([member(2, data=data)], vni=1, own_mac=OWN_MAC)
    assert found == {member(2).subnet: "02:00:00:00:00:99"}
    assert not problems


@pytest.mark.parametrize(
    "address", ["0.0.0.0", "127.0.0.1", "224.0.0.5", "255.255.255.255", "240.0.0.1", "192.0.2.0", "192.0.2.255"]
)
def test_an_address_that_no_host_can_have_is_refused(address: str) -> None:
    """It would send the members' packets to everybody, to nobody, or to this host."""
    assert address in check_host(member(2, ip=address), UNDERLAY)


def test_this_hosts_own_address_is_refused() -> None:
    """Packets would come back."""
    assert "this host's" in check_host(member(2, ip="192.0.2.1"), UNDERLAY)


@pytest.mark.parametrize("address", ["192.0.2.2", "198.51.100.7", "10.0.0.1", "100.64.0.1"])
def test_other_addresses_are_a_hosts(address: str) -> None:
    """On the underlay's network or beyond."""
    assert check_host(member(2, ip=address), UNDERLAY) == ""
