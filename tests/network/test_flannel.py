"""Network configurations as flannel's documentation and its source's tests have them: read as flannel reads them, or
refused for the reason that fits. A name says the page or the test; the options of a backend's page are set together."""

from __future__ import annotations

import json
from ipaddress import IPv4Network
from typing import Final

import pytest

from proxygen.kit.errors import NetworkConfigError
from proxygen.network.config import Alloc, AwsVpc, BackendConfig, HostGw, Vxlan, WireGuard, parse_config

NETWORK: Final = {"Network": "10.244.0.0/16"}

READ: Final[dict[str, tuple[str, BackendConfig]]] = {
    "kube-flannel.yml": (
        """{"Network": "10.244.0.0/16", "EnableNFTables": false, "Backend": {"Type": "vxlan"}}""",
        Vxlan(),
    ),
    "kube-flannel-mixed-win.yml": (
        """{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan", "VNI": 4096, "Port": 4789}}""",
        Vxlan(vni=4096, port=4789),
    ),
    "backends.md, VXLAN on Windows": (
        """{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan", "Name": "flannel", "MacPrefix": "0E-2A"}}""",
        Vxlan(),
    ),
    "backends.md, host-gw on Windows": (
        """{"Network": "10.244.0.0/16",
        "Backend": {"Type": "host-gw", "Name": "cbr0", "DNSServerList": ["10.0.0.10"]}}""",
        HostGw(),
    ),
    "backends.md, VXLAN": (
        """{"Network": "10.5.0.0/16",
        "Backend": {"Type": "VXLAN", "VNI": 2, "GBP": true, "DirectRouting": true, "MTU": 1400}}""",
        Vxlan(vni=2, gbp=True, direct_routing=True, mtu=1400),
    ),
    "backends.md, WireGuard": (
        """{"Network": "10.50.0.0/16", "Backend": {"Type": "wireguard", "PSK": "abc", "ListenPort": 51830,
        "ListenPortV6": 51831, "Mode": "separate", "PersistentKeepaliveInterval": 25, "MTU": 1380}}""",
        WireGuard(psk="abc", listen_port=51830, keepalive=25, mtu=1380),
    ),
    "WireGuard, Mode auto": (
        """{"Network": "10.50.0.0/16", "Backend": {"Type": "WireGuard", "Mode": "auto"}}""",
        WireGuard(mode="auto"),
    ),
    "WireGuard, Mode ipv4": (
        """{"Network": "10.50.0.0/16", "Backend": {"Type": "wireguard", "Mode": "ipv4"}}""",
        WireGuard(mode="ipv4"),
    ),
    "aws-vpc-backend.md": (
        """{"Network": "10.20.0.0/16", "Backend": {"Type": "aws-vpc"}}""",
        AwsVpc(),
    ),
    "aws-vpc-backend.md, with a table": (
        """{"Network": "10.20.0.0/16", "Backend": {"Type": "aws-vpc", "RouteTableID": "rtb-abc00001"}}""",
        AwsVpc(route_table_ids="rtb-abc00001"),
    ),
    "aws-vpc-backend.md, with two": (
        """{"Network": "10.20.0.0/16",
        "Backend": {"Type": "aws-vpc", "RouteTableID": ["rtb-abc00001", "rtb-abc00002"]}}""",
        AwsVpc(route_table_ids=("rtb-abc00001", "rtb-abc00002")),
    ),
    "backends.md, alloc": (
        """{"Network": "172.16.0.0/12", "SubnetMin": "172.16.90.0", "SubnetMax": "172.16.100.0",
        "Backend": {"Type": "alloc"}}""",
        Alloc(),
    ),
    "running.md": (
        """{"Network": "10.0.0.0/8", "SubnetLen": 20, "SubnetMin": "10.10.0.0", "SubnetMax": "10.99.0.0",
        "Backend": {"Type": "host-gw"}}""",
        HostGw(),
    ),
    "k3s, no IPv6": (
        """{"Network": "10.42.0.0/16", "EnableIPv6": false, "EnableIPv4": true, "IPv6Network": "::/0",
        "Backend": {"Type": "host-gw"}}""",
        HostGw(),
    ),
    "config_test.go, defaults": ("""{"network": "10.3.0.0/16"}""", Vxlan()),
    "config_test.go, overrides": (
        """{"Network": "10.3.0.0/16", "SubnetMin": "10.3.5.0", "SubnetMax": "10.3.8.0", "SubnetLen": 28}""",
        Vxlan(),
    ),
    "null is what is not written": (
        """{"Network": "10.3.0.0/16", "SubnetLen": null, "Backend": {"Type": null}}""",
        Vxlan(),
    ),
    "the last of two counts": (
        """{"Network": "10.9.0.0/16", "Backend": {"type": "alloc", "Type": "HOST-GW"}}""",
        HostGw(),
    ),
}

