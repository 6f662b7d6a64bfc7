"""Which routes of a VPC's table are ours to change."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

from hypothesis import given
from hypothesis import strategies as st

from proxygen.network.backends.aws_routes import (
    Ec2Call,
    RouteStep,
    VpcRoute,
    VpcTable,
    plan_leaving,
    plan_table,
    read_table,
)
from proxygen.network.config import parse_config
from proxygen.network.fabric import Fabric, Member

CONFIG = parse_config('{"Network": "10.99.0.0/16", "Backend": {"Type": "aws-vpc"}}')
OWN = IPv4Network("10.99.2.0/24")
ENI = "eni-own"


def member(number: int, host_id: str, *, lives: bool = True) -> Member:
    return Member(
        host_id=host_id,
        node=f"node{number}",
        subnet=IPv4Network(f"10.99.{number}.0/24"),
        public_ip=IPv4Address(f"172.31.0.{number}"),
        backend_type="aws-vpc",
        lives=lives,
    )


def fabric(*others: Member, host_id: str = "b") -> Fabric:
    return Fabric(config=CONFIG, own=member(2, host_id), others=others)


def route(destination: str, interface: str = "", *, target: str = "", dead: bool = False) -> VpcRoute:
    return VpcRoute(destination=IPv4Network(destination), interface=interface, target=target or interface, dead=dead)


def table(*routes: VpcRoute) -> VpcTable:
    return VpcTable(id="rtb-1", routes=routes)


def step(verb: Ec2Call, destination: str) -> RouteStep:
    return RouteStep(verb=verb, table="rtb-1", destination=IPv4Network(destination))


def applied(before: VpcTable, steps: Iterable[RouteStep]) -> VpcTable:
    """What AWS makes of it, which refuses to create what is there and to replace or delete what is not."""
    routes = {one.destination: one for one in before.routes}
    for one in steps:
        assert (one.destination in routes) == (one.verb is not Ec2Call.CREATE)
        if one.verb is Ec2Call.DELETE:
            del routes[one.destination]
        else:
            routes[one.destination] = route(str(one.destination), ENI)
    return replace(before, routes=tuple(routes.values()))


def test_a_new_host_makes_its_route() -> None:
    assert plan_table(table(), fabric(), ENI, holds=True).steps == (step(Ec2Call.CREATE, "10.99.2.0/24"),)


def test_a_route_that_is_so_is_left_alone() -> None:
    """flannel deletes and creates it at each start, and loses packets meanwhile."""
    plan = plan_table(table(route("10.99.2.0/24", ENI)), fabric(), ENI, holds=True)
    assert (plan.steps, plan.problems) == ((), ())


def test_the_route_of_who_had_the_subnet_before_is_replaced_in_one_call() -> None:
    for dead in (True, False):
        before = table(route("10.99.2.0/24", "eni-gone", dead=dead))
        assert plan_table(before, fabric(), ENI, holds=True).steps == (step(Ec2Call.REPLACE, "10.99.2.0/24"),)


def test_a_host_whose_lease_is_not_confirmed_takes_no_route_from_another() -> None:
    """It was cut off from Consul for so long that somebody else may have the subnet by now."""
    for dead in (True, False):
        plan = plan_table(table(route("10.99.2.0/24", "eni-new", dead=dead)), fabric(), ENI, holds=False)
        assert plan.steps == ()
        assert plan.waits
        assert "leads to another host" in plan.problems[0]


def test_a_host_whose_lease_is_not_confirmed_keeps_its_route_and_mends_it() -> None:
    """Consul's absence must not cut containers off."""
    assert plan_table(table(route("10.99.2.0/24", ENI)), fabric(), ENI, holds=False).steps == ()
    assert plan_table(table(), fabric(), ENI, holds=False).steps == (step(Ec2Call.CREATE, "10.99.2.0/24"),)


def test_a_route_that_leads_to_no_host_is_an_operators_and_is_told() -> None:
    plan = plan_table(table(route("10.99.2.0/24", target="tgw-1")), fabric(), ENI, holds=True)
    assert plan.steps == ()
    assert "tgw-1" in plan.problems[0]


def test_a_subnet_that_the_host_gave_up_loses_its_route() -> None:
    before = table(route("10.99.2.0/24", ENI), route("10.99.9.0/24", ENI))
    assert plan_table(before, fabric(), ENI, holds=True).steps == (step(Ec2Call.DELETE, "10.99.9.0/24"),)


def test_routes_outside_of_network_and_to_all_of_it_are_never_touched() -> None:
    others = (route("10.98.1.0/24", ENI), route("10.99.0.0/16", ENI), route("0.0.0.0/0", "eni-nat", dead=True))
    before = table(route("10.99.2.0/24", ENI), *others)
    assert plan_table(before, fabric(), ENI, holds=True).steps == ()
    assert [one.destination for one in plan_leaving(before, CONFIG.network, ENI)] == [OWN]


