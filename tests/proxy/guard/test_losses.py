"""What is held, what is not, and how a hold ends. Pure: the clock is an argument."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxygen.catalog import Catalog, Health, Instance, ServiceName
from proxygen.proxy.guard.losses import Guard, Held, Limits
from proxygen.proxy.plan import plan_routes
from proxygen.proxy.plan.types import Plan, Policy
from tests.proxy.plan.catalogs import instance

POLICY = Policy()


def fleet(sizes: Mapping[str, int], *, index: int = 1000, **fields: Any) -> Catalog:
    """Services of these sizes, all passing."""
    return Catalog(
        datacenter="dc1",
        services={
            ServiceName(name): tuple(
                instance(name, number, f"route={name}.example.com", **fields) for number in range(1, size + 1)
            )
            for name, size in sizes.items()
        },
        index=index,
    )


def without(catalog: Catalog, **gone: Iterable[int] | None) -> Catalog:
    """The catalog after some instances of each service went; None for all of them."""
    services = dict(catalog.services)
    for name, numbers in gone.items():
        wanted = () if numbers is None else {f"{name}-{number}" for number in numbers}
        services[ServiceName(name)] = (
            () if numbers is None else tuple(one for one in services[ServiceName(name)] if one.id not in wanted)
        )
    return replace(catalog, services=services, index=catalog.index + 1)


def with_health(catalog: Catalog, health: Health, *names: str) -> Catalog:
    services = dict(catalog.services)
    for name in names:
        services[ServiceName(name)] = tuple(replace(one, health=health) for one in services[ServiceName(name)])
    return replace(catalog, services=services)


class Watchman:
    """A guard with the catalogs it is shown; what it lets through goes live."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.guard = Guard(limits or Limits())
        self.live: Catalog | None = None

    def see(self, catalog: Catalog, now: float, *, fresh: bool = True) -> Held | None:
        held = self.guard.judge(planned(catalog), catalog, now, fresh=fresh)
        self.live = catalog if held is None else held.catalog
        self.guard.accept(planned(self.live), self.live, now)
        return held

    def serving(self, name: str) -> set[str]:
        assert self.live is not None
        return {one.id for one in self.live.services.get(ServiceName(name), ()) if one.health is Health.PASSING}


def planned(catalog: Catalog) -> Plan:
    return plan_routes(catalog, POLICY)


def watching(catalog: Catalog, limits: Limits | None = None) -> Watchman:
    watchman = Watchman(limits)
    assert watchman.see(catalog, 0) is None
    return watchman


FOUR = fleet({"a": 3, "b": 3, "c": 3, "d": 3})
EIGHT = fleet(dict.fromkeys("abcdefgh", 3))


# --- what is held


def test_the_first_plan_is_never_held() -> None:
    assert Watchman().see(fleet({}), 0) is None


def test_half_of_all_servers_may_go() -> None:
    watchman = watching(FOUR)
    assert watchman.see(without(FOUR, a=None, b=None), 1) is None
    assert not watchman.serving("a")


@pytest.mark.parametrize("how", ["deregistered", "critical"])
def test_more_than_half_is_held(how: str) -> None:
    watchman = watching(FOUR)
    after = (
        without(FOUR, a=None, b=None, c=None)
        if how == "deregistered"
        else with_health(FOUR, Health.CRITICAL, "a", "b", "c")
    )
    held = watchman.see(after, 1)
    assert held is not None
    assert held.services == {"a": 3, "b": 3, "c": 3}
    assert "9 of 12" in held.reason
    assert "release-hold" in held.reason
    assert watchman.serving("a") == {"a-1", "a-2", "a-3"}


def test_what_is_held_no_longer_waits_for_a_check() -> None:
    """It was kept because its agent had just started; that is over, and the hold has a reason of its own."""
    unchecked = fleet({"a": 3, "b": 3, "c": 3, "d": 3}, unchecked=True)
    held = watching(unchecked).see(with_health(unchecked, Health.CRITICAL, "a", "b", "c"), 1)
    assert held is not None
    assert not any(one.unchecked for name in held.services for one in held.catalog.services[name])


def test_losses_are_counted_together_within_the_window() -> None:
    watchman = watching(FOUR)
    assert watchman.see(without(FOUR, a=None), 1) is None
    assert watchman.see(without(FOUR, a=None, b=None), 30) is None
    held = watchman.see(without(FOUR, a=None, b=None, c=[1]), 59)
    assert held is not None
    assert "7 of 12" in held.reason


