"""Who is new is suspected first of a reload that names no cause."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxygen.catalog import ServiceName
from proxygen.proxy.plan.types import Plan
from proxygen.proxy.quarantine.suspects import Deduction, Suspects
from tests.proxy.plan.catalogs import instance, plan, service

WEB = instance("web", 1, "route=web.test")
PLAN = plan(
    WEB,
    instance("db", 2, "protocol=tcp", "listen=15432"),
    instance("old", 3, "route=old.test"),
    instance("new", 4, "route=new.test"),
)
SERVED = {"web": service(PLAN, "web")}


class Reloads:
    """An nginx that takes a reload where none of the bad services is in it and no two of a pair are."""

    def __init__(self, planned: Plan, bad: set[str], *, served: str = "", pair: frozenset[str] = frozenset()) -> None:
        self.plan, self.bad, self.pair = planned, bad, pair
        self.live = {each.name: each for each in planned.services if each.name in served}
        self.suspects = Suspects()
        self.left_out: set[ServiceName] = set()
        self.guilty: list[ServiceName] = []
        self.waited: list[tuple[ServiceName, ...]] = []
        self.count = 0

    def until_settled(self) -> None:
        while True:
            there = [each for each in self.plan.services if each.name not in self.left_out]
            names = {each.name for each in there}
            if names != self.live.keys():
                self.count += 1
            if names & self.bad or (self.pair and self.pair <= names):
                # There and back.
                self.count += 1
                found = self.suspects.refused(replace(self.plan, services=tuple(there)), self.live)
                assert found.guilty or found.waiting
            else:
                self.live = {each.name: each for each in there}
                found = self.suspects.took(names, self.left_out)
                if not found.guilty and not found.tried:
                    return
            if found.guilty:
                self.guilty.append(found.guilty)
            if found.waiting:
                self.waited.append(found.waiting)
            self.left_out |= {*found.waiting, *([found.guilty] if found.guilty else [])}
            self.left_out -= set(found.tried)


def fleet(count: int) -> Plan:
    return plan(*(instance(f"s{n:02}", n, f"route=s{n:02}.test") for n in range(1, count + 1)))


@pytest.mark.incident("T50")
def test_new_ports_wait_first_then_the_newest_and_never_what_is_served() -> None:
    reloads = Reloads(PLAN, {"db", "new"}, served="web")
    reloads.until_settled()
    assert reloads.waited[0] == ("db",)
    assert reloads.waited[1] == ("new",)
    assert set(reloads.guilty) == {"db", "new"}
    assert reloads.live.keys() == {"web", "old"}


@pytest.mark.incident("T50")
@given(st.integers(1, 24), st.frozensets(st.integers(1, 24), min_size=1))
def test_all_at_fault_are_found_and_nobody_else_and_each_costs_a_logarithm(count: int, numbers: frozenset[int]) -> None:
    bad = {f"s{n:02}" for n in numbers if n <= count}
    reloads = Reloads(fleet(count), bad)
    reloads.until_settled()
    assert set(reloads.guilty) == bad
    assert reloads.live.keys() == {each.name for each in reloads.plan.services} - bad
    assert reloads.count <= 1 + len(bad) * 3 * (math.ceil(math.log2(count)) + 1)
    # However many there are, a reload and its way back for each halving.
    assert reloads.count <= 4 * count


@given(st.integers(2, 24), st.data())
def test_of_two_that_only_fail_together_one_is_left_out(count: int, data: st.DataObject) -> None:
    names = [each.name for each in fleet(count).services]
    pair = data.draw(st.frozensets(st.sampled_from(names), min_size=2, max_size=2))
    reloads = Reloads(fleet(count), set(), pair=pair)
    reloads.until_settled()
    assert len(reloads.guilty) == 1
    assert reloads.guilty[0] in pair


def test_nobody_is_at_fault_where_those_beside_it_went_by_themselves() -> None:
    """nginx was never seen to take them without it."""
    suspects = Suspects()
    found = suspects.refused(fleet(2), {})
    assert (found.waiting, found.tried) == (("s02",), ("s01",))
    assert suspects.took((), ("s02",)) == Deduction(tried=("s02",))


def test_who_waits_no_longer_is_nobodys_suspect() -> None:
    """It is gone, or its registration changed."""
    suspects = Suspects()
    suspects.refused(fleet(2), {})
    assert suspects.took(("s01",), ()) == Deduction()


def test_a_service_whose_tags_changed_is_new() -> None:
    changed = plan(instance("web", 1, "route=web.test", "timeout=9s"))
    assert Suspects().refused(changed, SERVED) == Deduction(guilty=ServiceName("web"))


def test_other_instances_make_nobody_new() -> None:
    more = plan(WEB, instance("web", 9, "route=web.test"))
    assert Suspects().refused(more, SERVED) == Deduction()
