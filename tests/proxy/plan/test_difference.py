"""What is different between two plans, in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxygen.catalog import Health, Instance, ServiceName
from proxygen.proxy.plan import plan_routes
from proxygen.proxy.plan.difference import MOST_NAMED, difference
from proxygen.proxy.plan.types import Plan, Policy, Service
from tests.proxy.plan.catalogs import catalog, instance, plan

WEB = instance("web", 1, "route=web.example.com")
CANARY = instance("web", 2, "route=web.example.com", "canary=10%")


def services(planned: Plan) -> Mapping[ServiceName, Service]:
    return {service.name: service for service in planned.services}


def said(before: Plan, after: Plan) -> str:
    return difference(services(before), services(after))


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        ((), (WEB,), "web: new"),
        ((WEB,), (), "web: gone"),
        ((WEB,), (WEB, instance("web", 3, "route=web.example.com")), "web: 1 instance more"),
        ((WEB, instance("web", 3)), (WEB,), "web: 1 instance fewer"),
        ((WEB,), (instance("web", 9, "route=web.example.com"),), "web: 1 instance more, 1 instance fewer"),
        ((WEB, CANARY), (WEB, instance("web", 2, "route=web.example.com", "canary=25%")), "web: canary 10% -> 25%"),
        ((WEB,), (instance("web", 1, "route=other.example.com"),), "web: other routes"),
        ((WEB,), (instance("web", 1, "route=web.example.com", "weight=3"),), "web: 1 instance changed"),
        ((WEB,), (instance("web", 1, "route=web.example.com", "timeout=3s"),), "web: other options"),
        ((WEB,), (instance("web", 1, "route=web.example.com", "weight=x"),), "web: quarantined, 1 instance fewer"),
        (
            (WEB,),
            (instance("web", 1, "route=web.example.com", health=Health.CRITICAL),),
            "web: nobody left to serve it, 1 instance now unhealthy",
        ),
    ],
)
def test_each_kind_of_change_has_its_words(
    before: tuple[Instance, ...], after: tuple[Instance, ...], text: str
) -> None:
    assert said(plan(*before), plan(*after)) == text


def test_of_many_services_the_first_are_named() -> None:
    many = [instance(f"s{number}", number + 1, f"route=s{number}.example.com") for number in range(9)]
    assert said(plan(), plan(*many)).endswith(f"; {9 - MOST_NAMED} more services")


_instances = st.builds(
    lambda service, number, tag, health: instance(service, number, f"route={service}.example.com", *tag, health=health),
    st.sampled_from(["web", "shop"]),
    st.integers(1, 4),
    st.sampled_from([(), ("canary=10%",), ("canary=20%",), ("weight=2",), ("weight=x",), ("timeout=3s",)]),
    st.sampled_from(list(Health)),
)
_plans = st.lists(_instances, max_size=5, unique_by=lambda one: (one.service, one.id)).map(lambda found: plan(*found))


@given(_plans, _plans)
def test_nothing_is_said_where_and_only_where_nothing_differs(before: Plan, after: Plan) -> None:
    assert (said(before, after) == "") == (services(before) == services(after))


def _five(*changed: Instance) -> Plan:
    by_id = {number: instance("web", number, "route=web.example.com", "canary=7%") for number in range(1, 4)}
    by_id |= {number: instance("web", number, "route=web.example.com", "variant=b:5%") for number in (4, 5)}
    by_id |= {int(one.id.removeprefix("web-")): one for one in changed}
    return plan(*by_id.values())


def test_instances_are_counted_by_what_became_of_them() -> None:
    sick = [instance("web", number, "route=web.example.com", "canary=7%", health=Health.CRITICAL) for number in (1, 2)]
    drained = instance("web", 3, "route=web.example.com", "canary=7%", "weight=0")
    heavy = instance("web", 4, "route=web.example.com", "variant=b:5%", "weight=4")
    assert said(_five(), _five(*sick, drained, heavy)) == (
        "web: 1 instance now drained, 2 instances now unhealthy, 1 instance changed"
    )


def test_shares_are_told_by_variant_and_stables_not() -> None:
    before = plan(WEB, CANARY, instance("web", 3, "route=web.example.com", "variant=b:5%"))
    after = plan(
        WEB,
        instance("web", 2, "route=web.example.com", "canary=12.5%"),
        instance("web", 3, "route=web.example.com", "variant=b:4%"),
    )
    assert said(before, after) == "web: b 5% -> 4%, canary 10% -> 12.5%"
    assert "->" not in said(plan(WEB, CANARY), plan(WEB)), "a variant that went is an instance fewer"


def test_as_many_services_as_may_be_named_are() -> None:
    many = [instance(f"s{number}", number + 1, f"route=s{number}.example.com") for number in range(MOST_NAMED)]
    assert said(plan(), plan(*many)) == "; ".join(f"s{number}: new" for number in range(MOST_NAMED))


def test_a_new_service_in_quarantine_says_so() -> None:
    assert said(plan(), plan(instance("web", 1, "route=web.example.com", "weight=x"))) == "web: new, quarantined"
    good, bad = plan(WEB), plan(instance("web", 1, "route=web.example.com", "weight=x"))
    assert said(bad, good).startswith("web: served again")


def test_instances_of_other_datacenters_count_too_and_are_told_apart() -> None:
    def seen(*remote: Instance) -> Plan:
        here = instance("web", 1, "route=web.example.com", "failover=dc2")
        elsewhere = {"dc2": {WEB.service: tuple(replace(one, datacenter="dc2") for one in remote)}}
        return plan_routes(replace(catalog(here), elsewhere=elsewhere), Policy())

    one, two = instance("web", 1, address="10.9.0.1"), instance("web", 2)
    assert said(seen(one), seen(one, two)) == "web: 1 instance more"
    assert said(seen(one, two), seen(two)) == "web: 1 instance fewer"