def test_what_went_first_comes_back_once_it_is_known_what_follows() -> None:
    """A network that splits takes the nodes one by one; the first services were emptied before half was gone."""
    watchman = watching(FOUR)
    watchman.see(without(FOUR, a=None), 1)
    watchman.see(without(FOUR, a=None, b=[1, 3]), 2)
    assert not watchman.serving("a")
    watchman.see(without(FOUR, a=None, b=None, c=None), 3)
    assert watchman.serving("a") == {"a-1", "a-2", "a-3"}
    assert watchman.serving("b") == {"b-1", "b-2", "b-3"}
    assert watchman.see(without(FOUR, a=None, b=None, c=None), 200) is not None, "longer than the window"
    assert watchman.serving("b") == {"b-1", "b-2", "b-3"}


def test_one_that_served_nobody_when_it_went_does_not_come_back() -> None:
    """It was in maintenance; the rest of its service followed, and then so much that all of it is held."""
    one, *others = FOUR.services[ServiceName("a")]
    taken = {**FOUR.services, ServiceName("a"): (replace(one, health=Health.MAINTENANCE), *others)}
    before = replace(FOUR, services=taken)
    watchman = watching(before)
    assert watchman.see(without(before, a=None), 1) is None
    assert watchman.see(without(before, a=None, b=None, c=None), 2) is not None
    assert watchman.live is not None
    assert {one.id for one in watchman.live.services[ServiceName("a")]} == {"a-2", "a-3"}


def test_a_service_that_is_gone_for_good_is_forgotten() -> None:
    watchman = watching(FOUR)
    for number in range(50):
        watchman.see(fleet({"a": 3, "b": 3, "c": 3, f"passing-{number}": 1}), number * 1_000.0)
    assert set(watchman.guard._known) == {"a", "b", "c", "passing-49"}


def test_of_what_was_replaced_before_nothing_comes_back() -> None:
    watchman = watching(FOUR)
    deployed = without(FOUR, a=[1])
    watchman.see(deployed, 1)
    newcomer = instance("a", 9, "route=a.example.com")
    deployed = replace(
        deployed, services={**deployed.services, ServiceName("a"): (*deployed.services[ServiceName("a")], newcomer)}
    )
    watchman.see(deployed, 2)
    watchman.see(without(deployed, a=[9], b=None, c=None, d=None), 3)
    assert watchman.serving("a") == {"a-2", "a-3", "a-9"}


def test_losses_of_an_earlier_window_are_not_counted() -> None:
    watchman = watching(FOUR)
    assert watchman.see(without(FOUR, a=None, b=None), 1) is None
    assert watchman.see(without(FOUR, a=None, b=None, c=None), 62) is None


def test_one_small_service_may_lose_all_it_has_however_few_services_there_are() -> None:
    watchman = watching(fleet({"a": 3}))
    assert watchman.see(without(fleet({"a": 3}), a=None), 1) is None


def test_one_large_service_may_not() -> None:
    watchman = watching(fleet({"a": 8, "b": 1}))
    assert watchman.see(without(fleet({"a": 8, "b": 1}), a=[1, 2, 3, 4, 5]), 1) is not None


@pytest.mark.parametrize("health", [Health.MAINTENANCE])
def test_maintenance_is_no_loss(health: Health) -> None:
    watchman = watching(FOUR)
    assert watchman.see(with_health(FOUR, health, "a", "b", "c", "d"), 1) is None


def test_draining_is_no_loss() -> None:
    watchman = watching(FOUR)
    drained = replace(
        FOUR,
        services={
            name: tuple(replace(one, tags=(*one.tags, "proxygen.weight=0")) for one in instances)
            for name, instances in FOUR.services.items()
        },
    )
    assert watchman.see(drained, 1) is None


def test_a_quarantine_is_no_loss() -> None:
    """Whoever writes a tag that does not parse finds his service quarantined, and nothing held."""
    watchman = watching(FOUR)
    broken = replace(
        FOUR,
        services={
            name: tuple(replace(one, tags=(*one.tags, "proxygen.weight=x")) for one in instances)
            for name, instances in FOUR.services.items()
        },
    )
    assert watchman.see(broken, 1) is None


def test_replaced_instances_are_no_loss() -> None:
    """A rolling deploy of everything: other ids, as many servers."""
    watchman = watching(FOUR)
    services = {
        name: tuple(replace(one, id=f"new-{one.id}") for one in instances) for name, instances in FOUR.services.items()
    }
    assert watchman.see(replace(FOUR, services=services), 1) is None
    assert watchman.serving("a") == {"new-a-1", "new-a-2", "new-a-3"}


def test_what_went_exactly_a_window_ago_still_counts() -> None:
    for second, is_held in ((61, True), (61.5, False)):
        watchman = watching(FOUR)
        assert watchman.see(without(FOUR, a=None, b=None), 1) is None
        assert (watchman.see(without(FOUR, a=None, b=None, c=[1]), second) is not None) is is_held


