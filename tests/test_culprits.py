"""Whoever makes a candidate fail is found by leaving services out."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxygen import culprits
from proxygen.culprits import Spent, find_culprits, keep_most
from proxygen.errors import CheckRefused, RefusedWithoutName
from proxygen.model import ServiceName
from proxygen.plan.types import Plan, Quarantine, Service
from tests.plan.catalogs import instance, plan

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
    quarantines = asyncio.run(find_culprits(plan, REFUSED, accepts, known=known or {}, served=services))
    return {name: quarantine.withdrawn for name, quarantine in quarantines.items()}


@given(st.lists(st.integers(0, 60), unique=True, max_size=60), st.frozensets(st.integers(0, 60), min_size=1))
def test_those_left_out_are_those_that_fail_and_each_costs_a_logarithm(order: list[int], bad: frozenset[int]) -> None:
    trials = 0

    async def passes(kept: Sequence[int]) -> bool:
        nonlocal trials
        trials += 1
        return bad.isdisjoint(kept)

    expected = [each for each in order if each in bad]
    if expected:
        assert asyncio.run(keep_most(order, passes)) == expected
        assert trials <= len(expected) * (2 * math.ceil(math.log2(len(order) + 1)) + 1)


@given(st.integers(1, 40), st.integers(1, 40))
def test_of_those_that_are_only_wrong_together_the_first_are_kept(count: int, limit: int) -> None:
    async def passes(kept: Sequence[int]) -> bool:
        return len(kept) <= limit

    if count > limit:
        assert asyncio.run(keep_most(range(count), passes)) == list(range(limit, count))


@pytest.mark.parametrize("culprit", [0, 1, 7, 333, 700, 998, 999])
def test_one_of_a_thousand_is_found_in_twice_the_logarithm(culprit: int) -> None:
    trials = 0

    async def passes(kept: Sequence[int]) -> bool:
        nonlocal trials
        trials += 1
        return culprit not in kept

    assert asyncio.run(keep_most(range(1_000), passes)) == [culprit]
    assert trials <= 2 * 10 + 1


def test_what_is_known_to_pass_is_tried_at_once() -> None:
    tried: list[int] = []

    async def passes(kept: Sequence[int]) -> bool:
        tried.append(len(kept))
        return 1_000 not in kept

    assert asyncio.run(keep_most(range(1_001), passes, head=1_000)) == [1_000]
    assert tried == [1_000]


def test_what_there_was_no_time_to_try_is_left_out() -> None:
    trials = 0

    async def passes(kept: Sequence[int]) -> bool:
        nonlocal trials
        trials += 1
        if trials > 6:
            raise Spent
        return not any(each % 2 for each in kept)

    left = asyncio.run(keep_most(range(20), passes))
    assert {1, 3} <= set(left)
    assert not any(each % 2 for each in range(20) if each not in left)


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


def test_the_search_ends_after_so_many_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(culprits, "MOST_TRIALS", 4)
    left = found(lambda names: bool(names & set("bdf")), plan=planned(), served="a", most=4)
    assert set("bdf") <= set(left)
    assert "a" not in left
