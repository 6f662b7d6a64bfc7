"""When a refused service gets another chance, and when not."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from proxygen.catalog import Catalog, Health, Instance, ServiceName
from proxygen.proxy.plan.types import Quarantine
from proxygen.proxy.quarantine.refusals import FORGOTTEN, Refusals
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


# --- those that change all the time


def stating(number: int) -> Catalog:
    return catalog(instance("db", 1, *TAGS, f"timeout={number + 10}s"))


def chances(refusals: Refusals, *, seconds: int, until: float, newest: Callable[[int], Catalog] = stating) -> list[int]:
    """The seconds at which a service got another chance that states something else each second, and is refused again
    each time."""
    found = []
    quarantine = Quarantine(service=DB, place="", reason="no")
    refusals.refuse(quarantine, newest(0), until=until)
    for second in range(1, seconds):
        refusals.review(newest(second), float(second))
        if DB not in refusals.names:
            found.append(second)
            refusals.refuse(quarantine, newest(second), until=until)
    return found


@pytest.mark.parametrize("until", [math.inf, 1e6], ids=["by a gate", "by a reload"])
def test_who_corrects_a_mistake_is_tried_at_once_and_who_changes_all_the_time_ever_more_rarely(until: float) -> None:
    found = chances(Refusals("proxygen"), seconds=400, until=until)
    assert found == [1, 2, 4, 8, 16, 32, 64, 124, 184, 244, 304, 364]


def test_who_goes_and_comes_back_all_the_time_is_tried_no_more_often() -> None:
    found = chances(
        Refusals("proxygen"), seconds=400, until=math.inf, newest=lambda second: stating(0) if second % 2 else EMPTY
    )
    assert len(found) <= 12


def test_a_pause_that_ends_by_itself_does_so_though_the_service_changes() -> None:
    refusals = refused(by_reload=True)
    refusals.review(stating(1), 90.0)
    for _ in range(6):
        refusals.refuse(Quarantine(service=DB, place="", reason="no"), stating(1), until=LATER)
        refusals.review(stating(2), 91.0)
        refusals.review(stating(2), LATER - 0.1)
    assert not stands(refusals, stating(2), LATER)


def test_when_the_next_chance_comes_is_said() -> None:
    refusals = refused(by_reload=False)
    assert refusals.review(catalog(instance("db", 1, *TAGS)), 5.0) is None
    assert refusals.review(stating(1), 10.0) is None, "at once"
    refusals.refuse(Quarantine(service=DB, place="", reason="no"), stating(1))
    assert refusals.review(stating(2), 10.25) == 0.75
    assert refusals.review(stating(2), 11.0) is None
    refusals.refuse(Quarantine(service=DB, place="", reason="no"), stating(2), until=12.0)
    assert refusals.review(stating(3), 11.5) == 0.5, "the pause ends before that"


def test_who_did_not_change_for_long_corrects_a_mistake_at_once_again() -> None:
    refusals = Refusals("proxygen")
    last = chances(refusals, seconds=400, until=math.inf)[-1]
    assert stands(refusals, stating(1), last + 59)
    assert not stands(refusals, stating(1), last + 60)
    refusals.refuse(Quarantine(service=DB, place="", reason="no"), stating(1))
    assert not stands(refusals, stating(2), last + 60 + FORGOTTEN)
    refusals.refuse(Quarantine(service=DB, place="", reason="no"), stating(2))
    assert not stands(refusals, stating(3), last + 61 + FORGOTTEN)


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


def test_where_all_that_were_served_went_those_that_came_state_what_was_served() -> None:
    newcomer = instance("db", 2, "protocol=tcp", "listen=15433", meta=(("proxygen-timeout", "1m"), ("build", "17")))
    (kept,) = waiting().keep_served(catalog(newcomer), {DB: (SERVED,)}).services[DB]
    assert (kept.key, kept.address, kept.health) == (newcomer.key, newcomer.address, newcomer.health)
    assert kept.tags == SERVED.tags
    assert kept.meta == (("build", "17"),)


def said(*instances: Instance) -> list[tuple[str, ...]]:
    return [tuple(tag.removeprefix("proxygen.") for tag in one.tags) for one in instances]


def test_who_comes_states_what_its_own_variant_did() -> None:
    served = (
        instance("db", 1, "route=a.test"),
        instance("db", 2, "route=b.test"),
        instance("db", 3, "route=a.test", "canary=1%"),
        replace(instance("db", 4), meta=(("proxygen-route", "a.test"), ("proxygen-variant", "blue:2%"))),
    )
    came = (
        instance("db", 11, "route=new.test"),
        instance("db", 12, "route=new.test"),
        instance("db", 13, "route=new.test", "canary=50%"),
        instance("db", 14, "route=new.test", "variant=blue:50%"),
        instance("db", 15, "route=new.test", "variant=green:50%"),
    )
    kept = waiting().keep_served(catalog(*came), {DB: served}).services[DB]
    assert [one.address for one in kept] == [one.address for one in came[:4]], "green was not served, and others are"
    assert said(*kept[:3]) == [("route=b.test",), ("route=a.test",), ("route=a.test", "canary=1%")]
    assert dict(kept[3].meta) == dict(served[3].meta)


def test_where_no_variant_is_as_before_all_that_came_serve() -> None:
    came = instance("db", 11, "route=new.test", "variant=green:50%")
    kept = waiting().keep_served(catalog(came), {DB: (instance("db", 1, "route=a.test"),)}).services[DB]
    assert [(one.address, *one.tags) for one in kept] == [("10.0.0.11", "proxygen.route=a.test")]


def test_who_comes_has_its_own_weight() -> None:
    """What left was drained before that, mostly."""
    served = instance("db", 1, "route=a.test", "weight=0", meta=(("proxygen-weight", "0"),))
    came = (instance("db", 11, "route=new.test", "weight=3"), instance("db", 12, "route=new.test"))
    kept = waiting().keep_served(catalog(*came), {DB: (served,)}).services[DB]
    assert said(*kept) == [("weight=3", "route=a.test"), ("route=a.test",)]
    assert [one.meta for one in kept] == [(), ()]


def test_a_service_of_which_nothing_is_live_has_nothing_to_state() -> None:
    assert waiting().keep_served(catalog(CHANGED), {DB: ()}).services[DB] == ()


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
    refusals = Refusals("proxygen")
    assert refusals.states_anew(DB, catalog(CHANGED), live)
    assert refusals.states_anew(DB, catalog(SERVED, newcomer), live)
    assert refusals.states_anew(DB, catalog(SERVED, instance("db", 2, *TAGS)), live)
    assert refusals.states_anew(DB, catalog(newcomer), live)
    assert not refusals.states_anew(DB, catalog(instance("db", 2, *TAGS)), live)
    assert not refusals.states_anew(DB, catalog(replace(SERVED, health=Health.CRITICAL)), live)
    assert not refusals.states_anew(DB, catalog(replace(SERVED, tags=("build-17", *SERVED.tags))), live)
    assert not refusals.states_anew(DB, EMPTY, live)
    assert not refusals.states_anew(DB, catalog(CHANGED), {})
