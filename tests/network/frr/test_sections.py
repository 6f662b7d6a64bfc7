"""Whose line it is: an operator's are never lost, ours are put where they belong."""

from __future__ import annotations

import pytest

from proxygen.network.frr.design import design_bgp, design_ospf
from proxygen.network.frr.render import render
from proxygen.network.frr.sections import conflicts, holds_ours, merge, missing, mute, says_the_same
from proxygen.network.frr.version import FrrVersion
from tests.network.frr.fabrics import members, seen_by, underlay

FOREIGN = """\
# written by hand
frr version 8.4.4
frr defaults datacenter
hostname gate
password secret
log syslog informational
no ipv6 forwarding
service integrated-vtysh-config
!
ip route 198.51.100.0/24 192.0.2.254
ip route 10.99.1.0/24 192.0.2.254 vrf blue
!
interface eth0
 description to the switch
 ip ospf cost 5
exit
!
router bgp 65000 vrf blue
 neighbor 203.0.113.1 remote-as external
 !
 address-family ipv4 unicast
  network 198.51.100.0/24
 exit-address-family
exit
!
ip prefix-list MINE seq 5 permit 198.51.100.0/24
!
route-map MINE permit 10
 match ip address prefix-list MINE
exit
!
line vty
!
"""

_EVERYBODY = members(4)
_FABRIC, _BELOW = seen_by(_EVERYBODY[2], _EVERYBODY), underlay(_EVERYBODY[2])
BGP = design_bgp(_FABRIC, _BELOW)[0]
OSPF = design_ospf(_FABRIC, _BELOW, FrrVersion(8, 4, 4))[0]
DESIGNS = pytest.mark.parametrize("design", [BGP, OSPF], ids=["bgp", "ospf"])


@DESIGNS
def test_all_of_an_operators_lines_stay(design: object) -> None:
    merged = merge(FOREIGN, render(design))  # type: ignore[arg-type]
    assert not missing(FOREIGN, merged)
    assert not missing(render(design), merged)  # type: ignore[arg-type]
    assert "# written by hand" in merged


@DESIGNS
def test_taking_ours_out_leaves_what_was_there(design: object) -> None:
    merged = merge(FOREIGN, render(design))  # type: ignore[arg-type]
    assert holds_ours(merged)
    bare = merge(merged, "")
    assert not holds_ours(bare)
    assert says_the_same(bare, FOREIGN)


@DESIGNS
def test_merging_twice_changes_nothing(design: object) -> None:
    ours = render(design)  # type: ignore[arg-type]
    once = merge(FOREIGN, ours)
    assert says_the_same(merge(once, ours), once)
    assert len(merge(merge(merge(once, ours), ours), ours)) <= len(merge(once, ours)) + 1


def test_a_muted_bgp_keeps_its_sessions_and_an_operators_announcements() -> None:
    whole = merge(FOREIGN, render(BGP))
    assert missing(whole, mute(whole)) == (f"address-family ipv4 unicast/network {BGP.says.own}",)


def test_one_backend_takes_the_others_place() -> None:
    assert says_the_same(merge(merge(FOREIGN, render(BGP)), render(OSPF)), merge(FOREIGN, render(OSPF)))
    assert says_the_same(merge(merge(FOREIGN, render(OSPF)), render(BGP)), merge(FOREIGN, render(BGP)))


def test_a_neighbour_that_left_is_gone_from_the_merged_text() -> None:
    gone = BGP.neighbours[-1]
    merged = merge(merge(FOREIGN, render(BGP)), render(BGP.without([gone])))
    assert f"neighbor {gone} " not in merged


def test_order_comments_and_spaces_are_no_difference() -> None:
    assert says_the_same("a b\n c\n d\nexit\n!\ne\n", "! a comment\ne\na   b\n  d\n  c\nend\n")
    assert not says_the_same("a b\n c\n", "a b\nc\n")


@pytest.mark.parametrize(
    "line", ["router bgp 65000\n neighbor 203.0.113.1 remote-as external\nexit\n", "router bgp 1\n"]
)
def test_a_bgp_of_somebody_else_is_in_our_way(line: str) -> None:
    assert conflicts(FOREIGN + line, BGP, "eth0") == (line.splitlines()[0],)
    assert conflicts(FOREIGN + line, OSPF, "eth0") == ()


@pytest.mark.parametrize(
    "line",
    ["router ospf\n network 192.0.2.0/24 area 0\nexit\n", "ip protocol ospf route-map MINE\n"],
)
def test_an_ospf_of_somebody_else_is_in_our_way(line: str) -> None:
    text = FOREIGN + line
    assert conflicts(text, OSPF, "eth0") == (line.splitlines()[0],)
    assert conflicts(text, BGP, "eth0") == ()


@pytest.mark.parametrize("line", ["ip ospf area 0.0.0.1", "ip ospf network broadcast", "ip ospf hello-interval 10"])
def test_an_ospf_link_of_somebody_else_is_in_our_way(line: str) -> None:
    """A cost or a key on the link is not: it stands beside ours."""
    text = FOREIGN.replace("ip ospf cost 5", line)
    assert conflicts(text, OSPF, "eth0") == (f"interface eth0 / {line}",)
    assert conflicts(text, OSPF, "eth1") == ()


def test_a_static_route_of_somebody_else_to_our_subnet_is_in_our_way() -> None:
    """One owner per prefix."""
    own = BGP.says.own
    assert conflicts(f"ip route {own} 192.0.2.254\n", BGP, "eth0") == (f"ip route {own} 192.0.2.254",)
    assert conflicts(merge("", render(BGP)), BGP, "eth0") == ()


@DESIGNS
def test_what_is_ours_is_never_in_our_own_way(design: object) -> None:
    text = merge(FOREIGN, render(design))  # type: ignore[arg-type]
    assert conflicts(text, design, "eth0") == ()  # type: ignore[arg-type]
