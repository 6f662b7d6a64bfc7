from __future__ import annotations

import json
from ipaddress import IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxygen.kit.errors import NetworkConfigError
from proxygen.network.config import (
    Alloc,
    AwsVpc,
    FrrBgp,
    FrrOspf,
    HostGw,
    NetworkConfig,
    Vxlan,
    WireGuard,
    parse_config,
    refuse_overlaps,
)


def config(**keys: object) -> NetworkConfig:
    return parse_config(json.dumps({"Network": "10.5.0.0/16", **keys}))


def net(text: str) -> IPv4Network:
    return IPv4Network(text)


def test_defaults_are_flannels() -> None:
    """A /24 for each host, the first subnet skipped, VXLAN number 1 on the kernel's port."""
    assert config() == NetworkConfig(
        network=net("10.5.0.0/16"), subnet_len=24, first=net("10.5.1.0/24"), last=net("10.5.255.0/24"), backend=Vxlan()
    )
    assert (Vxlan().vni, Vxlan().port, Vxlan().direct_routing) == (1, 8472, False)


@pytest.mark.parametrize(
    ("network", "length"), [("10.0.0.0/8", 24), ("10.5.0.0/22", 24), ("10.5.0.0/23", 25), ("10.5.0.0/28", 30)]
)
def test_small_networks_are_cut_in_four(network: str, length: int) -> None:
    assert config(Network=network).subnet_len == length


def test_flannels_own_example_is_read() -> None:
    """The one of its documentation, that people have in production."""
    text = """{
        "Network": "10.0.0.0/8", "SubnetLen": 20, "SubnetMin": "10.10.0.0", "SubnetMax": "10.99.0.0",
        "Backend": {"Type": "vxlan", "VNI": 100, "Port": 8473, "DirectRouting": true}
    }"""
    read = parse_config(text)
    assert (read.first, read.last) == (net("10.10.0.0/20"), net("10.99.0.0/20"))
    assert read.backend == Vxlan(vni=100, port=8473, direct_routing=True)


def test_network_is_taken_at_its_prefix_as_flannel_takes_it() -> None:
    assert config(Network="10.5.3.7/16").network == net("10.5.0.0/16")


@pytest.mark.parametrize(
    ("backend", "typed"),
    [
        ({"Type": "alloc"}, Alloc()),
        ({"Type": "host-gw"}, HostGw()),
        ({}, Vxlan()),
        ({"Type": "wireguard", "PSK": "x", "ListenPort": 5000}, WireGuard(psk="x", listen_port=5000)),
        ({"Type": "aws-vpc", "RouteTableID": "rtb-1"}, AwsVpc(route_table_ids="rtb-1")),
        ({"Type": "aws-vpc", "RouteTableID": ["rtb-1", "rtb-2"]}, AwsVpc(route_table_ids=("rtb-1", "rtb-2"))),
        ({"Type": "frr-bgp"}, FrrBgp()),
        ({"Type": "frr-ospf"}, FrrOspf()),
    ],
)
def test_backends_are_typed(backend: dict[str, object], typed: object) -> None:
    assert config(Backend=backend).backend == typed


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"Network": ""}, "Network is missing"),
        ({"Network": "10.5.0.0"}, "no IPv4 network"),
        ({"Network": "fd00::/48"}, "no IPv4 network"),
        ({"Network": "10.5.0.0/29"}, "too small"),
        ({"Network": "0.0.0.0/0"}, "no container can have"),
        ({"Network": "127.0.0.0/8"}, "no container can have"),
        ({"Network": "239.0.0.0/16"}, "no container can have"),
        ({"SubnetLen": 31}, "at most 30"),
        ({"SubnetLen": 17}, "18 or more"),
        ({"SubnetLen": -1}, "18 or more"),
        ({"SubnetLen": "24"}, "SubnetLen"),
        ({"SubnetMin": "10.6.0.0"}, "SubnetMin 10.6.0.0 is not in Network"),
        ({"SubnetMax": "10.5.4.1"}, "SubnetMax 10.5.4.1 is not where a /24 begins"),
        ({"SubnetMin": "x"}, "SubnetMin: 'x' is no IPv4 address"),
        ({"SubnetMin": "10.5.9.0", "SubnetMax": "10.5.8.0"}, "lies before"),
        ({"SubnetLength": 24}, "SubnetLength"),
        ({"EnableIPv6": True}, "EnableIPv6"),
        ({"Backend": {"Type": "bridge"}}, "'bridge' is none of alloc, host-gw, vxlan"),
        ({"Backend": {"Type": "UDP"}}, "'UDP' is none of alloc, host-gw, vxlan.*flannel's alone: it copies"),
        (
            {"Backend": {"Type": "extension", "PostStartupCommand": "true"}},
            "flannel's alone: it runs",
        ),
        ({"Backend": {"Type": "wireguard", "Mode": "ipv6"}}, "Mode ipv6: hosts reach each other by IPv4"),
        ({"Backend": {"Type": "wireguard", "Mode": "both"}}, "Mode"),
        ({"Backend": {"Type": 7}}, "Backend.Type"),
        ({"Backend": {"VNI": 0}}, "VNI"),
        ({"Backend": {"Type": "host-gw", "VNI": 1}}, "VNI"),
        ({"Backend": []}, "Backend"),
    ],
)
def test_refusals_name_the_key_and_what_is_allowed(keys: dict[str, object], words: str) -> None:
    with pytest.raises(NetworkConfigError, match=words):
        config(**keys)


_DEEP = b'{"Network": "10.5.0.0/16", "Backend": {"VNI": ' + b"[" * 20_000 + b"]" * 20_000 + b"}}"


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b'{"Network": "\xff"}', b"7", _DEEP], ids=range(9)
)
def test_what_is_no_config_is_refused_in_one_way(text: bytes) -> None:
    with pytest.raises(NetworkConfigError):
        parse_config(text)


def test_overlap_with_the_hosts_own_networks_is_refused_by_name() -> None:
    with pytest.raises(NetworkConfigError, match=r"overlaps 10\.5\.7\.0/24"):
        refuse_overlaps(config(), [net("192.168.0.0/24"), net("10.5.7.0/24")])
    with pytest.raises(NetworkConfigError, match=r"overlaps 10\.5\.7\.0/24, 10\.5\.9\.1/32, which"):
        refuse_overlaps(config(), [net("10.5.7.0/24"), net("10.5.9.1/32")])


def test_default_route_overlaps_nothing() -> None:
    refuse_overlaps(config(), [net("0.0.0.0/0"), net("10.4.0.0/16"), net("10.6.0.1/32")])


@given(length=st.integers(18, 30), data=st.data())
def test_subnets_are_numbered_without_gap_or_overlap(length: int, data: st.DataObject) -> None:
    """A number and its subnet say the same, and a network spans exactly the subnets that it overlaps."""
    read = config(SubnetLen=length)
    number = data.draw(st.integers(0, read.subnets - 1))
    subnet = read.subnet(number)
    assert read.offers(subnet)
    assert read.span(subnet) == range(number, number + 1)
    assert read.subnet(read.subnets - 1) == read.last
    other = IPv4Network((data.draw(st.integers(0x0A04FF00, 0x0A0600FF)), data.draw(st.integers(16, 32))), strict=False)
    near = {number - 1, number, number + 1} & set(range(read.subnets))
    assert {one for one in near if read.subnet(one).overlaps(other)} == near & set(read.span(other))
