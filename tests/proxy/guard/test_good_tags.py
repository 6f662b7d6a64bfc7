"""What is remembered of the tags that served, and how much of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from proxygen.catalog import Instance, ServiceName
from proxygen.proxy.guard.good_tags import (
    MAX_GONE,
    MAX_GONE_IN_ALL,
    as_planned,
    gone,
    note_served,
    with_gone,
)
from proxygen.proxy.plan.bounds import Bounds
from proxygen.proxy.plan.types import GoodTags, Memory, Policy
from tests.proxy.plan.catalogs import catalog, instance, plan

WEB = ServiceName("web")
ROUTE = "route=web.example.com"


Known = dict[ServiceName, GoodTags]


def served(instances: Iterable[Instance], before: Known | None = None) -> Known:
    live = catalog(*instances)
    planned = plan(*instances, memory=Memory(good_tags=before or {}))
    return dict(note_served(before or {}, planned, as_planned(planned, live)))


def test_a_service_has_what_it_was_served_with_last() -> None:
    first = instance("web", 1, ROUTE)
    second = replace(first, tags=(*first.tags, "proxygen.weight=3"))
    assert served([second], served([first])) == {WEB: GoodTags((second,))}


def test_one_that_is_left_out_was_not_served() -> None:
    good, bad = instance("web", 1, ROUTE), instance("web", 2, ROUTE, "canary=lots")
    assert served([good, bad]) == {WEB: GoodTags((good,))}


def test_one_that_is_not_looked_at_was_not_served() -> None:
    ones = tuple(instance("web", number, ROUTE, create_index=number) for number in (3, 1, 2))
    planned = plan(*ones, policy=Policy(bounds=Bounds(instances=2)))
    assert note_served({}, planned, catalog(*ones)) == {WEB: GoodTags((ones[1], ones[2]))}


def test_one_that_keeps_its_tags_was_served_with_those() -> None:
    good = instance("web", 1, ROUTE)
    bad = instance("web", 1, ROUTE, "canary=lots")
    assert served([bad], served([good])) == {WEB: GoodTags((good,))}


def test_a_quarantined_service_has_what_it_had() -> None:
    good = served([instance("web", 1, ROUTE)])
    assert served([instance("web", 9, ROUTE, "canary=lots")], good) == good


def test_one_that_is_gone_is_remembered_until_it_is_back() -> None:
    one, two = instance("web", 1, ROUTE), instance("web", 2, ROUTE)
    left = served([two], served([one, two]))
    assert left == {WEB: GoodTags((two,), (one,))}
    assert served([one, two], left) == {WEB: GoodTags((one, two))}
    assert served([], left) == {WEB: GoodTags((), (one, two))}


def test_of_a_service_so_many_are_remembered_and_the_last_that_went() -> None:
    found: Known = {}
    for number in range(1, MAX_GONE + 10):
        found = served([instance("web", number, ROUTE)], found)
    assert [one.id for one in found[WEB].gone] == [f"web-{number}" for number in range(9, MAX_GONE + 9)]


def test_of_all_services_so_many_are_remembered_and_those_that_changed_last() -> None:
    many = [instance(f"s{number}", number, f"route=s{number}.example.com") for number in range(MAX_GONE_IN_ALL)]
    old = instance("old", 1, "route=old.example.com")
    found = served([], served(many, served(many, served([old]))))
    assert len(gone(found)) == MAX_GONE_IN_ALL
    assert old not in gone(found)


@given(st.lists(st.sets(st.integers(1, 5)), max_size=6))
def test_what_is_written_of_those_that_went_is_what_is_read_again(steps: list[set[int]]) -> None:
    found: Known = {}
    for step in steps:
        found = served([instance("web", number, ROUTE) for number in sorted(step)], found)
    assert gone(with_gone(gone(found))) == gone(found)
    assert all(one.key not in {there.key for there in found[WEB].there} for one in gone(found))
