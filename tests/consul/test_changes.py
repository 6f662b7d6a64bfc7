"""What a difference between two lists of checks touches."""

from __future__ import annotations

from proxygen.consul.changes import compare_checks, compare_registrations, index_checks
from proxygen.consul.decode import CheckRecord, RegistrationState


def check(node: str, check_id: str, status: str = "passing", service: str = "") -> CheckRecord:
    return CheckRecord(node=node, check_id=check_id, status=status, service_name=service, service_id=f"{service}-1")


def test_equal_lists_touch_nothing_whatever_their_order() -> None:
    checks = [check("n1", "a", service="web"), check("n1", "b", service="db")]
    changed = compare_checks(index_checks(checks), index_checks(reversed(checks)))
    assert not changed.services
    assert not changed.nodes


def test_a_check_that_comes_goes_or_turns_touches_its_service_alone() -> None:
    before = index_checks([check("n1", "turns", service="a"), check("n1", "goes", service="b"), check("n1", "x")])
    after = index_checks(
        [check("n1", "turns", "critical", service="a"), check("n2", "comes", service="c"), check("n1", "x")]
    )
    changed = compare_checks(before, after)
    assert changed.services == {"a", "b", "c"}
    assert not changed.nodes


def test_the_first_run_of_a_check_touches_its_service_though_it_stays_critical() -> None:
    waiting = CheckRecord(node="n1", check_id="a", status="critical", service_name="web", type="http")
    ran = CheckRecord(node="n1", check_id="a", status="critical", service_name="web", type="http", output="refused")
    assert compare_checks(index_checks([waiting]), index_checks([ran])).services == {"web"}
    success = "HTTP GET http://10.0.0.1:80/: 200 OK Output: ok"
    remembered = CheckRecord(
        node="n1", check_id="a", status="critical", service_name="web", type="http", output=success
    )
    assert compare_checks(index_checks([remembered]), index_checks([ran])).services == {"web"}
    more = CheckRecord(
        node="n1", check_id="a", status="critical", service_name="web", type="http", output="refused again"
    )
    assert not compare_checks(index_checks([ran]), index_checks([more])).services
    silent = CheckRecord(node="n1", check_id="a", status="passing", service_name="web", type="http")
    told = CheckRecord(node="n1", check_id="a", status="passing", service_name="web", type="http", output="200 OK")
    assert compare_checks(index_checks([silent]), index_checks([told])).services == {"web"}


def test_a_nodes_own_check_touches_the_node() -> None:
    changed = compare_checks(index_checks([check("n1", "serfHealth")]), index_checks([]))
    assert changed.nodes == {"n1"}
    assert not changed.services


def test_a_check_that_moves_to_another_service_touches_both() -> None:
    before = index_checks([check("n1", "c", service="a")])
    after = index_checks([check("n1", "c", service="b")])
    assert compare_checks(before, after).services == {"a", "b"}


def test_registrations_that_come_go_or_are_written_again_touch_their_services() -> None:
    before = {
        "a-1": RegistrationState(service="a", modify_index=1),
        "b-1": RegistrationState(service="b", modify_index=2),
    }
    after = before | {"b-1": RegistrationState(service="b", modify_index=9), "c-1": RegistrationState(service="c")}
    assert compare_registrations(before, before) == frozenset()
    assert compare_registrations(before, after) == {"b", "c"}
    assert compare_registrations(after, {}) == {"a", "b", "c"}


def test_an_id_that_is_taken_over_by_another_service_touches_both() -> None:
    before = {"x": RegistrationState(service="a", modify_index=1)}
    after = {"x": RegistrationState(service="b", modify_index=2)}
    assert compare_registrations(before, after) == {"a", "b"}
