"""While a plan waits: what nginx serves comes first, what is asked for stands beside it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxygen.catalog import Health, Instance
from proxygen.proxy.admin.planned import gone, service_detail, service_report, service_summary
from proxygen.proxy.admin.service_report import Change, InstanceReport, InstanceState, ServiceDetail, VariantReport
from proxygen.proxy.admin.waiting import WAITING, by_name, detail_beside, report_beside, summary_beside
from proxygen.proxy.plan.types import Plan
from tests.proxy.plan.catalogs import instance, plan, service

pytestmark = pytest.mark.incident("T60")

ROUTE = "route=web.example.com"
STABLE, OTHER = instance("web", 1, ROUTE), instance("web", 2, ROUTE)
CANARY = instance("web", 3, ROUTE, "canary=10%")
BEFORE = plan(STABLE, OTHER, CANARY)


def detail(served: Plan, newest: Plan) -> ServiceDetail:
    return detail_beside(*(service_detail(one, "web", kept={}) for one in (served, newest)))


def variant(of: ServiceDetail, name: str) -> VariantReport:
    return next(each for each in of.variants if each.name == name)


def found(of: ServiceDetail, registration: Instance) -> InstanceReport:
    return next(item for each in of.variants for item in each.instances if item.id == registration.id)


def test_a_share_is_what_nginx_gives_and_the_asked_one_waits() -> None:
    told = detail(BEFORE, plan(STABLE, OTHER, instance("web", 3, ROUTE, "canary=60%")))
    canary, stable = variant(told, "canary"), variant(told, "stable")
    assert (canary.effective, canary.waiting, canary.asked) == (1000, 6000, 6000)
    assert (stable.effective, stable.waiting, stable.asked) == (9000, 4000, 4000)
    assert (told.state, told.waiting) == ("served", Change.CHANGED)


def test_instances_are_those_that_nginx_has_and_others_wait_or_are_held() -> None:
    new = instance("web", 9, ROUTE)
    told = detail(BEFORE, plan(STABLE, replace(CANARY, health=Health.CRITICAL), new))
    assert (found(told, STABLE).state, found(told, STABLE).held) == (InstanceState.SERVING, False)
    assert (found(told, OTHER).state, found(told, OTHER).held) == (InstanceState.SERVING, True)
    assert (found(told, new).state, found(told, new).held) == (InstanceState.WAITING, False)
    # nginx sends it requests still, sick as it is by now.
    assert (found(told, CANARY).state, found(told, CANARY).health) == (InstanceState.SERVING, "critical")


def test_a_variant_that_waits_gets_nothing_and_one_that_is_to_go_its_share() -> None:
    blue = instance("web", 3, ROUTE, "variant=blue:30%")
    told = detail(BEFORE, plan(STABLE, OTHER, blue))
    assert {each.name: (each.effective, each.waiting) for each in told.variants} == {
        "stable": (9000, 7000),
        "canary": (1000, 0),
        "blue": (0, 3000),
    }


def test_a_new_service_is_not_told_as_served_and_one_that_is_gone_is() -> None:
    shop = instance("shop", 5, "route=shop.example.com")
    served, newest = plan(STABLE), plan(shop)
    lists = by_name(
        [service_summary(each, kept=gone(served, newest)) for each in served.services],
        [service_summary(each, kept={}) for each in newest.services],
    )
    new, old = (summary_beside(*pair) for pair in lists)
    assert (new.name, new.state, new.waiting, new.instances) == (
        "shop",
        WAITING,
        Change.ADDED,
        {InstanceState.WAITING: 1},
    )
    assert [(each.effective, each.serving) for each in new.variants] == [(0, 0)]
    assert (old.name, old.state, old.waiting, old.kept) == ("web", "served", Change.REMOVED, 1)


def test_a_list_tells_the_shares_that_a_detail_tells() -> None:
    newest = plan(STABLE, instance("web", 3, ROUTE, "canary=60%"), instance("web", 8, ROUTE, "variant=blue:5%"))
    long = detail(BEFORE, newest)
    short = summary_beside(*(service_summary(service(one, "web"), kept={}) for one in (BEFORE, newest)))
    plain = report_beside(*(service_report(service(one, "web")) for one in (BEFORE, newest)))
    shares = [(each.name, each.asked, each.effective, each.waiting) for each in long.variants]
    assert [(each.name, each.asked, each.effective, each.waiting) for each in short.variants] == shares
    assert plain.variants == long.variants
    assert (short.state, short.waiting) == (long.state, long.waiting)


def test_the_same_plan_leaves_nothing_waiting() -> None:
    told = detail(BEFORE, plan(STABLE, OTHER, CANARY))
    assert (told.waiting, {each.waiting for each in told.variants}) == (None, {None})


def test_what_is_wrong_is_what_is_wrong_now() -> None:
    told = detail(BEFORE, plan(replace(STABLE, tags=(*STABLE.tags, "proxygen.weight=x"))))
    assert told.state == "served"
    assert told.quarantine is not None
