"""Whoever makes a candidate fail is found by leaving services out."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxygen.catalog import ServiceName
from proxygen.kit.errors import CheckRefused, RefusedWithoutName
from proxygen.proxy.plan.types import Plan, Quarantine, Service
from proxygen.proxy.quarantine import culprits
from proxygen.proxy.quarantine.culprits import Found, Spent, find_culprits, keep_most
from tests.proxy.plan.catalogs import instance, plan

Wrong = Callable[[frozenset[str]], bool]

NAMES = "abcdefgh"
REFUSED = RefusedWithoutName("could not build server_names_hash")


def planned(names: str = NAMES) -> Plan:
    return plan(*(instance(name, number, f"route={name}.test") for number, name in enumerate(names, 1)))


def found(
    is_wrong: Wrong,
    *,
    plan: Plan,
    served: str = "",
    known: Mapping[ServiceName, Quarantine] | None = None,
    even_as_503: bool = False,
    most: int = 100,
) -> dict[str, bool]:
    """The culprits, and whether each is withdrawn. ``is_wrong`` says of services that they fail together; at most so
    many are tried."""
    trials = 0

    async def accepts(left_out: Mapping[ServiceName, Quarantine]) -> bool:
        nonlocal trials
        trials += 1
        assert trials <= most
        gone = {name for name, quarantine in left_out.items() if quarantine.withdrawn or not even_as_503}
        return not is_wrong(frozenset(each.name for each in plan.services if each.name not in gone))

    services: dict[ServiceName, Service] = {each.name: each for each in plan.services if each.name in served}
    search = asyncio.run(find_culprits(plan, REFUSED, accepts, known=known or {}, served=services))
    assert not search.untried
    return {name: quarantine.withdrawn for name, quarantine in search.guilty.items()}


@given(st.lists(st.integers(0, 60), unique=True, max_size=60), st.frozensets(st.integers(0, 60), min_size=1))
def test_those_left_out_are_those_that_fail_and_each_costs_a_logarithm(order: list[int], bad: frozenset[int]) -> None:
    trials = 0

    async def passes(kept: Sequence[int]) -> bool:
        nonlocal trials
        trials += 1
        return bad.isdisjoint(kept)

    expected = [each for each in order if each in bad]
    if expected:
        assert asyncio.run(keep_most(order, passes)).left_out == tuple(expected)
        assert trials <= len(expected) * (2 * math.ceil(math.log2(len(order) + 1)) + 1)


@given(st.integers(1, 40), st.integers(1, 40))
def test_of_those_that_are_only_wrong_together_the_first_are_kept(count: int, limit: int) -> None:
    async def passes(kept: Sequence[int]) -> bool:
        return len(kept) <= limit

    if count > limit:
        assert asyncio.run(keep_most(range(count), passes)).left_out == tuple(range(limit, count))


@pytest.mark.parametrize("culprit", [0, 1, 7, 333, 700, 998, 999])
def test_one_of_a_thousand_is_found_in_twice_the_logarithm(culprit: int) -> None:
    trials = 0

    async def passes(kept: Sequence[int]) -> bool:
        nonlocal trials
        trials += 1
        return culprit not in kept

    assert asyncio.run(keep_most(range(1_000), passes)).left_out == (culprit,)
    assert trials <= 2 * 10 + 1


def test_what_is_known_to_pass_is_tried_at_once() -> None:
    tried: list[int] = []

    async def passes(kept: Sequence[int]) -> bool:
        tried.append(len(kept))
        return 1_000 not in kept

    assert asyncio.run(keep_most(range(1_001), passes, head=1_000)).left_out == (1_000,)
    assert tried == [1_000]


@given(st.integers(1, 40), st.frozensets(st.integers(0, 39), min_size=1), st.integers(0, 30), st.integers(1, 50))
def test_a_search_that_runs_out_blames_whom_it_found_and_nobody_else(
    count: int, bad: frozenset[int], most: int, head: int
) -> None:
    """What it kept passed together, and what it did not come to is neither kept nor blamed."""
    passed: set[tuple[int, ...]] = {()}
    trials = 0

    async def passes(kept: Sequence[int]) -> bool:
        nonlocal trials
        trials += 1
        if trials > most:
            raise Spent
        if bad.isdisjoint(kept):
            passed.add(tuple(kept))
        return bad.isdisjoint(kept)

    if bad & set(range(count)):
        sifted = asyncio.run(keep_most(range(count), passes, head=head))
        assert sorted((*sifted.kept, *sifted.left_out, *sifted.untried)) == list(range(count))
        assert set(sifted.left_out) <= bad
        assert sifted.kept in passed
        if trials > most:
            assert sifted.untried


@pytest.mark.incident("T45")
def test_a_culprit_is_quarantined_with_nginxs_words() -> None:
    assert found(lambda names: "c" in names, plan=planned()) == {"c": False}


@pytest.mark.incident("T45")
def test_what_is_served_is_tried_at_once() -> None:
    """Without anybody, with all once more, with all that is served, and with that and the rest of what is new."""
    names = NAMES + "xyz"
    assert found(lambda those: "y" in those, plan=planned(names), served=NAMES, most=6) == {"y": False}


@pytest.mark.incident("T45")
def test_three_that_collide_cost_the_newest_and_spare_who_is_served() -> None:
    def collide(names: frozenset[str]) -> bool:
        return names >= set("adg")

    assert found(collide, plan=planned()) == {"g": False}
    assert found(collide, plan=planned(), served="dg") == {"a": False}


def test_who_is_refused_with_its_routes_answering_503_is_withdrawn() -> None:
    assert found(lambda names: "c" in names, plan=planned(), even_as_503=True) == {"c": True}


def test_what_passed_by_itself_costs_nobody() -> None:
    """A key being renewed, or a name that could not be looked up for a moment."""
    assert found(lambda _: False, plan=planned()) == {}


def test_what_fails_without_any_service_is_the_operators() -> None:
    with pytest.raises(CheckRefused, match=r"the operator's files.*could not build server_names_hash"):
        found(lambda names: True, plan=planned())


def test_where_most_of_what_is_served_would_go_nothing_is_changed() -> None:
    """Their tags are as they were, so the operator's files cannot be."""
    with pytest.raises(CheckRefused, match="2 of 3 services"):
        found(lambda names: bool(names & set("ab")), plan=planned(), served="abc")
    assert found(lambda names: bool(names & set("ade")), plan=planned(), served="abc") == dict.fromkeys("ade", False)


