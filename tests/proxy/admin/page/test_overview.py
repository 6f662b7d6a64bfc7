"""One look says healthy or not and why; what is wrong stands first."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from proxygen.proxy.admin.page.overview import MOST_ROWS, Fact, Overview, overview
from proxygen.proxy.admin.page.problems import MOST
from proxygen.proxy.admin.page.views import Level
from proxygen.proxy.admin.report import ApplyReport, ConsulReport, HoldReport, NginxReport, State, StatusReport, Told
from proxygen.proxy.admin.service_report import Change, InstanceState, QuarantineReport, ServiceSummary
from proxygen.proxy.admin.traffic_report import ListenerReport
from tests.proxy.admin.page.reports import HEALTHY, NOW, TROUBLED, summary, traffic


def page_of(status: StatusReport = HEALTHY, *services: ServiceSummary, query: str = "") -> Overview:
    return overview(status, services, NOW, etag='"42"', query=query)


def fact(page: Overview, name: str) -> Fact:
    return next(fact for fact in page.facts if fact.name == name)


@pytest.mark.parametrize(
    ("status", "level", "title"),
    [
        (HEALTHY, Level.GOOD, "Healthy"),
        (replace(HEALTHY, state=State.STARTING, live=None), Level.WARN, "Starting"),
        (TROUBLED, Level.BAD, "Degraded"),
        (replace(HEALTHY, conflicts=TROUBLED.conflicts[:1]), Level.WARN, "Serving, with 1 problem"),
    ],
)
def test_the_verdict(status: StatusReport, level: Level, title: str) -> None:
    verdict = page_of(status, summary("web")).verdict
    assert (verdict.level, verdict.title) == (level, title)


def test_a_verdict_tells_its_reasons() -> None:
    assert page_of(TROUBLED).verdict.reasons == TROUBLED.reasons
    assert "1 service from generation 42" in page_of(HEALTHY, summary("web")).verdict.text


def test_what_nginx_does_not_serve_is_not_said_to_be_served() -> None:
    """While an operator's rollback holds the newest plan, or nginx refused it, it is said what the rows are of."""
    went_back = replace(HEALTHY, hold=HoldReport(reason="why", since="", pinned=42))
    refused = replace(HEALTHY, last_apply=ApplyReport(outcome="rolled back"))
    for status, said in ((went_back, "to which an operator went back"), (refused, "since was rolled back")):
        page = page_of(status, summary("web"))
        assert said in page.notice
        assert "the newest plan" in page_of(replace(status, told=Told.NEWEST)).notice
        assert "nginx serves generation 42" in page.verdict.text
        assert "service" not in page.verdict.text
    kept = replace(HEALTHY, hold=HoldReport(reason="why", since="", services={"web": 2}))
    assert (page_of(HEALTHY).notice, page_of(kept).notice) == ("", "")


def test_who_got_none_of_its_routes_is_not_shown_as_served() -> None:
    """It stands with what is wrong, and before those that are well."""
    two = replace(summary("b"), routes=("b.example.com/", "web.example.com/"))
    lost = ("web.example.com/",)
    page = page_of(
        HEALTHY, summary("a"), replace(two, lost=lost), replace(summary("c"), routes=("web.example.com/",), lost=lost)
    )
    assert [(row.service.text, row.state, row.level) for row in page.rows] == [
        ("b", "served, 1 of 2 routes lost", Level.WARN),
        ("c", "no route", Level.WARN),
        ("a", "served", Level.GOOD),
    ]


def test_what_was_pushed_says_so() -> None:
    assert HEALTHY.live is not None
    pushed = replace(HEALTHY, live=replace(HEALTHY.live, by="push"))
    assert [fact(page_of(status), "Generation").note for status in (HEALTHY, pushed)] == [
        "live for 2 h 30 min",
        "live by push for 2 h 30 min",
    ]


def test_warnings_alone_leave_it_healthy() -> None:
    page = page_of(replace(HEALTHY, warnings=("a", "b")))
    assert (page.verdict.title, page.warnings, page.warnings_title) == ("Healthy", ("a", "b"), "2 warnings")


def test_problems_stand_worst_first_with_reason_tag_winner_and_nginxs_words() -> None:
    found = page_of(TROUBLED, summary("lonely", "nobody")).problems
    assert [problem.kind for problem in found] == [
        "Consul lost",
        "Rejected",
        "Quarantined",
        "Held",
        "Conflict",
        "Conflict",
        "Nobody serves",
    ]
    by_kind = {problem.kind: problem for problem in reversed(found)}
    assert by_kind["Consul lost"].said == ("no leader",)
    assert by_kind["Rejected"].said == ("nginx: [emerg] unexpected }", "nginx: test failed")
    assert "Generation 42 stays live" in by_kind["Rejected"].text
    assert (by_kind["Quarantined"].offender, by_kind["Quarantined"].text) == ("proxygen.route=;", "no host")
    assert "service web has it" in by_kind["Conflict"].text
    assert "the operator's policy refuses it" in found[5].text
    assert "keeps 3 instances" in by_kind["Held"].text


def test_a_hold_can_be_released_over_what_was_seen() -> None:
    page = page_of(TROUBLED)
    assert page.release is not None
    assert (page.release.action, page.release.etag) == ("/api/v1/release-hold", '"42"')
    assert [problem.kind for problem in page.problems if problem.release] == ["Held"]
    assert page_of(HEALTHY).release is None


def test_many_problems_of_one_kind_are_shortened() -> None:
    many = tuple(QuarantineReport(service=f"s{number}", place="p", reason="r") for number in range(MOST + 5))
    found = page_of(replace(HEALTHY, quarantined=many)).problems
    assert len(found) == MOST + 1
    assert "5 more" in found[-1].text