@pytest.mark.parametrize(("size", "is_held"), [(4, False), (5, True)])
def test_what_one_service_may_lose_alone_is_less_than_five(size: int, *, is_held: bool) -> None:
    watchman = watching(fleet({"a": size, "b": 1}))
    assert (watchman.see(without(fleet({"a": size, "b": 1}), a=None), 1) is not None) is is_held


@pytest.mark.parametrize(("loss", "is_held"), [(0.25, True), (0.75, False)])
def test_the_operator_says_what_part_of_all_servers_is_suspicious(loss: float, *, is_held: bool) -> None:
    watchman = watching(FOUR, Limits(loss=loss))
    held = watchman.see(without(FOUR, a=None, b=[1, 2]), 1)
    assert (held is not None) is is_held
    assert held is None or "5 of 12 servers went within 1m, more than guard.loss = 0.25" in held.reason


def test_instances_that_are_new_make_up_for_none_of_another_service() -> None:
    watchman = watching(FOUR)
    gone = without(FOUR, a=None, b=None, c=None)
    assert watchman.see(replace(gone, services={**gone.services, **fleet({"e": 90}).services}), 1) is not None


def test_a_drained_instance_and_one_in_maintenance_are_still_there() -> None:
    """Two of three were taken out by somebody; the third is no loss of three."""
    watchman = watching(FOUR, Limits(minimum={"a": 3}))
    services = dict(FOUR.services)
    one, two, three = services[ServiceName("a")]
    taken = (replace(one, health=Health.MAINTENANCE), replace(two, tags=(*two.tags, "proxygen.weight=0")), three)
    assert watchman.see(replace(FOUR, services={**services, ServiceName("a"): taken}), 1) is None
    held = watchman.see(replace(FOUR, services={**services, ServiceName("a"): taken[1:]}), 2)
    assert held is None, "of the one that served one is left"


# --- a held service and the others


def test_holding_some_services_never_holds_the_others() -> None:
    watchman = watching(FOUR)
    gone = without(FOUR, a=None, b=None, c=None)
    grown = {**gone.services, **fleet({"d": 5, "e": 2}).services}
    held = watchman.see(replace(gone, services=grown), 1)
    assert held is not None
    assert "d" not in held.services
    assert watchman.serving("d") == {f"d-{number}" for number in range(1, 6)}
    assert watchman.serving("e") == {"e-1", "e-2"}


@pytest.mark.incident("T52")
def test_who_loses_most_of_all_servers_is_held_and_nobody_elses_removals_are() -> None:
    everybody = fleet({"tenant": 38, "web": 4, "shop": 3, "mail": 1})
    watchman = watching(everybody)
    held = watchman.see(without(everybody, tenant=range(1, 31)), 1)
    assert held is not None
    assert held.services == {"tenant": 30}
    for second, left in enumerate(({"web": [1]}, {"web": [1], "shop": [2]}, {"web": [1, 2], "shop": [2]}), 2):
        held = watchman.see(without(everybody, tenant=range(1, 31), **left), second)
        assert held is not None
        assert held.services == {"tenant": 30}
        for name, numbers in left.items():
            assert not watchman.serving(name) & {f"{name}-{number}" for number in numbers}
    assert len(watchman.serving("tenant")) == 38


@pytest.mark.incident("T52")
def test_a_tenant_with_several_services_is_held_with_all_of_them() -> None:
    """The last server of a small service of somebody else's is not."""
    everybody = fleet({"one": 15, "two": 15, "three": 15, "web": 4, "shop": 3, "mail": 1, "chat": 2, "wiki": 2})
    held = watching(everybody).see(without(everybody, one=None, two=None, three=None, web=[1], mail=None), 1)
    assert held is not None
    assert held.services == {"one": 15, "two": 15, "three": 15}


def test_of_two_that_lost_as_much_both_are_held_though_one_would_be_enough() -> None:
    everybody = fleet({"one": 8, "two": 8, "a": 4, "b": 4, "c": 4, "d": 2})
    held = watching(everybody).see(without(everybody, one=None, two=None), 1)
    assert held is not None
    assert held.services == {"one": 8, "two": 8}


def test_a_service_that_is_held_alone_is_believed_in_its_own_time_and_hurries_nobodys() -> None:
    """What Consul loses just before is held for as long as ever."""
    everybody = fleet({"tenant": 30, "web": 4, "shop": 4, "mail": 4})
    watchman = watching(everybody)
    alone = without(everybody, tenant=None)
    held = watchman.see(alone, 1)
    assert held is not None
    assert held.due == 300
    gone = without(everybody, tenant=None, web=None, shop=None, mail=None)
    held = watchman.see(gone, 200)
    assert held is not None
    assert held.services == {"tenant": 30, "web": 4, "shop": 4, "mail": 4}
    assert held.due == 101
    held = watchman.see(gone, 301)
    assert held is not None
    assert held.services == {"web": 4, "shop": 4, "mail": 4}
    assert not watchman.serving("tenant")
    back = watching(everybody)
    for second in (1, 200, 301):
        back.see(alone if second == 1 else gone, second)
    assert back.see(without(everybody, tenant=None, web=[1]), 310) is None, "what was believed counts no more"
    held = watchman.see(gone, 499)
    assert held is not None
    assert held.due == 1
    assert watchman.see(gone, 500) is None


