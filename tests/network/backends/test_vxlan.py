"""VXLAN, planned."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Any

import pytest

from proxygen.kit.errors import NetworkError
from proxygen.network.backends.vxlan import Device, plan_entries, refuse_strangers
from proxygen.network.config import Vxlan as VxlanConfig
from proxygen.network.kernel.state import GROUP, Forward, Link, Neighbour, Route, VxlanLink
from tests.network.backends.fabrics import UNDERLAY, fabric, member, vtep

VXLAN = VxlanLink(vni=1, port=8472, parent=2, local=IPv4Address("192.0.2.1"), learning=False, gbp=False)
DEVICE = Device(name="pxvx1", vxlan=VXLAN, mac=str(vtep(1)["VtepMAC"]), mtu=1450)


def link(name: str = "pxvx1", **options: Any) -> Link:
    given = {"index": 7, "mtu": 1450, "mac": DEVICE.mac, "is_up": True, "kind": "vxlan", "vxlan": VXLAN, **options}
    return Link(name=name, **given)


OURS = link(group=GROUP)


def test_a_member_has_three_entries() -> None:
    """The MAC behind its subnet's first address, the host behind the MAC, and the route through that address."""
    mac, gateway = str(vtep(2)["VtepMAC"]), IPv4Address("10.99.2.0")
    wanted, problems = plan_entries(fabric(member(2)), UNDERLAY, VxlanConfig(), OURS)
    assert not problems
    assert set(wanted) == {
        Neighbour(link=7, address=gateway, mac=mac),
        Forward(link=7, mac=mac, host=IPv4Address("192.0.2.2")),
        Route(destination=member(2).subnet, link=7, gateway=gateway, onlink=True),
    }


def test_direct_routing_spares_neighbours_the_overlay() -> None:
    """Hosts on the underlay's network get plain routes, and need say nothing of VXLAN; those behind a router do."""
    near, far = member(2, data={}), member(3, ip="198.51.100.3")
    wanted, problems = plan_entries(fabric(near, far), UNDERLAY, VxlanConfig(direct_routing=True), OURS)
    assert not problems
    assert [entry for entry, whose in wanted.items() if whose is near] == [
        Route(destination=near.subnet, link=2, gateway=near.public_ip)
    ]
    assert len([entry for entry, whose in wanted.items() if whose is far]) == 3


def test_a_hostile_member_costs_nobody_else_anything() -> None:
    """What it says of itself is a problem with its name; all others are reached."""
    hostile = [
        member(2, data={"VNI": 1, "VtepMAC": "ff:ff:ff:ff:ff:ff"}),
        member(3, data=vtep(5)),
        member(4, ip="224.0.0.1"),
    ]
    wanted, problems = plan_entries(fabric(*hostile, member(5), member(6)), UNDERLAY, VxlanConfig(), OURS)
    assert {whose.node for whose in wanted.values()} == {"host5", "host6"}
    assert sorted(problem.split("(")[1].split(")")[0] for problem in problems) == ["host2", "host3", "host4"]


def test_two_subnets_that_begin_alike_have_one_gateway() -> None:
    """Their gateways would be the same address on the same link; the second is told."""
    wide, narrow = member(2, subnet="10.99.8.0/22"), member(3, subnet="10.99.8.0/24")
    wanted, problems = plan_entries(fabric(wide, narrow), UNDERLAY, VxlanConfig(), OURS)
    assert {whose.node for whose in wanted.values()} == {"host2"}
    (problem,) = problems
    assert "begins where 10.99.8.0/22 does" in problem
    assert len({entry.key for entry in wanted}) == len(wanted)


@pytest.mark.parametrize(
    ("stranger", "said"),
    [
        (link(group=0), "pxvx1 exists and is not ours; remove it"),
        (link(kind="dummy", vxlan=None), "pxvx1 exists and is not ours"),
        (link("flannel.1"), "flannel.1 has VNI 1 on port 8472 already, such as flannel's"),
    ],
    ids=str,
)
def test_somebody_elses_link_is_refused_and_not_taken(stranger: Link, said: str) -> None:
    """With what to do about it."""
    with pytest.raises(NetworkError, match=said):
        refuse_strangers([stranger], DEVICE)


@pytest.mark.parametrize(
    "neighbour",
    [
        OURS,
        link("flannel.2", vxlan=VxlanLink(vni=2, port=8472, parent=2, local=None, learning=False, gbp=False)),
        link("other1", vxlan=VxlanLink(vni=1, port=4789, parent=2, local=None, learning=True, gbp=False)),
    ],
    ids=str,
)
def test_other_overlays_may_stay(neighbour: Link) -> None:
    """With another VNI or another port the kernel tells them apart."""
    refuse_strangers([neighbour], DEVICE)
