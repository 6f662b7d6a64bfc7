"""Which instances keep their health while their agent has not checked them. Pure: the clock is an argument."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from proxygen.catalog import Catalog, Health, Instance
from proxygen.proxy.guard.unchecked import Kept, Unchecked
from tests.proxy.plan.catalogs import catalog, instance

LIMIT = 300.0


def served(**fields: Any) -> Instance:
    return instance("web", 1, "route=web.example.com", **{"speaks": True, **fields})


def unchecked(one: Instance, **fields: Any) -> Instance:
    return replace(one, health=Health.CRITICAL, unchecked=True, speaks=False, **fields)


def knowing(*instances: Instance) -> Unchecked:
    known = Unchecked(LIMIT)
    known.accept(catalog(*instances))
    return known


def health(seen: Catalog) -> list[Health]:
    return [one.health for instances in seen.services.values() for one in instances]


@pytest.mark.parametrize("before", [Health.PASSING, Health.WARNING])
def test_what_nginx_serves_keeps_its_health(before: Health) -> None:
    known = knowing(served(health=before))
    kept = known.keep(catalog(unchecked(served())), 0)
    assert health(kept.catalog) == [before]
    assert [one.id for one in kept.begun] == ["web-1"]
    # Still told apart, for those who ask why it serves.
    assert all(one.unchecked for one in kept.catalog.services[served().service])


def test_it_is_told_once_and_goes_on_as_it_goes_live() -> None:
    known = knowing(served())
    known.accept(known.keep(catalog(unchecked(served())), 0).catalog)
    kept = known.keep(catalog(unchecked(served())), 10)
    assert (health(kept.catalog), kept.begun) == ([Health.PASSING], ())
    # Once more: what stands for it still knows that its agent speaks.
    known.accept(kept.catalog)
    assert health(known.keep(catalog(unchecked(served())), 20).catalog) == [Health.PASSING]


def test_a_check_that_ran_decides() -> None:
    known = knowing(served())
    known.keep(catalog(unchecked(served())), 0)
    failed = known.keep(catalog(served(health=Health.CRITICAL)), 1)
    assert (health(failed.catalog), failed.due) == ([Health.CRITICAL], None)


@pytest.mark.parametrize("before", [Health.CRITICAL, Health.MAINTENANCE])
def test_what_did_not_serve_before_does_not_now(before: Health) -> None:
    kept = knowing(served(health=before)).keep(catalog(unchecked(served())), 0)
    assert (health(kept.catalog), kept.begun) == ([Health.CRITICAL], ())


def test_what_failed_while_nothing_went_live_is_not_forgotten() -> None:
    """Plans are held back, say by a pin, and nginx serves on by the catalog of before."""
    known = knowing(served())
    known.keep(catalog(served(health=Health.CRITICAL)), 1)
    assert health(known.keep(catalog(unchecked(served())), 2).catalog) == [Health.CRITICAL]
    known.keep(catalog(served()), 3)
    assert health(known.keep(catalog(unchecked(served())), 4).catalog) == [Health.PASSING]


def test_silence_tells_nothing_of_an_agent_that_never_speaks() -> None:
    """With ``discard_check_output`` a check that ran and failed has no output either."""
    known = knowing(served(speaks=False))
    assert health(known.keep(catalog(unchecked(served())), 0).catalog) == [Health.CRITICAL]


def test_in_another_datacenter_it_is_the_same() -> None:
    far = served(datacenter="dc2")
    known = Unchecked(LIMIT)
    known.accept(replace(catalog(), elsewhere={"dc2": {far.service: (far,)}}))
    kept = known.keep(replace(catalog(), elsewhere={"dc2": {far.service: (unchecked(far),)}}), 0)
    assert [one.health for one in kept.catalog.elsewhere["dc2"][far.service]] == [Health.PASSING]
    assert len(kept.begun) == 1


@pytest.mark.parametrize("change", [{"address": "10.9.9.9"}, {"port": 1}, {"create_index": 99}, {"id": "x"}])
def test_another_registration_is_not_believed(change: dict[str, Any]) -> None:
    kept = knowing(served()).keep(catalog(unchecked(served(), **change)), 0)
    assert (health(kept.catalog), kept.begun) == ([Health.CRITICAL], ())


def test_new_tags_are_taken_and_the_old_health_stays() -> None:
    changed = unchecked(served(), tags=("proxygen.route=new.example.com",), modify_index=50)
    [[one]] = knowing(served()).keep(catalog(changed), 0).catalog.services.values()
    assert (one.tags, one.health) == (changed.tags, Health.PASSING)


def test_it_lasts_for_the_limit_and_longer_while_consul_cannot_be_asked() -> None:
    known = knowing(served())
    seen = catalog(unchecked(served()))
    found = known.keep(seen, 1000)
    assert (health(found.catalog), found.due) == ([Health.PASSING], LIMIT)
    found = known.keep(seen, 1000 + LIMIT - 1)
    assert (health(found.catalog), found.due) == ([Health.PASSING], 1)
    found = known.keep(seen, 1000 + LIMIT + 7, fresh=False)
    assert (health(found.catalog), found.due) == ([Health.PASSING], -7)
    found = known.keep(seen, 1000 + LIMIT)
    assert (health(found.catalog), found.due) == ([Health.CRITICAL], None)


def test_without_a_limit_nothing_is_kept() -> None:
    known = Unchecked(0)
    known.accept(catalog(served()))
    assert health(known.keep(catalog(unchecked(served())), 0, fresh=False).catalog) == [Health.CRITICAL]


def test_an_agent_that_starts_again_later_begins_anew() -> None:
    known = knowing(served())
    known.keep(catalog(unchecked(served())), 0)
    known.keep(catalog(served()), 10)
    assert health(known.keep(catalog(unchecked(served())), LIMIT + 5).catalog) == [Health.PASSING]


def test_others_and_their_order_are_left_alone() -> None:
    two, shop = instance("web", 2), instance("shop", 3)
    before = catalog(served(), two, shop)
    assert knowing(served(), two, shop).keep(before, 0) == Kept(catalog=before)
    found = knowing(served(), two, shop).keep(catalog(unchecked(served()), two, shop), 0).catalog
    assert found.services[shop.service] == (shop,)
    assert found.services[two.service][1] == two
    assert found.index == before.index


def test_what_is_kept_the_longest_is_due_first_and_only_what_is_new_is_told() -> None:
    ones = [instance(name, number, speaks=True) for number, name in enumerate(("web", "shop", "api"), 1)]
    known = knowing(*ones)
    first = known.keep(catalog(ones[0], ones[1], unchecked(ones[2])), 100)
    assert ([one.id for one in first.begun], first.due) == (["api-3"], LIMIT)
    second = known.keep(catalog(*map(unchecked, ones)), 140)
    assert ([one.id for one in second.begun], second.due) == (["shop-2", "web-1"], LIMIT - 40)
    third = known.keep(catalog(*map(unchecked, ones)), 100 + LIMIT)
    assert (third.begun, third.due) == ((), 40)
    assert sorted(health(third.catalog)) == [Health.CRITICAL, Health.PASSING, Health.PASSING]


def test_each_instance_keeps_the_health_that_it_had_itself() -> None:
    ones = [
        instance("web", 1, speaks=True),
        instance("web", 2, speaks=True, health=Health.WARNING),
        instance("web", 3, speaks=True),
    ]
    kept = knowing(*ones).keep(catalog(*map(unchecked, ones)), 0).catalog
    assert health(kept) == [Health.PASSING, Health.WARNING, Health.PASSING]
    assert all(one.speaks for instances in kept.services.values() for one in instances)


@pytest.mark.parametrize("change", [{"node": "elsewhere"}, {"datacenter": "dc9"}])
def test_the_same_id_elsewhere_is_another_instance(change: dict[str, Any]) -> None:
    assert health(knowing(served()).keep(catalog(unchecked(served(), **change)), 0).catalog) == [Health.CRITICAL]


def test_a_failure_while_unchecked_is_kept_apart_for_each_instance() -> None:
    one, two = served(), instance("web", 2, speaks=True)
    known = knowing(one, two)
    known.keep(catalog(replace(one, health=Health.CRITICAL), two), 1)
    assert health(known.keep(catalog(unchecked(one), unchecked(two)), 2).catalog) == [Health.CRITICAL, Health.PASSING]
    # It goes on while it is seen unchecked, and until it was seen healthy.
    assert health(known.keep(catalog(unchecked(one), unchecked(two)), 3).catalog) == [Health.CRITICAL, Health.PASSING]


def test_what_is_live_last_counts() -> None:
    known = knowing(served())
    known.accept(catalog(served(health=Health.CRITICAL)))
    assert health(known.keep(catalog(unchecked(served())), 0).catalog) == [Health.CRITICAL]
    known.accept(catalog(served(health=Health.WARNING)))
    assert health(known.keep(catalog(unchecked(served())), 1).catalog) == [Health.WARNING]


def test_before_anything_is_live_nothing_is_kept() -> None:
    seen = catalog(unchecked(served()))
    assert Unchecked(LIMIT).keep(seen, 0) == Kept(catalog=seen)


def test_a_limit_may_be_less_than_a_second() -> None:
    known = Unchecked(0.5)
    known.accept(catalog(served()))
    found = [health(known.keep(catalog(unchecked(served())), now).catalog) for now in (0, 0.4, 0.5)]
    assert found == [[Health.PASSING], [Health.PASSING], [Health.CRITICAL]]