def test_what_is_believed_of_one_service_is_over_and_counts_no_more() -> None:
    everybody = fleet({"tenant": 30, "web": 4, "shop": 4})
    watchman = watching(everybody)
    gone = without(everybody, tenant=None)
    assert watchman.see(gone, 1) is not None
    assert watchman.see(without(everybody, tenant=None, web=[1]), 290) is not None
    assert watchman.see(without(everybody, tenant=None, web=[1]), 301) is None
    assert watchman.see(without(everybody, tenant=None, web=[1, 2], shop=[1]), 302) is None
    assert not watchman.serving("tenant")


def test_servers_that_come_back_one_by_one_leave_the_others_held() -> None:
    """Consul recovers: what it lost and has not found again is no more its services' own doing than before."""
    watchman = watching(FOUR)
    gone = without(FOUR, a=None, b=None, c=None)
    assert watchman.see(gone, 1) is not None
    held = watchman.see(without(FOUR, a=[1], b=None, c=None), 2)
    assert held is not None
    assert held.services == {"a": 1, "b": 3, "c": 3}


def test_what_comes_to_a_held_service_is_taken_in() -> None:
    watchman = watching(FOUR)
    gone = without(FOUR, a=None, b=None, c=None)
    newcomer = instance("a", 9, "route=a.example.com")
    watchman.see(gone, 1)
    watchman.see(replace(gone, services={**gone.services, ServiceName("a"): (newcomer,)}), 2)
    assert watchman.serving("a") == {"a-1", "a-2", "a-3", "a-9"}


def test_a_service_is_no_longer_held_once_as_many_are_back_as_there_were() -> None:
    watchman = watching(FOUR)
    gone = without(FOUR, a=None, b=None, c=None)
    watchman.see(gone, 1)
    back = tuple(instance("a", number, "route=a.example.com") for number in (7, 8, 9))
    held = watchman.see(replace(gone, services={**gone.services, ServiceName("a"): back}), 5)
    assert watchman.serving("a") == {"a-7", "a-8", "a-9"}
    assert held is None, "six of twelve are no more than half"
    assert not watchman.serving("b")


def test_newcomers_that_come_one_by_one_end_a_hold_as_those_do_that_come_together() -> None:
    """As many as there were when it began, however many nginx serves meanwhile."""
    watchman = watching(FOUR)
    gone = without(FOUR, a=None, b=None, c=None)
    watchman.see(gone, 1)
    for second, numbers in ((2, (7,)), (3, (7, 8))):
        some = tuple(instance("a", number, "route=a.example.com") for number in numbers)
        held = watchman.see(replace(gone, services={**gone.services, ServiceName("a"): some}), second)
        assert held is not None
        assert held.services["a"] == 3
    back = tuple(instance("a", number, "route=a.example.com") for number in (7, 8, 9))
    assert watchman.see(replace(gone, services={**gone.services, ServiceName("a"): back}), 4) is None


def test_two_services_that_lose_one_after_the_other_are_two() -> None:
    two = fleet({"a": 2, "b": 2})
    watchman = watching(two)
    assert watchman.see(without(two, a=None), 1) is None
    held = watchman.see(without(two, a=None, b=None), 2)
    assert held is not None
    assert held.services == {"a": 2, "b": 2}


def test_of_those_that_went_before_the_last_to_go_come_back_first() -> None:
    wide = fleet({"a": 4, "b": 3, "c": 3})
    watchman = watching(wide)
    watchman.see(without(wide, a=[1]), 1)
    watchman.see(without(wide, a=[1, 2]), 2)
    newcomer = instance("a", 9, "route=a.example.com")
    deployed = without(wide, a=[1, 2])
    deployed = replace(
        deployed, services={**deployed.services, ServiceName("a"): (*deployed.services[ServiceName("a")], newcomer)}
    )
    assert watchman.see(deployed, 3) is None
    assert watchman.see(without(deployed, a=None, b=None), 4) is not None
    assert watchman.serving("a") == {"a-2", "a-3", "a-4", "a-9"}


