"""Services of a plan as the API tells them: lists count what details name."""

from __future__ import annotations

from proxygen.catalog import Health
from proxygen.proxy.admin.planned import service_detail, service_report, service_summary
from proxygen.proxy.admin.service_report import InstanceState
from tests.proxy.plan.catalogs import instance, plan, service

STABLE = instance("web", 1, "route=web.example.com")
CANARY = instance("web", 2, "route=web.example.com", "canary=10%")
DRAINED = instance("web", 3, "route=web.example.com", "weight=0")
SICK = instance("web", 4, "route=web.example.com", health=Health.CRITICAL)
THIEF = instance("thief", 9, "route=web.example.com")
TYPO = instance("typo", 5, "route=typo.example.com", "weight=x")

PLAN = plan(STABLE, CANARY, DRAINED, SICK, THIEF, TYPO)


def test_a_list_counts_what_the_detail_names() -> None:
    summary = service_summary(service(PLAN, "web"), kept={})
    detail = service_detail(PLAN, "web", kept={})
    assert detail is not None
    assert (summary.name, summary.state, summary.routes) == (detail.name, detail.state, detail.routes)
    for short, long in zip(summary.variants, detail.variants, strict=True):
        assert (short.name, short.asked, short.effective) == (long.name, long.asked, long.effective)
        assert short.registered == len(long.instances)
        assert short.serving == sum(one.state is InstanceState.SERVING for one in long.instances)
    states = [one.state for variant in detail.variants for one in variant.instances]
    assert summary.instances == {state: states.count(state) for state in states}
    assert summary.instances == {InstanceState.SERVING: 2, InstanceState.DRAINED: 1, InstanceState.UNHEALTHY: 1}


def test_a_detail_names_the_conflicts_of_both_sides_and_of_no_other() -> None:
    for name, count in (("web", 1), ("thief", 1), ("typo", 0)):
        detail = service_detail(PLAN, name, kept={})
        assert detail is not None
        assert len(detail.conflicts) == count


def test_a_quarantined_service_says_why() -> None:
    detail = service_detail(PLAN, "typo", kept={})
    assert detail is not None
    assert detail.quarantine is not None
    assert (detail.state, "'x' is not a whole number" in detail.quarantine.reason) == ("quarantined", True)
    assert service_report(service(PLAN, "typo")).state == "quarantined"


def test_what_a_hold_keeps_is_said_of_that_service_alone() -> None:
    web, thief = (service_detail(PLAN, name, kept={"web": 2}) for name in ("web", "thief"))
    assert web is not None
    assert thief is not None
    assert (web.kept, thief.kept) == (2, 0)
    assert service_summary(service(PLAN, "web"), kept={"web": 2}).kept == 2


def test_there_is_no_detail_of_a_service_that_is_not_routed() -> None:
    assert service_detail(PLAN, "nosuch", kept={}) is None


def test_a_service_tells_which_of_its_instances_cannot_be_used_and_why() -> None:
    good, bad = (instance("web", n, "route=web.example.com", *tags) for n, tags in ((1, ()), (2, ("weight=x",))))
    detail = service_detail(plan(good, bad), "web", kept={})
    assert detail is not None
    [warning] = detail.warnings
    assert "'web-2'" in warning
    assert "proxygen.weight" in warning
