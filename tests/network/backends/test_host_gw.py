"""Plain routes, planned."""

from __future__ import annotations

from proxygen.network.backends.host_gw import plan_routes
from proxygen.network.kernel.state import Route
from tests.network.backends.fabrics import UNDERLAY, fabric, member


def test_each_member_is_the_gateway_to_its_subnet() -> None:
    """Whether its agent answers to Consul or not."""
    near, silent = member(2, data={}), member(3, data={}, lives=False)
    wanted, problems = plan_routes(fabric(near, silent, kind="host-gw"), UNDERLAY)
    assert not problems
    assert wanted == {
        Route(destination=near.subnet, link=2, gateway=near.public_ip): near,
        Route(destination=silent.subnet, link=2, gateway=silent.public_ip): silent,
    }


def test_a_member_behind_a_router_is_a_problem_and_not_a_broken_route() -> None:
    """It is named, with what would work; the others have their routes."""
    far = member(2, ip="198.51.100.2")
    wanted, problems = plan_routes(fabric(far, member(3), kind="host-gw"), UNDERLAY)
    assert [str(entry) for entry in wanted] == ["route 10.99.3.0/24 via 192.0.2.3"]
    (problem,) = problems
    assert "10.99.2.0/24 of host 000000000000 (host2)" in problem
    assert "198.51.100.2 is not on eth0's network 192.0.2.0/24" in problem
    assert "vxlan" in problem