def test_one_that_went_and_is_back_is_as_it_is_now_and_is_counted_once() -> None:
    wide = fleet({"a": 4, "b": 3, "c": 3})
    watchman = watching(wide)
    watchman.see(without(wide, a=[1, 2]), 1)
    back = replace(wide.services[ServiceName("a")][0], modify_index=4321)
    some = without(wide, a=[1, 2])
    some = replace(some, services={**some.services, ServiceName("a"): (back, *some.services[ServiceName("a")])})
    assert watchman.see(some, 2) is None
    held = watchman.see(without(some, a=[3, 4], b=None), 3)
    assert held is not None
    assert watchman.serving("a") == {"a-1", "a-2", "a-3", "a-4"}
    assert held.catalog.services[ServiceName("a")][0] == back


# --- how a hold ends


def test_a_hold_is_over_when_the_servers_are_back() -> None:
    watchman = watching(FOUR)
    assert watchman.see(without(FOUR, a=None, b=None, c=None), 1) is not None
    assert watchman.see(FOUR, 6) is None


def test_after_a_hold_is_over_the_next_one_lasts_as_long_again() -> None:
    watchman = watching(FOUR)
    gone = without(FOUR, a=None, b=None, c=None)
    assert watchman.see(gone, 1) is not None
    assert watchman.see(FOUR, 6) is None
    assert watchman.see(gone, 200) is not None
    assert watchman.see(gone, 499) is not None
    assert watchman.see(gone, 500) is None


def _eight_of_which_five_went(watchman: Watchman) -> Catalog:
    first = without(EIGHT, a=None, b=None, c=None, d=None, e=None)
    assert watchman.see(first, 1) is not None
    return first


def _let_go(watchman: Watchman, gone: Catalog) -> float:
    watchman.guard.release()
    assert watchman.see(gone, 2) is None
    return 3


def _believe(watchman: Watchman, gone: Catalog) -> float:
    assert watchman.see(gone, 301) is None
    return 302


@pytest.mark.parametrize("end", [_let_go, _believe])
def test_what_a_hold_ended_with_is_over_and_counts_no_more(end: Callable[[Watchman, Catalog], float]) -> None:
    """Nothing of the first loss is added to a later one, and the later one begins anew."""
    watchman = watching(EIGHT)
    first = _eight_of_which_five_went(watchman)
    now = end(watchman, first)
    second = without(first, f=[1, 2, 3])
    assert watchman.see(second, now) is None, "three of the nine that there are"
    third = without(second, g=[1, 2])
    held = watchman.see(third, now + 1)
    assert held is not None
    assert "5 of 9 servers" in held.reason
    assert held.services == {"g": 2, "f": 3}
    assert watchman.see(third, now + 300) is not None
    assert watchman.see(third, now + 301) is None


@pytest.mark.parametrize("end", [_let_go, _believe])
def test_what_went_before_a_hold_that_ended_is_forgotten_with_it(end: Callable[[Watchman, Catalog], float]) -> None:
    watchman = watching(EIGHT, Limits(window=1000))
    assert watchman.see(without(EIGHT, a=None), 0.5) is None
    first = _eight_of_which_five_went(watchman)
    now = end(watchman, first)
    assert watchman.see(without(first, f=None, g=[1]), now) is None, "four of the nine that there are"


@pytest.mark.parametrize("end", [_let_go, _believe])
def test_after_a_hold_ended_a_loss_as_large_is_held_again(end: Callable[[Watchman, Catalog], float]) -> None:
    watchman = watching(EIGHT)
    first = _eight_of_which_five_went(watchman)
    now = end(watchman, first)
    second = without(first, f=None, g=None)
    assert watchman.see(second, now) is not None
    assert watchman.see(second, now + 299) is not None
    assert watchman.see(second, now + 300) is None


def test_a_hold_is_told_with_whom_it_keeps_and_when_it_ends() -> None:
    watchman = watching(EIGHT)
    held = watchman.see(without(EIGHT, a=None, b=None, c=None, d=None, e=[1, 2]), 1)
    assert held is not None
    assert "; a, b, c and 2 more keep the instances" in held.reason
    assert held.reason.endswith("and after 5m it is believed")
    assert held.services == {"a": 3, "b": 3, "c": 3, "d": 3, "e": 2}
    three = watching(FOUR).see(without(FOUR, a=None, b=None, c=None), 1)
    assert three is not None
    assert "; a, b, c keep the instances" in three.reason


def test_a_minimum_that_holds_alone_names_no_end() -> None:
    held = watching(FOUR, Limits(minimum={"a": 3})).see(without(FOUR, a=[1]), 1)
    assert held is not None
    assert "guard.minimum_instances; a keeps the instances" in held.reason
    assert "believed" not in held.reason


def test_a_minimum_holds_on_after_a_mass_loss_beside_it_is_believed() -> None:
    watchman = watching(FOUR, Limits(minimum={"a": 2}))
    gone = without(FOUR, a=None, b=None, c=None)
    held = watchman.see(gone, 1)
    assert held is not None
    assert held.services.keys() == {"a", "b", "c"}
    held = watchman.see(gone, 301)
    assert held is not None
    assert held.services == {"a": 3}
    assert watchman.serving("a") == {"a-1", "a-2", "a-3"}
    assert not watchman.serving("b")


