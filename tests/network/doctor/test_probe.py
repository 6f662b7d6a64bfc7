"""Probes ask for the address that is sure to be there: the same place in the other's subnet as in our own."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Interface, IPv4Network

import pytest

from proxygen.network.doctor.probe import find_source, find_target
from tests.network.doctor.well import FABRIC, KERNEL


def test_the_devices_address_is_asked_from_before_the_bridges() -> None:
    assert str(find_source(FABRIC, KERNEL)) == "10.99.1.0"
    bridge_alone = replace(KERNEL, addresses=(("docker0", IPv4Interface("10.99.1.1/24")),))
    assert str(find_source(FABRIC, bridge_alone)) == "10.99.1.1"
    assert find_source(FABRIC, replace(KERNEL, addresses=())) is None


@pytest.mark.parametrize(
    ("subnet", "place", "target"),
    [
        ("10.99.2.0/24", 0, "10.99.2.0"),
        ("10.99.2.0/24", 1, "10.99.2.1"),
        ("10.99.2.4/32", 1, "10.99.2.4"),
        ("10.99.2.0/30", 200, "10.99.2.3"),
    ],
)
def test_a_smaller_subnet_is_asked_at_its_end_at_most(subnet: str, place: int, target: str) -> None:
    assert str(find_target(IPv4Network(subnet), place)) == target