@pytest.mark.parametrize(
    ("consul", "value", "level"),
    [
        (HEALTHY.consul, "fresh", ""),
        (replace(HEALTHY.consul, problem="429"), "failing", Level.WARN),
        (replace(HEALTHY.consul, freshness=31.0), "stale", Level.BAD),
        (replace(HEALTHY.consul, freshness=None), "not read", Level.BAD),
    ],
)
def test_consuls_freshness(consul: ConsulReport, value: str, level: str) -> None:
    page = page_of(replace(HEALTHY, consul=consul))
    assert (fact(page, "Consul").value, fact(page, "Consul").level) == (value, level)
    assert bool(level) == any("Consul" in problem.kind for problem in page.problems)


@pytest.mark.parametrize(
    ("nginx", "note"),
    [
        (HEALTHY.nginx, "2 workers · 1 draining"),
        (replace(HEALTHY.nginx, draining=0), "2 workers"),
        (replace(HEALTHY.nginx, draining=0, push=True), "2 workers · pushed to"),
        (replace(HEALTHY.nginx, draining=0, push_problem="why"), "2 workers · not pushed to"),
        (replace(HEALTHY.nginx, master=None), "no master seen"),
        (NginxReport(version="1.22.1"), ""),
    ],
)
def test_nginx(nginx: NginxReport, note: str) -> None:
    assert fact(page_of(replace(HEALTHY, nginx=nginx)), "nginx").note == note


def test_as_many_draining_workers_as_there_may_be_are_a_problem() -> None:
    busy = replace(HEALTHY, nginx=replace(HEALTHY.nginx, draining=4))
    assert ["4 old workers drain" in problem.text for problem in page_of(busy).problems] == [True]


def test_requests_of_all_services_are_summed() -> None:
    page = page_of(HEALTHY, summary("a"), summary("b"))
    # Each 100 with 1 error, and 1 that nginx answered by itself; over 25 s.
    assert (fact(page, "Requests").value, fact(page, "Requests").note) == ("8.1/s", "1.0 % errors")
    silent = replace(HEALTHY, traffic=ListenerReport(problem="nobody listens"))
    assert fact(page_of(silent), "Requests").note == "nobody listens"


def test_services_in_trouble_stand_first_then_those_on_trial() -> None:
    services = (
        summary("a"),
        summary("b", variants=2),
        replace(summary("c"), instances={InstanceState.SERVING: 1, InstanceState.UNHEALTHY: 1}),
        replace(summary("d"), instances={InstanceState.SERVING: 2}, kept=1),
        summary("e", "nobody"),
        summary("f", "quarantined"),
    )
    page = page_of(HEALTHY, *services)
    assert [row.service.text for row in page.rows] == ["e", "f", "d", "c", "b", "a"]
    assert page.rows[2].state == "served, 1 held"
    assert (page.rows[3].instances, page.rows[3].instances_level) == ("1 of 2", Level.WARN)


@pytest.mark.parametrize("service", [{"kept": 2}, {"waiting": Change.REMOVED, "kept": 1}, {"waiting": Change.REMOVED}])
def test_what_is_gone_from_consul_and_served_still_says_held(service: dict[str, Any]) -> None:
    row = page_of(HEALTHY, replace(summary("web"), **service)).rows[0]
    assert (row.state, row.level) == ("held, gone from Consul", Level.WARN)


def test_a_row_shows_shares_only_where_there_is_something_to_share() -> None:
    alone, several = page_of(HEALTHY, summary("a"), summary("b", variants=2)).rows[::-1]
    assert (alone.shares, alone.bar) == ((), ())
    assert [(share.name, share.asked, share.effective, share.measured) for share in several.shares] == [
        ("stable", "10 %", "50 %", "9 %"),
        ("canary", "10 %", "50 %", "9 %"),
    ]
    assert [(part.x, part.width) for part in several.bar] == [(0, 50), (50, 50)]


def test_a_rows_revision_moves_with_what_it_shows_and_only_then() -> None:
    (row,), (same,) = page_of(HEALTHY, summary("a")).rows, page_of(HEALTHY, summary("a")).rows
    (other,) = page_of(HEALTHY, replace(summary("a"), unserved=traffic(900))).rows
    assert row.rev == same.rev
    assert (row.rev != other.rev, row.id) == (True, other.id)


def test_the_search_finds_names_and_routes_whatever_their_case() -> None:
    services = (summary("Shop"), summary("web"))
    assert [row.service.text for row in page_of(HEALTHY, *services, query=" shop.EXAMPLE ").rows] == ["Shop"]
    page = page_of(HEALTHY, *services, query="b/")
    assert (page.found, page.total) == (2, 2)
    assert "shop.example.com/" in page_of(HEALTHY, *services).rows[0].find
    assert page_of(HEALTHY, *services, query="neither").rows == ()


def test_rows_are_bounded_and_the_search_finds_the_others() -> None:
    services = [summary(f"s{number:05}") for number in range(MOST_ROWS + 10)]
    page = page_of(HEALTHY, *services)
    assert (len(page.rows), page.found) == (MOST_ROWS, MOST_ROWS + 10)
    assert len(page_of(HEALTHY, *services, query=services[-1].name).rows) == 1


def test_a_name_cannot_leave_its_link() -> None:
    (row,) = page_of(HEALTHY, summary("../a?b#c d")).rows
    assert row.service.href == "/services/..%2Fa%3Fb%23c%20d"