def test_the_operator_lets_go() -> None:
    watchman = watching(FOUR)
    gone = without(FOUR, a=None, b=None, c=None)
    assert watchman.see(gone, 1) is not None
    watchman.guard.release()
    assert watchman.see(gone, 2) is None
    assert watchman.see(gone, 3) is None
    assert not watchman.serving("a")


def test_letting_go_lasts_until_a_plan_is_live() -> None:
    """A candidate that a gate refuses in between changes nothing of that."""
    watchman = watching(FOUR)
    gone = without(FOUR, a=None, b=None, c=None)
    assert watchman.see(gone, 1) is not None
    watchman.guard.release()
    assert watchman.guard.judge(planned(gone), gone, 2) is None
    assert watchman.guard.judge(planned(gone), gone, 3) is None


def test_letting_go_once_lets_no_later_loss_go() -> None:
    many = fleet(dict.fromkeys("abcdefgh", 3))
    watchman = watching(many)
    first = without(many, a=None, b=None, c=None, d=None, e=None)
    watchman.see(first, 1)
    watchman.guard.release()
    watchman.see(first, 2)
    assert watchman.see(without(first, f=None, g=None), 3) is not None


def test_a_loss_that_lasts_is_believed() -> None:
    watchman = watching(FOUR)
    gone = without(FOUR, a=None, b=None, c=None)
    assert watchman.see(gone, 1) is not None
    assert watchman.see(gone, 300) is not None
    assert watchman.see(gone, 301) is None
    assert not watchman.serving("a")


def test_nothing_is_believed_while_consul_does_not_answer() -> None:
    watchman = watching(FOUR)
    gone = without(FOUR, a=None, b=None, c=None)
    assert watchman.see(gone, 1) is not None
    assert watchman.see(gone, 100_000, fresh=False) is not None
    assert watchman.see(gone, 100_001) is None


def test_no_hold_where_the_operator_wants_none() -> None:
    watchman = watching(FOUR, Limits(hold=0))
    assert watchman.see(without(FOUR, a=None, b=None, c=None), 1) is None


# --- a wiped store


def test_after_a_wipe_every_loss_is_held() -> None:
    watchman = watching(fleet({"a": 1}))
    held = watchman.see(replace(without(FOUR, a=None), index=11, services={ServiceName("a"): ()}), 1)
    assert held is not None
    assert "wiped or restored" in held.reason
    assert watchman.serving("a") == {"a-1"}


def test_a_wipe_is_not_forgotten_while_the_store_fills_again() -> None:
    watchman = watching(FOUR)
    empty = replace(without(FOUR, a=None, b=None, c=None, d=None), index=11)
    assert watchman.see(empty, 1) is not None
    some = replace(FOUR, services={**FOUR.services, ServiceName("d"): ()}, index=2000)
    held = watchman.see(some, 200)
    assert held is not None
    assert set(held.services) == {"d"}
    assert watchman.see(replace(FOUR, index=2001), 210) is None


def test_services_that_go_one_by_one_after_the_index_fell_are_held_too() -> None:
    watchman = watching(FOUR)
    assert watchman.see(replace(FOUR, index=11), 1) is None
    assert watchman.see(replace(without(FOUR, a=[1]), index=12), 3) is not None


def test_a_wipe_after_which_nothing_went_is_forgotten_after_the_window() -> None:
    for second, is_held in ((61, True), (62, False)):
        watchman = watching(FOUR)
        assert watchman.see(replace(FOUR, index=11), 1) is None
        assert (watchman.see(replace(without(FOUR, a=[1]), index=12), second) is not None) is is_held


def test_a_wipe_of_long_ago_holds_nobody_beside_a_tenant_that_leaves() -> None:
    everybody = fleet({"tenant": 30, "web": 4, "shop": 4})
    watchman = watching(everybody)
    assert watchman.see(replace(everybody, index=7), 1) is None
    for second in (100, 101, 102):
        held = watchman.see(replace(without(everybody, tenant=None, web=[1]), index=9), second)
        assert held is not None
        assert held.services == {"tenant": 30}
        assert "wiped" not in held.reason


def test_a_wipe_that_was_let_go_is_over() -> None:
    watchman = watching(FOUR)
    some = replace(without(FOUR, a=[1]), index=11)
    assert watchman.see(some, 1) is not None
    watchman.guard.release()
    assert watchman.see(some, 2) is None
    assert watchman.see(replace(without(some, b=[1]), index=12), 3) is None


