"""Laws of failover: local first, then one datacenter after the other, and nothing from elsewhere harms what is here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest

from proxygen.catalog import Health, Instance, ServiceName
from proxygen.proxy.plan import Planner, plan_routes
from proxygen.proxy.plan.types import Memory, PlannedState, Policy, Service, ServiceState
from tests.proxy.plan.catalogs import addresses, catalog, instance, service, shares, upstream

WEB = ("route=web.example.com", "failover=dc2,dc3")
DOWN = Health.CRITICAL


def there(datacenter: str, *members: Instance) -> Mapping[str, Mapping[ServiceName, tuple[Instance, ...]]]:
    """The service web in another datacenter."""
    return {datacenter: {ServiceName("web"): tuple(replace(one, datacenter=datacenter) for one in members)}}


def web(*local: Instance, policy: Policy | None = None, **elsewhere: tuple[Instance, ...]) -> Service:
    """The service web planned from local instances and those of other datacenters."""
    others = {name: found for datacenter, some in elsewhere.items() for name, found in there(datacenter, *some).items()}
    return service(plan_routes(replace(catalog(*local), elsewhere=others), policy or Policy()), "web")


def remote(number: int, *tags: str, **fields: Any) -> Instance:
    return instance("web", number, *tags, **fields)


def states(planned: Service) -> dict[str, str]:
    return {one.address: one.state.value for one in planned.elsewhere}


def test_the_first_datacenter_that_can_serve_stands_behind_the_local_instances() -> None:
    planned = web(instance("web", 1, *WEB), dc3=(remote(3),), dc2=(remote(2),))
    assert addresses(upstream(planned, "stable")) == {"10.0.0.1"}
    assert addresses(upstream(planned, "stable"), backup=True) == {"10.0.0.2"}
    assert planned.before_backup == 1
    assert [(one.datacenter, one.state) for one in planned.elsewhere] == [("dc2", PlannedState.STANDBY)]


@pytest.mark.parametrize("first", [(), (remote(2, health=DOWN),), (remote(2, "weight=0"),), (remote(2, port=0),)])
def test_a_datacenter_where_nobody_can_serve_is_passed_over(first: tuple[Instance, ...]) -> None:
    planned = web(instance("web", 1, *WEB), dc2=first, dc3=(remote(3),))
    assert addresses(upstream(planned, "stable"), backup=True) == {"10.0.0.3"}


def test_where_nothing_local_serves_the_other_datacenters_are_the_servers() -> None:
    """nginx refuses an upstream of only backups."""
    planned = web(instance("web", 1, *WEB, health=DOWN), dc2=(remote(2), remote(3)))
    assert planned.state is ServiceState.SERVED
    assert addresses(upstream(planned, "stable")) == {"10.0.0.2", "10.0.0.3"}
    assert addresses(upstream(planned, "stable"), backup=True) == set()
    assert states(planned) == {"10.0.0.2": "serving", "10.0.0.3": "serving"}
    assert [one.state for one in planned.instances] == [PlannedState.UNHEALTHY]


def test_a_registration_without_a_port_keeps_the_route_and_the_failover() -> None:
    """For a service that has no instance of its own here."""
    planned = web(instance("web", 1, *WEB, port=0), dc2=(remote(2),))
    assert addresses(upstream(planned, "stable")) == {"10.0.0.2"}


def test_nobody_anywhere_is_nobody() -> None:
    planned = web(instance("web", 1, *WEB, health=DOWN), dc2=(remote(2, health=DOWN),))
    assert planned.state is ServiceState.NOBODY
    assert planned.upstreams == ()
    assert planned.elsewhere == ()


def test_without_the_tag_other_datacenters_are_nothing_to_a_service() -> None:
    here = instance("web", 1, WEB[0])
    assert web(here, dc2=(remote(2),)) == web(here)


@pytest.mark.parametrize("method", ["ip_hash", "random", "hash:$uri", "hash:header:X-User", "hash:cookie:sid"])
def test_a_method_that_knows_no_backup_gets_other_datacenters_when_nothing_local_is_left(method: str) -> None:
    tags = (*WEB, f"balance={method}")
    planned = web(instance("web", 1, *tags), dc2=(remote(2),))
    assert not any(server.backup for server in upstream(planned, "stable").servers)
    assert states(planned) == {"10.0.0.2": "standby"}
    planned = web(instance("web", 1, *tags, health=DOWN), dc2=(remote(2),))
    assert addresses(upstream(planned, "stable")) == {"10.0.0.2"}
    assert upstream(planned, "stable").balanced


def test_shares_are_decided_by_the_local_instances() -> None:
    here = [instance("web", 1, *WEB), instance("web", 2, *WEB, "canary=10%")]
    assert shares(web(*here, dc2=(remote(3),))) == shares(web(*here))
    canary = web(instance("web", 1, *WEB, health=DOWN), here[1], dc2=(remote(3),))
    assert shares(canary) == {"stable": 0, "canary": 10_000}, "as without the other datacenter"
    assert addresses(upstream(canary, "canary"), backup=True) == {"10.0.0.3"}


def test_a_canary_elsewhere_takes_no_part() -> None:
    planned = web(instance("web", 1, *WEB), dc2=(remote(2, "canary=50%"), remote(3, "variant=blue:5%"), remote(4)))
    assert shares(planned) == {"stable": 10_000}
    assert addresses(upstream(planned, "stable"), backup=True) == {"10.0.0.4"}
    assert states(planned) == {"10.0.0.4": "standby"}


def test_a_drained_canary_that_is_alone_here_leaves_the_requests_to_stable_elsewhere() -> None:
    planned = web(instance("web", 1, *WEB, "canary=0%"), dc2=(remote(2),))
    assert shares(planned) == {"stable": 10_000, "canary": 0}
    assert addresses(upstream(planned, "stable")) == {"10.0.0.2"}


def test_behind_a_canary_stand_local_and_other_stable_instances() -> None:
    planned = web(instance("web", 1, *WEB), instance("web", 2, *WEB, "canary=10%"), dc2=(remote(3),))
    assert addresses(upstream(planned, "canary"), backup=True) == {"10.0.0.1", "10.0.0.3"}


def test_weights_and_health_elsewhere_hold() -> None:
    some = (remote(2, weight_passing=6), remote(3, weight_warning=3, health=Health.WARNING), remote(4, health=DOWN))
    planned = web(instance("web", 1, *WEB), dc2=some)
    weights = {one.endpoint.address: one.weight for one in upstream(planned, "stable").servers if one.backup}
    assert weights == {"10.0.0.2": 2, "10.0.0.3": 1}
    assert states(planned)["10.0.0.4"] == "unhealthy"


@pytest.mark.parametrize("health", list(Health))
def test_an_address_that_is_registered_here_too_is_the_local_one(health: Health) -> None:
    """A local instance that is ill is not healed by a second registration of its address."""
    same = remote(9, address="10.0.0.1")
    planned = web(instance("web", 1, *WEB, health=health), dc2=(same, remote(2)))
    backups = addresses(upstream(planned, "stable"), backup=True) | addresses(upstream(planned, "stable"))
    assert states(planned).keys() == {"10.0.0.2"}
    assert ("10.0.0.1" in backups) is (health in (Health.PASSING, Health.WARNING))


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (remote(2, "weight=heavy"), "weight"),
        (remote(2, address="evil;}"), "address"),
        (remote(2, address="127.0.0.1", port=8500), "address"),
        (remote(2, address="192.0.2.1"), "outside the networks"),
        (remote(2, port=70_000), "port"),
    ],
)
def test_what_is_wrong_elsewhere_leaves_out_that_instance_alone(bad: Instance, said: str) -> None:
    policy = Policy(allowed=(ip_network("10.0.0.0/8"), ip_network("127.0.0.0/8")), own_ports=frozenset({8500}))
    planned = web(instance("web", 1, *WEB), policy=policy, dc2=(bad, remote(3)), dc3=())
    assert planned.quarantine is None
    assert addresses(upstream(planned, "stable"), backup=True) == {"10.0.0.3"}
    [warning] = planned.warnings
    assert "dc2" in warning
    assert said in warning


def test_what_is_not_known_or_makes_no_sense_is_told() -> None:
    planned = web(instance("web", 1, WEB[0], "failover=dc1,dc2,dc3"), dc3=())
    assert [("dc1" in each, "dc2" in each) for each in planned.warnings] == [(True, False), (False, True)]
    assert "local" in planned.warnings[0]
    assert "nothing is known" in planned.warnings[1]


def test_a_stream_fails_over_too() -> None:
    tags = ("protocol=tcp", "listen=5432", "failover=dc2")
    planned = web(instance("web", 1, *tags), dc2=(remote(2),))
    assert addresses(upstream(planned, "stable"), backup=True) == {"10.0.0.2"}


def test_a_change_elsewhere_is_planned_though_nothing_changed_here() -> None:
    here = catalog(instance("web", 1, *WEB))
    planner = Planner(Policy())
    for some in ((), (remote(2),), (remote(3),), ()):
        now = planner.plan(replace(here, elsewhere=there("dc2", *some)), Memory(), {})
        assert addresses(upstream(service(now, "web"), "stable"), backup=True) == {one.address for one in some}


def test_the_local_datacenter_and_one_that_is_unknown_are_passed_over_and_the_next_stands_behind() -> None:
    planned = web(instance("web", 1, WEB[0], "failover=dc1,dc9,dc2,dc3"), dc2=(remote(2),), dc3=(remote(3),))
    assert addresses(upstream(planned, "stable"), backup=True) == {"10.0.0.2"}
    assert states(planned) == {"10.0.0.2": "standby"}


def test_weights_count_elsewhere_too() -> None:
    planned = web(instance("web", 1, *WEB), dc2=(remote(2, "weight=3"), remote(3, "weight=5"), remote(4, "weight=0")))
    behind = {(one.endpoint.address, one.weight) for one in upstream(planned, "stable").servers if one.backup}
    assert behind == {("10.0.0.2", 3), ("10.0.0.3", 5)}
    assert states(planned) == {"10.0.0.2": "standby", "10.0.0.3": "standby", "10.0.0.4": "drained"}


def test_of_each_datacenter_the_first_problem_is_told_and_how_many_more() -> None:
    bad = [remote(number, "weight=heavy") for number in (5, 6, 7)]
    planned = web(instance("web", 1, *WEB), dc2=(*bad, remote(2)), dc3=(bad[0],))
    first, second = planned.warnings
    assert first.startswith("failover leaves out of dc2: instance 'web-5' on 'node-5'")
    assert first.endswith("(and 2 more)")
    assert second.startswith("failover leaves out of dc3:")
    assert "more)" not in second


def test_a_standby_stands_behind_stable_and_behind_what_stable_stands_behind() -> None:
    planned = web(instance("web", 1, *WEB), instance("web", 2, *WEB, "canary=5%"), dc2=(remote(3),))
    assert addresses(upstream(planned, "canary"), backup=True) == {"10.0.0.1", "10.0.0.3"}
    assert addresses(upstream(planned, "stable"), backup=True) == {"10.0.0.3"}
