"""Who speaks to whom: laws that hold on every host of any network."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given, settings

from proxygen.network.fabric import Member
from proxygen.network.frr.design import (
    CORE,
    BgpDesign,
    Group,
    OspfDesign,
    OspfNetwork,
    design_bgp,
    design_ospf,
)
from proxygen.network.frr.version import FrrVersion
from tests.harness.examples import examples
from tests.network.frr.fabrics import member, members, networks, seen_by, underlay

OLD, NEW = FrrVersion(8, 4, 4), FrrVersion(10, 1)
_WAITS = {Group.PASSIVE_PEER, Group.PASSIVE_CLIENT}
_CLIENTS = {Group.CLIENT, Group.PASSIVE_CLIENT}


def bgp(everybody: list[Member]) -> dict[IPv4Address, BgpDesign]:
    """Return each host's design by its address."""
    return {own.public_ip: design_bgp(seen_by(own, everybody), underlay(own))[0] for own in everybody}


def ospf(everybody: list[Member]) -> dict[IPv4Address, OspfDesign]:
    """The same, of hosts that run what their leases say, and a new FRR where these say nothing."""
    return {own.public_ip: design_ospf(seen_by(own, everybody), underlay(own), NEW)[0] for own in everybody}


def sessions(designs: dict[IPv4Address, BgpDesign]) -> dict[tuple[IPv4Address, IPv4Address], Group]:
    return {(own, peer.address): peer.group for own, design in designs.items() for peer in design.peers}


@settings(max_examples=examples(40), deadline=None)
@given(networks(kind="frr-bgp"))
def test_two_hosts_have_a_session_or_have_none_and_exactly_one_of_them_calls(everybody: list[Member]) -> None:
    pairs = sessions(bgp(everybody))
    for (one, other), group in pairs.items():
        assert (group in _WAITS) != (pairs[other, one] in _WAITS)


@settings(max_examples=examples(40), deadline=None)
@given(networks(kind="frr-bgp"))
def test_every_host_hears_of_every_other_directly_or_from_a_hub(everybody: list[Member]) -> None:
    """A host passes on what it heard of a session that is with a client, or to one (RFC 4456)."""
    designs = bgp(everybody)
    pairs = sessions(designs)
    hubs = [address for address, design in designs.items() if design.reflects]
    for one in designs:
        for other in designs:
            by_hub = (
                (hub, one) in pairs and (hub, other) in pairs and _CLIENTS & {pairs[hub, one], pairs[hub, other]}
                for hub in hubs
            )
            assert one == other or (one, other) in pairs or any(by_hub)


@settings(max_examples=examples(40), deadline=None)
@given(networks(kind="frr-ospf", most=30))
def test_every_router_is_adjacent_to_all_who_may_be_designated_and_they_to_it(everybody: list[Member]) -> None:
    """On a network without broadcast a router that a designated one does not know has no routes."""
    designs = ospf(everybody)
    network = {design.network for design in designs.values()}
    assert len(network) == 1, "hosts of two kinds of network do not understand each other"
    hubs = {address for address, design in designs.items() if design.priority}
    for own, design in designs.items():
        assert own not in design.neighbours
        for address in design.neighbours:
            assert own in designs[address].neighbours
        if network == {OspfNetwork.NON_BROADCAST}:
            assert hubs - {own} <= set(design.neighbours)
            assert all((router.address in hubs) == bool(router.priority) for router in design.routers)


@pytest.mark.parametrize("count", [2, 3, CORE - 1, CORE, CORE + 1, CORE + 20])
def test_a_newcomer_changes_nothing_between_the_others(count: int) -> None:
    """At the size where the mesh ends likewise: there is no mode that could flap."""
    everybody = members(count)
    newcomer = member(count + 1)
    before, after = sessions(bgp(everybody)), sessions(bgp([*everybody, newcomer]))
    assert {pair: group for pair, group in after.items() if newcomer.public_ip not in pair} == before


def test_beyond_the_core_a_host_has_sessions_with_the_hubs_alone() -> None:
    designs = bgp(members(200))
    hubs = {address for address, design in designs.items() if design.reflects}
    assert len(hubs) == 2
    sizes = [len(design.peers) for design in designs.values()]
    assert sizes[:CORE] == [199, 199, *[CORE - 1] * (CORE - 2)]
    assert sizes[CORE:] == [2] * 150
    assert set(designs[member(200).public_ip].neighbours) == hubs


