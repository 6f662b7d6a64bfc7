"""What a generation serves, on disk beside it and in mind: told of again as it was planned."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxygen.catalog import Health
from proxygen.proxy.admin.planned import lost_routes, service_detail, service_summary
from proxygen.proxy.apply.outcome import Outcome
from proxygen.proxy.record.live_plans import FILE, LivePlans, decode_services, encode_services, holders_of
from proxygen.proxy.record.steps import Step
from tests.proxy.plan.catalogs import instance, plan

pytestmark = pytest.mark.incident("T60")

PLAN = plan(
    instance("web", 1, "route=web.example.com"),
    instance("web", 2, "route=web.example.com", "canary=10%"),
    instance("web", 3, "route=web.example.com", health=Health.CRITICAL),
    instance("thief", 9, "route=web.example.com"),
    instance("typo", 5, "route=typo.example.com", "weight=x"),
    instance("db", 6, "protocol=tcp", "listen=15432", "route=/"),
)
OTHER = plan(instance("web", 1, "route=web.example.com"))


def step(outcome: Outcome, generation: int | None = 7, reason: str = "") -> Step:
    return Step(outcome=outcome, generation=generation, reason=reason, at="2026-01-01T00:00:00.000+00:00", durations={})


def test_a_stored_plan_tells_what_the_planned_one_tells() -> None:
    stored, lost = decode_services(encode_services(PLAN)), lost_routes(PLAN)
    assert lost_routes(stored) == lost == {"thief": ("web.example.com/",)}
    for planned, read in zip(PLAN.services, stored.services, strict=True):
        assert service_summary(read, kept={}) == service_summary(planned, kept={})
        before, after = (service_detail(one, planned.name, kept={}) for one in (PLAN, stored))
        assert before is not None
        assert after is not None
        assert (after.variants, after.quarantine, after.lost) == (before.variants, before.quarantine, before.lost)


def test_who_holds_what_can_be_read_off_a_stored_plan() -> None:
    assert holders_of(decode_services(encode_services(PLAN))) == PLAN.memory.holders


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b'[{"name": 3}]', b"\xff", b"[" * 100_000])
def test_what_is_no_such_file_tells_nothing(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "generations/000007").mkdir(parents=True)
    assert LivePlans(tmp_path).plan_of(7) is None
    (tmp_path / "generations/000007" / FILE).write_bytes(text)
    assert LivePlans(tmp_path).plan_of(7) is None


def test_a_generation_is_told_of_by_what_went_live_or_by_the_disk(tmp_path: Path) -> None:
    (tmp_path / "generations/000007").mkdir(parents=True)
    (tmp_path / "generations/000007" / FILE).write_bytes(encode_services(PLAN))
    plans = LivePlans(tmp_path)
    plans.note(step(Outcome.APPLIED, 8), OTHER, pinned=False)
    assert plans.plan_of(8) is OTHER
    found = plans.plan_of(7)
    assert found is not None
    assert [service.name for service in found.services] == [service.name for service in PLAN.services]


@pytest.mark.parametrize(
    ("ended", "pinned"),
    [
        (step(Outcome.REJECTED), False),
        (step(Outcome.ROLLED_BACK), False),
        (step(Outcome.UNCHANGED, reason="there is no other generation"), False),
        (step(Outcome.HELD), True),
        (step(Outcome.APPLIED), True),
    ],
)
def test_a_plan_that_did_not_go_live_is_not_what_is_served(tmp_path: Path, ended: Step, pinned: bool) -> None:
    plans = LivePlans(tmp_path)
    plans.note(step(Outcome.APPLIED), OTHER, pinned=False)
    plans.note(ended, PLAN, pinned=pinned)
    assert plans.plan_of(7) is OTHER


@pytest.mark.parametrize("outcome", [Outcome.APPLIED, Outcome.UNCHANGED, Outcome.HELD])
def test_a_plan_that_changes_nothing_for_nginx_is_what_is_served(tmp_path: Path, outcome: Outcome) -> None:
    plans = LivePlans(tmp_path)
    plans.note(step(Outcome.APPLIED), OTHER, pinned=False)
    plans.note(step(outcome), PLAN, pinned=False)
    assert plans.plan_of(7) is PLAN