def test_dead_routes_that_nobody_leases_are_removed_by_the_first_host_that_lives() -> None:
    before = table(route("10.99.2.0/24", ENI), route("10.99.7.0/24", "eni-gone", dead=True))
    first = fabric(member(3, "c"), member(4, "a", lives=False))
    second = fabric(member(3, "a"))
    assert plan_table(before, first, ENI, holds=True).steps == (step(Ec2Call.DELETE, "10.99.7.0/24"),)
    assert plan_table(before, second, ENI, holds=True).steps == ()
    assert plan_table(before, first, ENI, holds=False).steps == ()


def test_the_dead_route_of_a_host_that_may_come_back_stays() -> None:
    """A stopped instance has its lease until the grace is over."""
    before = table(route("10.99.2.0/24", ENI), route("10.99.7.0/24", "eni-7", dead=True))
    assert plan_table(before, fabric(member(7, "z", lives=False)), ENI, holds=True).steps == ()


def test_a_route_that_works_is_told_and_left_where_nobody_leases_it() -> None:
    """It may be that of another network whose operator chose an overlapping Network."""
    plan = plan_table(table(route("10.99.2.0/24", ENI), route("10.99.7.0/24", "eni-7")), fabric(), ENI, holds=True)
    assert plan.steps == ()
    assert "10.99.7.0/24 leads to eni-7" in plan.problems[0]


def test_members_without_a_route_that_works_are_told_in_one_line() -> None:
    others = [member(number, f"z{number}") for number in range(10, 20)]
    before = table(route("10.99.2.0/24", ENI), route("10.99.10.0/24", "eni-10", dead=True))
    (problem,) = plan_table(before, fabric(*others), ENI, holds=True).problems
    assert "node10, node11, node12, node13, node14 and 5 more" in problem


def test_only_routes_that_somebody_made_are_read() -> None:
    read = read_table(
        {
            "RouteTableId": "rtb-1",
            "Routes": [
                {"DestinationCidrBlock": "10.0.0.0/8", "GatewayId": "local", "Origin": "CreateRouteTable"},
                {"DestinationCidrBlock": "10.99.2.0/24", "GatewayId": "vgw-1", "Origin": "EnableVgwRoutePropagation"},
                {"DestinationIpv6CidrBlock": "::/0", "GatewayId": "igw-1", "Origin": "CreateRoute"},
                {"DestinationPrefixListId": "pl-1", "GatewayId": "vpce-1", "Origin": "CreateRoute"},
                {"DestinationCidrBlock": "0.0.0.0/0", "GatewayId": "igw-1", "Origin": "CreateRoute", "State": "active"},
                {
                    "DestinationCidrBlock": "10.99.3.0/24",
                    "NetworkInterfaceId": "eni-3",
                    "InstanceId": "i-3",
                    "Origin": "CreateRoute",
                    "State": "blackhole",
                },
            ],
        }
    )
    assert read.routes == (
        route("0.0.0.0/0", target="igw-1"),
        route("10.99.3.0/24", "eni-3", dead=True),
    )


destinations = st.one_of(
    st.integers(0, 9).map(lambda number: f"10.99.{number}.0/24"),
    st.sampled_from(["10.99.0.0/16", "10.98.2.0/24", "0.0.0.0/0", "10.99.2.0/25", "10.99.2.0/23"]),
)
routes = st.builds(
    route,
    destinations,
    st.sampled_from([ENI, "eni-3", "eni-4", ""]),
    target=st.just("somewhere"),
    dead=st.booleans(),
)
tables = st.lists(routes, unique_by=lambda one: one.destination, max_size=8).map(lambda found: table(*found))
fabrics = st.builds(
    lambda numbers, host_id, lives: fabric(
        *(member(number, f"h{number}", lives=lives) for number in sorted(numbers)), host_id=host_id
    ),
    st.sets(st.sampled_from([1, 3, 4, 5, 6]), max_size=4),
    st.sampled_from(["a", "z"]),
    st.booleans(),
)


@given(tables, fabrics)
def test_once_done_there_is_nothing_left_to_do(before: VpcTable, seen: Fabric) -> None:
    after = applied(before, plan_table(before, seen, ENI, holds=True).steps)
    assert plan_table(after, seen, ENI, holds=True).steps == ()
    own = [one for one in after.routes if one.destination == OWN]
    assert own
    assert own[0].interface == ENI or own[0].target == "somewhere"


@given(tables, fabrics, st.booleans())
def test_no_route_of_anybody_else_that_works_is_ever_changed(before: VpcTable, seen: Fabric, holds: bool) -> None:
    for steps in (plan_table(before, seen, ENI, holds=holds).steps, plan_leaving(before, CONFIG.network, ENI)):
        after = applied(before, steps)
        for one in before.routes:
            is_foreign = one.destination != OWN and one.interface != ENI
            leased = any(one.destination.overlaps(other.subnet) for other in (seen.own, *seen.others))
            outside = one.destination == CONFIG.network or not one.destination.subnet_of(CONFIG.network)
            if outside or (is_foreign and (leased or not one.dead or not one.interface)):
                assert one in after.routes
