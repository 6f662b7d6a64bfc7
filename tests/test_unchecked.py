"""Which instances keep their health while their agent has not checked them. Pure: the clock is an argument."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from proxygen.model import Catalog, Health, Instance
from proxygen.unchecked import Unchecked
from tests.plan.catalogs import catalog, instance

LIMIT = 300.0


def served(**fields: Any) -> Instance:
    return instance("web", 1, "route=web.example.com", **fields)


def unchecked(one: Instance, **fields: Any) -> Instance:
    return replace(one, health=Health.CRITICAL, unchecked=True, **fields)


def knowing(*instances: Instance) -> Unchecked:
    known = Unchecked(LIMIT)
    known.accept(catalog(*instances))
    return known


def health(seen: Catalog) -> list[Health]:
    return [one.health for instances in seen.services.values() for one in instances]


@pytest.mark.parametrize("before", [Health.PASSING, Health.WARNING])
def test_what_nginx_serves_keeps_its_health(before: Health) -> None:
    known = knowing(served(health=before))
    found, begun = known.keep(catalog(unchecked(served())), 0)
    assert health(found) == [before]
    assert [one.id for one in begun] == ["web-1"]
    # Still told apart, for those who ask why it serves.
    assert all(one.unchecked for one in found.services[served().service])


def test_it_is_told_once_and_goes_on_as_it_goes_live() -> None:
    known = knowing(served())
    found, _ = known.keep(catalog(unchecked(served())), 0)
    known.accept(found)
    found, begun = known.keep(catalog(unchecked(served())), 10)
    assert (health(found), begun) == ([Health.PASSING], ())


def test_a_check_that_ran_decides() -> None:
    known = knowing(served())
    known.keep(catalog(unchecked(served())), 0)
    found, _ = known.keep(catalog(served(health=Health.CRITICAL)), 1)
    assert health(found) == [Health.CRITICAL]


@pytest.mark.parametrize("before", [Health.CRITICAL, Health.MAINTENANCE])
def test_what_did_not_serve_before_does_not_now(before: Health) -> None:
    found, begun = knowing(served(health=before)).keep(catalog(unchecked(served())), 0)
    assert (health(found), begun) == ([Health.CRITICAL], ())


@pytest.mark.parametrize("change", [{"address": "10.9.9.9"}, {"port": 1}, {"create_index": 99}, {"id": "x"}])
def test_another_registration_is_not_believed(change: dict[str, Any]) -> None:
    found, begun = knowing(served()).keep(catalog(unchecked(served(), **change)), 0)
    assert (health(found), begun) == ([Health.CRITICAL], ())


def test_new_tags_are_taken_and_the_old_health_stays() -> None:
    changed = unchecked(served(), tags=("proxygen.route=new.example.com",), modify_index=50)
    found, _ = knowing(served()).keep(catalog(changed), 0)
    [[one]] = found.services.values()
    assert (one.tags, one.health) == (changed.tags, Health.PASSING)


def test_it_lasts_for_the_limit_and_longer_while_consul_cannot_be_asked() -> None:
    known = knowing(served())
    seen = catalog(unchecked(served()))
    assert health(known.keep(seen, 1000)[0]) == [Health.PASSING]
    assert health(known.keep(seen, 1000 + LIMIT - 1)[0]) == [Health.PASSING]
    assert health(known.keep(seen, 1000 + LIMIT, fresh=False)[0]) == [Health.PASSING]
    assert health(known.keep(seen, 1000 + LIMIT)[0]) == [Health.CRITICAL]


def test_an_agent_that_starts_again_later_begins_anew() -> None:
    known = knowing(served())
    known.keep(catalog(unchecked(served())), 0)
    known.keep(catalog(served()), 10)
    assert health(known.keep(catalog(unchecked(served())), LIMIT + 5)[0]) == [Health.PASSING]


def test_others_and_their_order_are_left_alone() -> None:
    two, shop = instance("web", 2), instance("shop", 3)
    before = catalog(served(), two, shop)
    assert knowing(served(), two, shop).keep(before, 0) == (before, ())
    found, _ = knowing(served(), two, shop).keep(catalog(unchecked(served()), two, shop), 0)
    assert found.services[shop.service] == (shop,)
    assert found.services[two.service][1] == two
    assert found.index == before.index