def test_hubs_are_the_oldest_and_a_newcomer_with_a_lower_subnet_is_none() -> None:
    newcomer = replace(member(9), subnet=IPv4Network("10.96.1.0/24"), public_ip=IPv4Address("192.0.0.100"))
    everybody = [*(replace(one, subnet=one.subnet) for one in members(4)), newcomer]
    assert [str(address) for address, design in bgp(everybody).items() if design.reflects] == ["192.0.0.1", "192.0.0.2"]


def test_a_hub_out_of_sight_stays_one_and_another_helps_out() -> None:
    """It may be that only its Consul is down: nobody drops a session with it."""
    everybody = members(5)
    before = sessions(bgp(everybody))
    everybody[0] = replace(everybody[0], lives=False)
    designs = bgp(everybody)
    assert [address for address, design in designs.items() if design.reflects] == [
        one.public_ip for one in everybody[:3]
    ]
    assert sessions(designs).keys() == before.keys()
    changed = {pair for pair, group in sessions(designs).items() if group is not before[pair]}
    assert all(everybody[2].public_ip in pair for pair in changed)


@pytest.mark.parametrize("since", [None, True, -1, 1e300, "0", [0], {}, 1 << 70, float("nan")])
def test_a_lease_that_tells_no_age_is_the_youngest(since: object) -> None:
    everybody = [member(1, backend_data={"Since": since}), *members(4)[1:]]
    designs = bgp(everybody)
    assert not designs[everybody[0].public_ip].reflects


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("192.0.0.1", "this host's PublicIP"),
        ("192.0.0.2", "also that of"),
        ("0.0.0.0", "no host's"),
        ("127.0.0.1", "no host's"),
        ("224.0.0.5", "no host's"),
        ("255.255.255.255", "no host's"),
        ("192.0.15.255", "the network 192.0.0.0/20 itself"),
        ("198.51.100.7", "is not on eth0's network 192.0.0.0/20"),
    ],
)
def test_a_member_at_an_address_that_no_host_can_have_is_left_out_and_said(address: str, why: str) -> None:
    """It is that member's trouble; the others are reached."""
    everybody = members(3)
    fabric = seen_by(everybody[0], [*everybody, member(9, public_ip=IPv4Address(address))])
    for design, problems in (
        design_bgp(fabric, underlay(everybody[0])),
        design_ospf(fabric, underlay(everybody[0]), OLD),
    ):
        assert design.neighbours == (everybody[1].public_ip, everybody[2].public_ip)
        assert len(problems) == 1
        assert why in problems[0]
        assert problems[0].startswith("10.99.9.0/24 of host host0009 (node9): ")


def test_the_oldest_frr_of_the_network_decides_what_ospf_takes_the_ethernet_for() -> None:
    """A host with an old FRR could not speak to the others otherwise."""
    new = members(3, kind="frr-ospf", version="10.1")
    assert {design.network for design in ospf(new).values()} == {OspfNetwork.POINT_TO_MULTIPOINT}
    assert {design.network for design in ospf([*new, member(4, kind="frr-ospf")]).values()} == {
        OspfNetwork.NON_BROADCAST
    }


def test_what_is_believed_covers_leases_of_another_length_too() -> None:
    """SubnetLen can change while hosts keep what they have."""
    longer = member(2, subnet=IPv4Network("10.99.2.128/26"))
    says = design_bgp(seen_by(member(1), [longer]), underlay(member(1)))[0].says
    assert (says.shortest, says.longest) == (24, 26)


def test_a_design_without_a_neighbour_is_the_same_but_for_it() -> None:
    everybody = members(4)
    fabric, below = seen_by(everybody[0], everybody), underlay(everybody[0])
    gone = everybody[2].public_ip
    for design in (design_bgp(fabric, below)[0], design_ospf(fabric, below, OLD)[0]):
        less = design.without([gone])
        assert less.neighbours == tuple(address for address in design.neighbours if address != gone)
        assert less.says == design.says
