from __future__ import annotations

import json
from dataclasses import replace

from proxygen.proxy.admin.page.service import MOST_INSTANCES, ServicePage, service_view
from proxygen.proxy.admin.page.steering import SteeringForms, steering
from proxygen.proxy.admin.page.views import Level
from proxygen.proxy.admin.service_report import InstanceState, ServiceDetail, VariantReport
from tests.proxy.admin.page.reports import EVENTS, NOW, SHARES, WEB, history, instance


def page_of(service: ServiceDetail = WEB) -> ServicePage:
    return service_view(service, EVENTS, NOW, steering=SteeringForms(), notice="")


def test_each_variant_shows_its_share_in_effect_asked_for_and_measured() -> None:
    canary, _ = page_of().variants
    assert [(share.name, share.text, share.value) for share in canary.shares] == [
        ("in effect", "10 %", 10),
        ("asked for", "10 %", 10),
        ("measured", "10.04 %", 10.04),
    ]
    assert (canary.figures.errors, canary.figures.level) == ("4.0 %", Level.BAD)
    assert (canary.figures.backed_up, canary.figures.backed_up_level) == ("8.0 %", Level.BAD)
    assert (canary.figures.p50, canary.figures.p95, canary.figures.p99) == ("4.0 ms", "80 ms", "1.2 s")


def test_a_failing_instance_shows_what_its_checks_say() -> None:
    failing = WEB.variants[0].instances[0]
    told = SteeringForms(failures={(failing.node, failing.id): "service:web: HTTP 500"})
    views = [
        item for each in service_view(WEB, EVENTS, NOW, steering=told, notice="").variants for item in each.instances
    ]
    assert [(item.node, item.id) for item in views if item.failure] == [(failing.node, failing.id)]


def test_no_requests_are_not_a_share_of_nothing() -> None:
    quiet = replace(WEB, variants=(replace(WEB.variants[0], traffic=None),))
    measured = page_of(quiet).variants[0].shares[2]
    assert (measured.text, measured.value) == ("no requests", 0)


def test_what_no_backup_answered_is_not_shown() -> None:
    assert WEB.variants[0].traffic is not None
    alone = replace(WEB.variants[0], traffic=replace(WEB.variants[0].traffic, backed_up=0.0))
    assert page_of(replace(WEB, variants=(alone,))).variants[0].figures.backed_up == ""


def test_instances_that_fail_stand_first_and_parts_are_of_those_that_serve() -> None:
    _, stable = page_of().variants
    assert (stable.instances[0].state, stable.instances[0].level, stable.instances[0].part) == (
        "unhealthy",
        Level.BAD,
        "–",
    )
    assert stable.instances[-1].part == "14 %"
    assert stable.serving == "7 of 9 instances serving"


def test_an_instance_that_was_not_checked_yet_says_so() -> None:
    kept = replace(instance(1), unchecked=True)
    variant = VariantReport(name="stable", asked=10_000, effective=10_000, instances=(kept,))
    (shown,) = page_of(replace(WEB, variants=(variant,))).variants[0].instances
    assert (shown.health, shown.state) == ("passing, not checked yet", "serving")


def test_instances_are_bounded() -> None:
    many = VariantReport(
        name="stable", asked=10_000, effective=10_000, instances=tuple(instance(n) for n in range(MOST_INSTANCES + 3))
    )
    (variant,) = page_of(replace(WEB, variants=(many,))).variants
    assert (len(variant.instances), variant.more) == (MOST_INSTANCES, 3)


def test_problems_name_the_tag_and_who_won() -> None:
    found = {problem.kind: problem for problem in page_of().problems}
    assert found["Quarantined"].offender == "proxygen.rate=often"
    assert "shop claims too" in found["Conflict won"].text
    assert "service shop has it" in found["Conflict"].text
    assert "2 instances" in found["Held"].text
    nobody = page_of(ServiceDetail(name="web", state="nobody"))
    assert [problem.kind for problem in nobody.problems] == ["Nobody serves"]


def test_the_charts_figures_are_those_of_its_table() -> None:
    chart = page_of().chart
    assert chart is not None
    data = json.loads(chart.data)
    assert data["step"] == 5
    assert [series["name"] for series in data["series"]] == ["canary", "stable", "by nginx itself"]
    assert data["series"][0] == {
        "name": "canary",
        "requests": [10, 20, 20],
        "errors": [1, 1, 1],
        "p95": [None, 0.02, 0.02],
    }
    assert chart.rows[0][:4] == ("0 s ago", "20", "1", "20 ms")
    assert chart.rows[-1][:4] == ("10 s ago", "10", "1", "–")


def test_a_variant_that_came_later_has_a_shorter_history() -> None:
    canary, stable = WEB.variants
    chart = page_of(replace(WEB, variants=(replace(canary, history=history(1)), stable))).chart
    assert chart is not None
    assert chart.rows[-1][1:4] == ("0", "0", "–")
    assert len({len(row) for row in chart.rows}) == 1


def test_without_traffic_there_is_no_chart() -> None:
    assert page_of(ServiceDetail(name="web", state="served")).chart is None


def test_one_without_its_only_route_is_not_served() -> None:
    alone = ServiceDetail(name="web", state="served", routes=("web.example.com/",))
    for lost, told in ((alone.routes, ("no route", Level.WARN)), ((), ("served", Level.GOOD))):
        page = page_of(replace(alone, lost=lost))
        assert (page.state, page.level) == told


def test_only_its_own_events_newest_first() -> None:
    others = tuple(replace(event, services=("other",)) for event in EVENTS[:2])
    found = service_view(WEB, (*EVENTS[:3], *others), NOW, steering=SteeringForms(), notice="").events
    assert [event.id for event in found] == [2, 1, 0]


def test_states_have_levels() -> None:
    for state in InstanceState:
        variant = VariantReport(name="v", asked=0, effective=0, instances=(instance(1, state),))
        assert page_of(replace(WEB, variants=(variant,))).variants[0].instances[0].level


def test_forms_are_written_over_what_was_seen() -> None:
    view = steering(SHARES)
    assert [(each.variant, each.value, each.note) for each in view.inputs] == [
        ("canary", "12.5", "12.5 % by operators, 10 % by tags")
    ]
    assert view.set is not None
    forms = (view.set, *view.buttons)
    assert {form.etag for form in forms} == {'"17"'}
    assert [(form.method, form.action) for form in forms] == [
        ("PUT", "/api/v1/services/web/shares"),
        ("POST", "/api/v1/services/web/shares/promote"),
        ("POST", "/api/v1/services/web/shares/abort"),
        ("DELETE", "/api/v1/services/web/shares"),
    ]
    assert json.loads(view.buttons[0].body) == {"variant": "canary"}
    assert any("it is not JSON" in problem for problem in view.problems)


def test_there_is_nothing_to_set_where_nothing_is_on_trial() -> None:
    alone = replace(SHARES, variants=SHARES.variants[:1], problem="", warnings=())
    assert steering(alone) == SteeringForms()


def test_a_text_that_counts_for_nothing_can_be_taken_away() -> None:
    alone = replace(SHARES, variants=SHARES.variants[:1])
    view = steering(alone)
    assert view.set is None
    assert [form.method for form in view.buttons] == ["DELETE"]


def test_without_an_index_nothing_can_be_changed() -> None:
    view = steering(replace(SHARES, index=None))
    assert (view.set, view.buttons) == (None, ())
    assert view.problems


def test_the_command_can_be_pasted_whatever_the_name() -> None:
    assert steering(replace(SHARES, service="a b;c")).command == "proxygen canary set 'a b;c' 10%"