PAIR = Catalog(
    datacenter="dc1",
    services={
        ServiceName("web"): tuple(
            instance("web", number, "route=web.example.com", create_index=20 + number, modify_index=20 + number)
            for number in (1, 2)
        ),
        **FOUR.services,
    },
    index=27,
)
"""A service of two, registered at 21 and 22."""


def changed(catalog: Catalog, service: str, *present: tuple[int, int], index: int) -> Catalog:
    """The catalog with these instances of a service alone, each with the index at which it was registered."""
    before = {one.id: one for one in catalog.services[ServiceName(service)]}
    instances = tuple(
        replace(before[f"{service}-{number}"], create_index=at, modify_index=at) for number, at in present
    )
    return replace(catalog, services={**catalog.services, ServiceName(service): instances}, index=index)


@pytest.mark.parametrize("at", [1, 14, 22])
@pytest.mark.parametrize("index", [27, 500])
def test_a_service_seen_while_a_new_store_fills_keeps_what_is_not_back_yet(at: int, index: int) -> None:
    """What is there was registered at an index at which the old store was past it already. Nothing else needs to tell:
    the new store may count as far as the old one before its index is looked at."""
    watchman = watching(PAIR)
    held = watchman.see(changed(PAIR, "web", (1, at), index=index), 1)
    assert held is not None
    assert "wiped or restored" in held.reason
    assert watchman.serving("web") == {"web-1", "web-2"}
    assert watchman.see(changed(PAIR, "web", (1, at), (2, at + 1), index=index), 2) is None


def test_an_instance_of_one_service_tells_of_the_store_that_another_lost_its_instances_in() -> None:
    watchman = watching(PAIR)
    back = changed(PAIR, "web", (1, 14), (2, 15), index=28)
    held = watchman.see(changed(back, "a", (1, 1), (3, 3), index=28), 1)
    assert held is not None
    assert set(held.services) == {"a"}


def test_an_instance_that_is_as_it_was_before_its_last_change_tells_of_a_restored_store() -> None:
    one, other = PAIR.services[ServiceName("web")]
    watchman = watching(replace(PAIR, services={ServiceName("web"): (replace(one, modify_index=24), other)}))
    assert watchman.see(replace(PAIR, services={ServiceName("web"): (one,)}), 1) is not None


@pytest.mark.parametrize("at", [23, 27, 28])
def test_an_instance_that_is_registered_anew_in_the_same_store_is_no_wipe(at: int) -> None:
    """A service is read by itself: its change may come after the listing told the index of it."""
    watchman = watching(PAIR)
    assert watchman.see(changed(PAIR, "web", (1, at), index=28), 1) is None
    assert watchman.serving("web") == {"web-1"}


def test_an_old_registration_that_is_seen_for_the_first_time_is_no_wipe() -> None:
    """A token that is let see more nodes shows what was there all along."""
    watchman = watching(PAIR)
    shown = (instance("web", 3, "route=web.example.com"),)
    assert watchman.see(replace(PAIR, services={**PAIR.services, ServiceName("web"): shown}), 1) is None
    assert watchman.serving("web") == {"web-3"}


def test_instances_whose_index_nobody_tells_are_no_wipe() -> None:
    watchman = watching(PAIR)
    assert watchman.see(changed(PAIR, "web", (1, 0), index=28), 1) is None


def test_an_index_that_stands_still_is_no_wipe() -> None:
    watchman = watching(FOUR)
    assert watchman.see(replace(without(FOUR, a=[1]), index=FOUR.index), 1) is None


def test_a_real_loss_with_a_growing_index_is_no_wipe() -> None:
    watchman = watching(FOUR)
    assert watchman.see(without(FOUR, a=[1]), 1) is None


# --- a service's own minimum


def test_a_service_keeps_what_it_has_when_it_would_fall_below_its_minimum() -> None:
    watchman = watching(FOUR, Limits(minimum={"a": 2}))
    assert watchman.see(without(FOUR, a=[1]), 1) is None
    held = watchman.see(without(FOUR, a=[1, 2]), 2)
    assert held is not None
    assert held.services == {"a": 1}
    assert watchman.serving("a") == {"a-2", "a-3"}
    assert watchman.see(without(FOUR, a=[1, 2]), 100_000) is not None, "no time ends that"
    watchman.guard.release()
    assert watchman.see(without(FOUR, a=[1, 2]), 100_001) is None


def test_one_keeps_the_last_instance_and_patterns_count_in_their_order() -> None:
    watchman = watching(FOUR, Limits(minimum={"b*": 3, "*": 1}))
    held = watchman.see(without(FOUR, a=None, b=[1], c=[1]), 1)
    assert held is not None
    assert held.services == {"a": 3, "b": 1}


def test_a_minimum_that_was_never_reached_holds_what_there_was() -> None:
    watchman = watching(FOUR, Limits(minimum={"a": 10}))
    held = watchman.see(without(FOUR, a=[1]), 1)
    assert held is not None
    assert watchman.serving("a") == {"a-1", "a-2", "a-3"}