REFUSED: Final[dict[str, tuple[str, str]]] = {
    "configuration.md, udp": (
        """{"Network": "10.0.0.0/8", "SubnetLen": 20, "SubnetMin": "10.10.0.0", "SubnetMax": "10.99.0.0",
        "Backend": {"Type": "udp", "Port": 7890}}""",
        "Backend.Type: 'udp' is none of .* flannel's alone: .*; write vxlan",
    ),
    "backends.md, IPIP": (
        """{"Network": "10.10.0.0/16", "Backend": {"Type": "ipip", "DirectRouting": true}}""",
        "'ipip' is none of .* flannel's alone",
    ),
    "backends.md, IPsec": (
        """{"Network": "10.50.0.0/16", "Backend": {"Type": "ipsec", "PSK": "x", "UDPEncap": true}}""",
        "'ipsec' is none of .* flannel's alone: write wireguard",
    ),
    "extension.md": (
        """{"Network": "10.50.0.0/16", "Backend": {"Type": "extension", "PreStartupCommand": "export NAME=$(hostname)",
        "SubnetAddCommand": "read SUBNET"}}""",
        "'extension' is none of .* flannel's alone",
    ),
    "gce-backend.md": (
        """{"Network": "10.40.0.0/16",
        "Backend": {"Type": "gce"}}""",
        "'gce' is none of .* flannel's alone",
    ),
    "alicloud-vpc-backend.md": (
        """{"Network": "10.24.0.0/16", "Backend": {"Type": "ali-vpc", "AccessKeyID": "i", "AccessKeySecret": "s"}}""",
        "'ali-vpc' is none of .* flannel's alone",
    ),
    "tencentcloud-vpc-backend.md": (
        """{"Network": "10.24.0.0/16", "Backend": {"Type": "tencent-vpc"}}""",
        "'tencent-vpc' is none of .* flannel's alone",
    ),
    "configuration.md, dual stack": (
        """{"Network": "10.42.0.0/16", "EnableIPv6": true, "IPv6Network": "2001:cafe:42:0::/56",
        "Backend": {"Type": "vxlan"}}""",
        "EnableIPv6, EnableIPv4: leases are of IPv4 alone",
    ),
    "config_test.go, IPv6 alone": (
        """{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fc00::/48", "IPv6SubnetLen": 124,
        "IPv6SubnetMin": "fc00:0:0:1::", "IPv6SubnetMax": "fc00:0:0:f::"}""",
        "EnableIPv6, EnableIPv4: leases are of IPv4 alone",
    ),
}


@pytest.mark.incident("T72")
@pytest.mark.parametrize("name", READ)
def test_it_is_read_as_flannel_reads_it(name: str) -> None:
    text, backend = READ[name]
    assert parse_config(text).backend == backend


@pytest.mark.incident("T72")
@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_for_the_reason_that_fits(name: str) -> None:
    text, reason = REFUSED[name]
    with pytest.raises(NetworkConfigError, match=reason):
        parse_config(text)


def test_subnets_are_flannels() -> None:
    """As flannel's own tests expect them."""
    defaults = parse_config(READ["config_test.go, defaults"][0])
    assert (defaults.first, defaults.last) == (IPv4Network("10.3.1.0/24"), IPv4Network("10.3.255.0/24"))
    overrides = parse_config(READ["config_test.go, overrides"][0])
    assert (overrides.first, overrides.last) == (IPv4Network("10.3.5.0/28"), IPv4Network("10.3.8.0/28"))


@pytest.mark.parametrize("change", [str.lower, str.upper, str.swapcase])
def test_names_count_in_any_case(change: type[str]) -> None:
    """Go's JSON reads them so, and flannel its backends' names."""
    written = {"Network": "10.5.0.0/16", "SubnetLen": 25, "Backend": {"Type": "vxlan", "VNI": 7, "DirectRouting": True}}
    backend = {change(key): value for key, value in written["Backend"].items()}  # type: ignore[attr-defined]
    backend[change("Type")] = change("vxlan")
    folded = {change(key): value for key, value in written.items()} | {change("Backend"): backend}
    read = parse_config(json.dumps(folded))
    assert read == parse_config(json.dumps(written))
    assert read.subnet_len == 25