class Searches:
    """One search after the other for those of a plan that are wrong, each with so many trials."""

    def __init__(self, plan: Plan, wrong: str, *, served: str = "") -> None:
        self.plan, self.wrong = plan, set(wrong)
        self.served = {each.name: each for each in plan.services if each.name in served}
        self.known: dict[ServiceName, Quarantine] = {}
        self.passed: Mapping[ServiceName, Service] | None = None
        self.trials = 0

    def next(self) -> Found:
        services = [replace(each, quarantine=self.known.get(each.name)) for each in self.plan.services]
        search = asyncio.run(
            find_culprits(
                replace(self.plan, services=tuple(services)),
                REFUSED,
                self._accepts,
                known=self.known,
                served=self.served,
                passed=self.passed,
            )
        )
        self.known |= search.guilty
        self.passed = search.kept if search.untried else None
        return search

    async def _accepts(self, left_out: Mapping[ServiceName, Quarantine]) -> bool:
        self.trials += 1
        return all(name in left_out or name in self.known for name in self.wrong)


@pytest.mark.incident("T45")
def test_who_was_not_tried_is_not_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(culprits, "MOST_TRIALS", 7)
    searches = Searches(planned(), "bdf", served="a")
    search = searches.next()
    assert searches.trials == 7
    assert set(search.guilty) == {"b"}
    assert set(search.untried) == set("defgh")
    assert set(search.kept) == {"a", "c"}
    assert {"has not come to this one yet" in quarantine.reason for quarantine in search.untried.values()} == {True}
    assert not any(quarantine.withdrawn for quarantine in search.untried.values())


@pytest.mark.incident("T45")
@pytest.mark.parametrize("served", ["", "abcdefghijklmnop"])
@pytest.mark.parametrize("wrong", ["a", "p", "bdfkp", "abcnop"])
def test_searches_that_run_out_find_in_the_end_what_one_would_have(
    monkeypatch: pytest.MonkeyPatch, served: str, wrong: str
) -> None:
    """Each goes on where the one before ended, however few trials it has."""
    monkeypatch.setattr(culprits, "MOST_TRIALS", culprits.FEWEST_TRIALS)
    searches, rounds = Searches(planned("abcdefghijklmnop"), wrong, served=served), 0
    while searches.next().untried:
        rounds += 1
        assert rounds <= 20
    assert set(searches.known) == set(wrong)


@pytest.mark.incident("T45")
def test_slow_tests_end_a_search_and_never_keep_it_from_getting_further(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its time it would be over before it began."""
    monkeypatch.setattr(culprits, "MOST_SECONDS", -1.0)
    searches = Searches(plan(*(instance(f"s{n:03}", n, f"route=s{n:03}.test") for n in range(200))), "")
    searches.wrong, rounds = {"s000", "s131"}, 0
    while searches.next().untried:
        rounds += 1
        assert rounds <= 20
    assert rounds > 0
    assert set(searches.known) == searches.wrong


def test_most_of_what_is_served_does_not_go_bit_by_bit_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(culprits, "MOST_TRIALS", 4)
    searches = Searches(planned("abc"), "ab", served="abc")
    while not searches.known:
        searches.next()
    assert set(searches.known) == {"a"}
    with pytest.raises(CheckRefused, match="2 of 3 services"):
        searches.next()
