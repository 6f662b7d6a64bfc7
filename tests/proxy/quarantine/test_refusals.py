"""When a refused service gets another chance, and when not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from proxygen.catalog import Catalog, Health, ServiceName
from proxygen.proxy.plan.types import Quarantine
from proxygen.proxy.quarantine.refusals import Refusals, states_anew
from tests.proxy.plan.catalogs import catalog, instance, plan

DB = ServiceName("db")
TAGS = ("protocol=tcp", "listen=15432")
EMPTY = Catalog(datacenter="dc1", services={DB: ()})
LATER = 100.0


def refused(*, by_reload: bool) -> Refusals:
    refusals = Refusals("proxygen")
    quarantine = Quarantine(service=DB, place="stream.d/streams.conf", reason="bind() failed")
    if by_reload:
        refusals.refuse(quarantine, catalog(instance("db", 1, *TAGS)), until=LATER)
    else:
        refusals.refuse(quarantine, catalog(instance("db", 1, *TAGS)))
    return refusals


def stands(refusals: Refusals, newest: Catalog, now: float = 0.0) -> bool:
    refusals.review(newest, now)
    return DB in refusals.quarantines


@pytest.mark.parametrize("by_reload", [True, False])
@pytest.mark.parametrize(
    "change",
    [
        {"health": Health.CRITICAL},
        {"weight_passing": 7},
        {"modify_index": 99},
        {"create_index": 99},
        {"meta": (("build", "17"),)},
    ],
    ids=["health", "weight", "modified", "registered-again", "meta-of-others"],
)
def test_what_cannot_cure_a_service_does_not_bring_it_back(by_reload: bool, change: dict[str, Any]) -> None:
    """Else a check that flaps costs everybody a reload each time."""
    assert stands(refused(by_reload=by_reload), catalog(instance("db", 1, *TAGS, **change)))


@pytest.mark.parametrize("by_reload", [True, False])
def test_a_tag_of_somebody_elses_cures_nothing(by_reload: bool) -> None:
    changed = instance("db", 1, *TAGS)
    assert stands(refused(by_reload=by_reload), catalog(replace(changed, tags=("primary", *changed.tags))))


@pytest.mark.parametrize("by_reload", [True, False])
def test_another_tag_or_meta_brings_a_service_back_at_once(by_reload: bool) -> None:
    assert not stands(refused(by_reload=by_reload), catalog(instance("db", 1, "protocol=tcp", "listen=15433")))
    changed = instance("db", 1, *TAGS, meta=(("proxygen-timeout", "1m"),))
    assert not stands(refused(by_reload=by_reload), catalog(changed))


def test_another_address_cures_what_a_gate_refused_and_not_what_a_reload_did() -> None:
    moved = catalog(instance("db", 2, *TAGS))
    assert not stands(refused(by_reload=False), moved)
    assert stands(refused(by_reload=True), moved)


def test_a_service_that_goes_and_comes_back_gains_no_reload_by_it() -> None:
    refusals = refused(by_reload=True)
    assert stands(refusals, EMPTY)
    assert stands(refusals, catalog(instance("db", 1, *TAGS)))


def test_what_a_reload_stumbled_over_gets_its_chance_in_time() -> None:
    refusals = refused(by_reload=True)
    same = catalog(instance("db", 1, *TAGS))
    assert stands(refusals, same, LATER - 1)
    assert not stands(refusals, same, LATER)
    assert stands(refused(by_reload=False), same, 1e9)


def test_setbacks_are_forgiven_to_what_went_live_or_is_gone() -> None:
    refusals = Refusals("proxygen")
    assert [refusals.count_setback(DB) for _ in range(3)] == [0, 1, 2]
    refusals.review(EMPTY, 0)
    assert refusals.count_setback(DB) == 3, "a service that was seen empty may be back in a moment"
    refusals.forgive([DB])
    assert refusals.count_setback(DB) == 0
    refusals.review(Catalog(datacenter="dc1", services={}), 0)
    assert refusals.count_setback(DB) == 0


def test_what_was_refused_is_kept_with_its_reason() -> None:
    assert refused(by_reload=True).quarantines[DB].reason == "bind() failed"


def test_a_service_that_the_catalog_does_not_know_is_refused_and_cured_like_any_other() -> None:
    """Empty or never observed: what a gate refused costs a test to try again, what a reload did waits for its time."""
    unknown = Catalog(datacenter="dc1", services={})
    for nothing in (EMPTY, unknown):
        assert not stands(refused(by_reload=False), nothing)
        assert stands(refused(by_reload=True), nothing)
    refusals = Refusals("proxygen")
    refusals.refuse(Quarantine(service=DB, place="", reason="no"), unknown)
    assert stands(refusals, unknown)
    assert not stands(refusals, catalog(instance("db", 1, *TAGS)))


def test_there_is_nothing_to_forgive_who_had_no_setback() -> None:
    refusals = Refusals("proxygen")
    refusals.forgive([DB])
    assert refusals.count_setback(DB) == 0


def test_other_files_give_every_refused_service_another_chance_and_forget_no_setback() -> None:
    refusals = refused(by_reload=True)
    refusals.count_setback(DB)
    refusals.clear()
    assert refusals.quarantines == {}
    assert refusals.count_setback(DB) == 1


# --- those that only wait


SERVED = instance("db", 1, *TAGS)
CHANGED = replace(SERVED, tags=("proxygen.protocol=tcp", "proxygen.listen=15433"), health=Health.CRITICAL)
WAITS = Quarantine(service=DB, place="the reload", reason="waits for others")


def waiting() -> Refusals:
    refusals = Refusals("proxygen")
    refusals.refuse(WAITS, catalog(CHANGED), until=LATER, as_served=True)
    return refusals


def test_who_was_served_waits_with_what_it_stated_then_and_the_health_of_now() -> None:
    refusals = waiting()
    newcomer = instance("db", 2, "protocol=tcp", "listen=15433")
    assert DB not in refusals.quarantines
    kept = refusals.keep_served(catalog(CHANGED, newcomer), {DB: (SERVED,)})
    assert kept.services[DB] == (replace(SERVED, health=Health.CRITICAL),)


def test_where_all_that_were_served_went_they_are_kept_as_they_were() -> None:
    newcomer = instance("db", 2, "protocol=tcp", "listen=15433")
    assert waiting().keep_served(catalog(newcomer), {DB: (SERVED,)}).services[DB] == (SERVED,)


def test_who_is_gone_does_not_come_back_by_waiting() -> None:
    assert waiting().keep_served(EMPTY, {DB: (SERVED,)}) == EMPTY


def test_a_plan_tells_who_waits() -> None:
    told = waiting().tell(plan(SERVED, instance("web", 3, "route=web.test")))
    assert [(each.name, each.warnings) for each in told.services] == [
        ("db", ("served as before: waits for others",)),
        ("web", ()),
    ]


def test_who_waited_and_is_at_fault_is_left_out_until_it_changes() -> None:
    """What it looked like is told by when it began to wait: the catalog at hand shows it as served."""
    refusals = waiting()
    refusals.convict(replace(WAITS, reason="at fault"), until=2 * LATER)
    assert refusals.as_served[DB].reason == "at fault"
    assert not refusals.quarantines
    refusals.review(catalog(CHANGED), LATER + 1)
    assert refusals.names == {DB}
    refusals.review(catalog(SERVED), LATER + 1)
    assert refusals.names == set()


def test_nothing_is_forgiven_to_who_is_served_as_before() -> None:
    refusals = waiting()
    refusals.count_setback(DB)
    refusals.forgive([DB])
    assert refusals.count_setback(DB) == 1


def test_only_what_is_stated_since_it_went_live_is_new() -> None:
    live = {DB: (SERVED,)}
    newcomer = instance("db", 2, "protocol=tcp", "listen=15433")
    assert states_anew(DB, catalog(CHANGED), live)
    assert states_anew(DB, catalog(SERVED, newcomer), live)
    assert not states_anew(DB, catalog(replace(SERVED, health=Health.CRITICAL)), live)
    assert not states_anew(DB, EMPTY, live)
    assert not states_anew(DB, catalog(CHANGED), {})
