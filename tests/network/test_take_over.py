"""A host that another program still carries packets for may start, and no other that reaches parts of Network."""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest

from proxygen.network.agent.begin import networks_of_others
from proxygen.network.config import parse_config
from proxygen.network.kernel.netlink import Reached

BOOT, KERNEL, OSPF = 3, 2, 188
OWN = IPv4Network("10.5.52.0/24")
FLANNELS = (("10.5.52.0/32", KERNEL), ("10.5.52.0/24", KERNEL), ("10.5.9.0/24", BOOT), ("10.5.77.0/24", BOOT))


def others(*reached: tuple[str, int], backend: str = "vxlan", take_over: bool = False) -> list[str]:
    config = parse_config(f'{{"Network": "10.5.0.0/16", "Backend": {{"Type": "{backend}"}}}}')
    found = [Reached(network=IPv4Network(network), link="any", protocol=protocol) for network, protocol in reached]
    return [str(network) for network in networks_of_others(found, config, [OWN], take_over=take_over)]


def test_routes_of_another_program_are_in_the_way_unless_it_is_to_be_followed() -> None:
    assert others(*FLANNELS) == ["10.5.9.0/24", "10.5.77.0/24"]
    assert others(*FLANNELS, take_over=True) == []


def test_where_somebody_else_carries_its_routes_are_as_they_should_be() -> None:
    assert others(*FLANNELS, backend="alloc") == []


@pytest.mark.parametrize("network", ["10.0.0.0/8", "10.5.0.0/16", "10.5.9.0/25", "10.5.0.0/24"])
def test_what_is_no_hosts_subnet_is_in_the_way_all_the_same(network: str) -> None:
    """A network around Network or a part of a subnet is no route of flannel's, nor is the first, which nobody gets."""
    assert others((network, OSPF), take_over=True) == [network]
