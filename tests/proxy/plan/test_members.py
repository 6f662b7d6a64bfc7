"""One instance at a time: whether it is believed, where it is reached, what it weighs, and what is told of it."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest

from proxygen.catalog import Health
from proxygen.proxy.plan.members import JudgedInstance, addresses, asks, judge, report
from proxygen.proxy.plan.types import Endpoint, PlannedInstance, PlannedState, Policy
from tests.proxy.plan.catalogs import instance


def member(number: int = 1, *tags: str, policy: Policy | None = None, **fields: Any) -> JudgedInstance:
    [found], problems = judge([instance("web", number, *tags, **fields)], policy or Policy())
    assert problems == []
    return found


def reason(policy: Policy | None = None, **fields: Any) -> str:
    found, [problem] = judge([instance("web", 1, **fields)], policy or Policy())
    assert found == []
    return str(problem)


def test_an_instance_is_told_with_its_own_values_each_in_its_place() -> None:
    told = report(
        member(
            7,
            "canary=10%",
            "weight=31",
            id="the-id",
            node="the-node",
            datacenter="dc9",
            port=8123,
            health=Health.WARNING,
            weight_passing=5,
            weight_warning=6,
            unchecked=True,
            speaks=False,
        )
    )
    assert told == PlannedInstance(
        node="the-node",
        id="the-id",
        datacenter="dc9",
        address="10.0.0.7",
        port=8123,
        variant="canary",
        weight=31,
        health=Health.WARNING,
        state=PlannedState.SERVING,
        unchecked=True,
    )


@pytest.mark.parametrize(
    ("health", "tags", "weight"),
    [
        (Health.PASSING, (), 5),
        (Health.WARNING, (), 2),
        (Health.PASSING, ("weight=7",), 7),
        (Health.WARNING, ("weight=7",), 7),
        (Health.WARNING, ("weight=0",), 0),
        (Health.MAINTENANCE, ("weight=7",), 0),
    ],
)
def test_a_weight_in_the_tags_wins_over_consuls_for_each_health_that_serves(
    health: Health, tags: tuple[str, ...], weight: int
) -> None:
    assert member(1, *tags, health=health, weight_passing=5, weight_warning=2).weight == weight


@pytest.mark.parametrize(("passing", "warning"), [(-1, 4), (4, -1)])
def test_a_negative_weight_of_consuls_is_none(passing: int, warning: int) -> None:
    weights = {
        health: member(health=health, weight_passing=passing, weight_warning=warning).weight
        for health in (Health.PASSING, Health.WARNING)
    }
    assert weights == {Health.PASSING: max(0, passing), Health.WARNING: max(0, warning)}


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({"health": Health.CRITICAL, "port": 0}, PlannedState.UNHEALTHY),
        ({"health": Health.MAINTENANCE}, PlannedState.UNHEALTHY),
        ({"port": 0, "weight_passing": 0}, PlannedState.NO_PORT),
        ({"weight_passing": 0}, PlannedState.DRAINED),
        ({"health": Health.WARNING, "weight_warning": 0}, PlannedState.DRAINED),
        ({"health": Health.WARNING, "weight_passing": 0}, PlannedState.SERVING),
    ],
)
def test_of_several_reasons_for_no_requests_the_first_is_told(fields: dict[str, Any], state: PlannedState) -> None:
    assert report(member(**fields)).state is state


@pytest.mark.parametrize("order", [(3, 8, 5), (8, 5, 3), (5, 3, 8)])
def test_an_address_that_is_registered_with_several_weights_is_one_server_with_the_largest(
    order: tuple[int, ...],
) -> None:
    members = [member(number, address="10.0.0.9", weight_passing=weight) for number, weight in enumerate(order, 1)]
    assert addresses(members) == {Endpoint("10.0.0.9", 8080): 8}


def test_ports_of_one_address_are_servers_of_their_own_and_what_serves_nothing_is_none() -> None:
    members = [
        member(1, address="10.0.0.9", port=81, weight_passing=3),
        member(2, address="10.0.0.9", port=82, weight_passing=4),
        member(3, address="10.0.0.9", port=83, weight_passing=0),
        member(4, address="10.0.0.9", port=0),
    ]
    assert addresses(members) == {Endpoint("10.0.0.9", 81): 3, Endpoint("10.0.0.9", 82): 4}


@pytest.mark.parametrize(("port", "endpoint"), [(0, None), (1, "10.0.0.1:1"), (65535, "10.0.0.1:65535")])
def test_a_port_is_from_1_to_65535_and_0_is_none(port: int, endpoint: str | None) -> None:
    found = member(port=port).endpoint
    assert endpoint == (None if found is None else str(found))


@pytest.mark.parametrize("port", [-1, 65536])
def test_another_port_is_refused(port: int) -> None:
    assert reason(port=port) == f"instance 'web-1' on 'node-1': port: {port} is not from 1 to 65535"


@pytest.mark.parametrize(
    ("address", "written"),
    [
        ("192.0.2.1", "192.0.2.1:8080"),
        ("2001:db8::1", "[2001:db8::1]:8080"),
        ("2001:DB8:0::1", "[2001:db8::1]:8080"),
        ("::ffff:192.0.2.1", "192.0.2.1:8080"),
    ],
)
def test_an_address_is_written_as_nginx_reads_it(address: str, written: str) -> None:
    assert str(member(address=address).endpoint) == written


@pytest.mark.parametrize(
    ("address", "is_in"),
    [
        ("10.1.2.3", True),
        ("172.16.0.1", True),
        ("192.0.2.1", False),
        ("10.9.0.1", False),
        ("2001:db8::1", True),
        ("2001:db8:dead::1", False),
        ("2001:db9::1", False),
    ],
)
def test_an_instance_lives_in_one_of_the_allowed_networks_and_in_none_that_is_denied(
    address: str, *, is_in: bool
) -> None:
    policy = Policy(
        allowed=tuple(map(ip_network, ("10.0.0.0/8", "172.16.0.0/12", "2001:db8::/32"))),
        denied=tuple(map(ip_network, ("198.51.100.0/24", "10.9.0.0/16", "2001:db8:dead::/48"))),
    )
    if is_in:
        assert member(address=address, policy=policy).endpoint is not None
    else:
        assert "proxy.allowed_addresses" in reason(policy, address=address)


def test_an_address_that_is_none_is_told_with_what_to_do() -> None:
    assert "'localhost' is not an IP address; register one" in reason(address="localhost")
    assert "has a zone" in reason(address="fe80::1%eth0")


def test_what_was_read_for_one_instance_is_not_taken_for_one_that_says_something_else() -> None:
    """Tags alike and Meta not, and the other way round."""
    ones = [
        instance("web", 1, "route=web.example.com", meta=(("proxygen-weight", "3"),)),
        instance("web", 2, "route=web.example.com", meta=(("proxygen-weight", "4"),)),
        instance("web", 3, "route=web.example.com", "weight=5", meta=(("proxygen-weight", "4"),)),
        instance("web", 4, "route=web.example.com", meta=(("proxygen-weight", "3"),)),
    ]
    assert [each.weight for each in judge(ones, Policy())[0]] == [3, 4, 5, 3]


def test_one_that_cannot_be_believed_leaves_the_others_and_each_is_told() -> None:
    ones = [
        instance("web", 1, "weight=heavy"),
        instance("web", 2),
        instance("web", 3, port=-1),
        instance("web", 4, "weight=heavy"),
    ]
    found, problems = judge(ones, Policy())
    assert [each.instance.id for each in found] == ["web-2"]
    assert [problem.place for problem in problems] == [
        "instance 'web-1' on 'node-1': proxygen.weight",
        "instance 'web-3' on 'node-3': port",
        "instance 'web-4' on 'node-4': proxygen.weight",
    ]


@pytest.mark.parametrize(
    ("tags", "meta", "is_asking"),
    [
        (("other.route=x",), (), False),
        (("mine.route=x",), (), True),
        ((), (("mine-route", "x"),), True),
        ((), (("a", "b"), ("mine-x", "")), True),
        ((), (("mine.route", "x"), ("xmine-route", "x")), False),
    ],
)
def test_an_instance_asks_by_a_tag_or_by_meta(
    tags: tuple[str, ...], meta: tuple[tuple[str, str], ...], *, is_asking: bool
) -> None:
    one = instance("web", 1, meta=meta)
    one = type(one)(**{**{name: getattr(one, name) for name in one.__slots__}, "tags": tags})
    assert asks(one, "mine") is is_asking


@pytest.mark.parametrize("is_wildcard", [True, False])
def test_a_port_of_ours_is_closed_on_this_hosts_addresses_only(*, is_wildcard: bool) -> None:
    policy = Policy(own_ports=frozenset({80} if is_wildcard else ()))
    assert member(address="192.0.2.1", port=80, policy=policy).endpoint is not None
    if is_wildcard:
        assert "belongs to the proxy's own host" in reason(policy, address="127.0.0.1", port=80)
    else:
        assert member(address="127.0.0.1", port=80, policy=policy).endpoint is not None