# --- a law

SIZES = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 4), min_size=6, max_size=6)


@given(st.lists(SIZES, min_size=1, max_size=12))
def test_nginx_never_loses_more_than_half_at_once_by_two_services(steps: list[dict[str, int]]) -> None:
    """Whatever the catalogs: between two of them nginx keeps half of its servers, unless one small service is alone."""
    watchman = Watchman(Limits(window=0))
    before: dict[str, int] = {}
    for number, sizes in enumerate(steps):
        watchman.see(fleet(sizes, index=1000 + number), number)
        after = {name: len(watchman.serving(name)) for name in sizes}
        lost = {name: count - after.get(name, 0) for name, count in before.items() if count > after.get(name, 0)}
        total = sum(before.values())
        assert sum(lost.values()) * 2 <= total or len(lost) == 1 or not _suspicious(before, sizes), (before, sizes)
        before = after


@pytest.mark.incident("T52")
@given(
    st.integers(5, 60),
    st.lists(st.integers(1, 6), min_size=1, max_size=8),
    st.lists(st.integers(0, 7), min_size=1, max_size=3),
)
def test_one_services_loss_never_holds_what_the_others_lose(tenant: int, others: list[int], steps: list[int]) -> None:
    """However many they are, while none of them loses more than half of its own."""
    everybody = fleet({"tenant": tenant, **{f"o{number}": size for number, size in enumerate(others)}})
    watchman = watching(everybody)
    for second, step in enumerate(sorted(steps), 1):
        left = {f"o{number}": range(1, min(step, size // 2) + 1) for number, size in enumerate(others)}
        held = watchman.see(without(everybody, tenant=None, **left), second)
        assert held is None or held.services.keys() == {"tenant"}
        for number, size in enumerate(others):
            assert len(watchman.serving(f"o{number}")) == size - len(left[f"o{number}"])


def _suspicious(before: Mapping[str, int], asked: Mapping[str, int]) -> bool:
    lost = [count - asked.get(name, 0) for name, count in before.items() if count > asked.get(name, 0)]
    return sum(lost) * 2 > sum(before.values()) and len(lost) > 1


def test_instances_stay_sorted() -> None:
    watchman = watching(FOUR)
    held = watchman.see(without(FOUR, a=[2], b=None, c=None), 1)
    assert held is not None
    kept: tuple[Instance, ...] = held.catalog.services[ServiceName("a")]
    assert list(kept) == sorted(kept, key=lambda one: one.key)


def test_instances_are_sorted_by_node_before_id() -> None:
    crossed = replace(
        FOUR,
        services={
            name: tuple(
                sorted((replace(one, node=f"node-{9 - one.create_index}") for one in ones), key=lambda one: one.key)
            )
            for name, ones in FOUR.services.items()
        },
    )
    watchman = watching(crossed)
    held = watchman.see(without(crossed, a=[1, 2], b=None, c=None), 1)
    assert held is not None
    assert [one.id for one in held.catalog.services[ServiceName("a")]] == ["a-3", "a-2", "a-1"]


def test_what_is_kept_is_as_it_was_live_and_what_is_there_as_it_is_now() -> None:
    watchman = watching(FOUR)
    gone = without(FOUR, a=[1, 2], b=None, c=None)
    [left] = gone.services[ServiceName("a")]
    changed = replace(left, tags=(*left.tags, "proxygen.weight=7"), modify_index=4321)
    held = watchman.see(replace(gone, services={**gone.services, ServiceName("a"): (changed,)}), 1)
    assert held is not None
    before = {one.id: one for one in FOUR.services[ServiceName("a")]}
    assert {one.id: one for one in held.catalog.services[ServiceName("a")]} == {**before, "a-3": changed}
    assert held.catalog.index == gone.index
    assert held.catalog.services[ServiceName("d")] is gone.services[ServiceName("d")]


def test_a_key_is_node_and_id() -> None:
    """The same id on another node is another instance, and a loss of the first is one."""
    watchman = watching(FOUR)
    moved = {
        name: tuple(replace(one, node=f"other-{one.node}") for one in instances)
        if name in ("a", "b", "c")
        else instances
        for name, instances in FOUR.services.items()
    }
    assert watchman.see(replace(FOUR, services=moved), 1) is None
    sick = {name: tuple(replace(one, health=Health.CRITICAL) for one in instances) for name, instances in moved.items()}
    held = watchman.see(replace(FOUR, services=sick), 2)
    assert held is not None
    assert {one.node for one in held.catalog.services[ServiceName("a")]} == {f"other-node-{n}" for n in (1, 2, 3)}
    assert watchman.serving("a") == {"a-1", "a-2", "a-3"}
