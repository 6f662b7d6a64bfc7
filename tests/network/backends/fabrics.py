"""Hosts of a network, as backends are told of them."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from proxygen.network.backends.vetting import derive_mac
from proxygen.network.config import parse_config
from proxygen.network.fabric import Fabric, Member, Underlay

UNDERLAY = Underlay(link="eth0", index=2, address=IPv4Interface("192.0.2.1/24"), mtu=1500, mac="02:00:00:00:00:02")


def host_id(number: int) -> str:
    return f"{number:032x}"


def vtep(number: int, *, vni: int = 1) -> dict[str, object]:
    return {"VNI": vni, "VtepMAC": derive_mac(host_id(number), vni)}


def member(
    number: int,
    *,
    ip: str = "",
    data: Mapping[str, object] | None = None,
    kind: str = "vxlan",
    subnet: str = "",
    lives: bool = True,
) -> Member:
    """Make the host with this number: 10.99.N.0/24 on 192.0.2.N, with a sound VXLAN end."""
    return Member(
        host_id=host_id(number),
        node=f"host{number}",
        subnet=IPv4Network(subnet or f"10.99.{number}.0/24"),
        public_ip=IPv4Address(ip or f"192.0.2.{number}"),
        backend_type=kind,
        backend_data=vtep(number) if data is None else data,
        lives=lives,
    )


def fabric(*others: Member, kind: str = "vxlan") -> Fabric:
    """Make what host 1 sees."""
    config = parse_config(f'{{"Network": "10.99.0.0/16", "Backend": {{"Type": "{kind}"}}}}')
    ordered = tuple(sorted(others, key=lambda one: one.subnet))
    return Fabric(config=config, own=member(1, kind=kind), others=ordered)
