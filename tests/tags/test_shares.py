"""Laws of shares: whole numbers of basis points that sum to the whole, whatever is asked and whoever is there."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxygen.tags.shares import (
    CANARY,
    STABLE,
    WHOLE,
    Share,
    apportion,
    format_share,
    parse_override,
    parse_share,
    parse_variant_name,
    ranges,
    settle_shares,
)
from tests.corpora import hostile_text, shares, variant_names

_ASKED = st.dictionaries(variant_names(), shares() | st.sampled_from([Share(0), Share(1), WHOLE]), max_size=5)


@st.composite
def _asked_and_alive(draw: st.DrawFn) -> tuple[dict[str, Share], frozenset[str]]:
    asked = draw(_ASKED)
    return asked, frozenset(draw(st.sets(st.sampled_from([*asked, STABLE]))))


# --- texts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "points"),
    [
        ("0", 0),
        ("0%", 0),
        ("12.5%", 1250),
        ("12.5", 1250),
        ("12.50%", 1250),
        ("0.01%", 1),
        ("1.1", 110),
        ("99.99", 9999),
        ("100%", 10_000),
    ],
)
def test_share_is_a_percentage_with_at_most_two_decimals(text: str, points: int) -> None:
    assert parse_share(text) == points


@pytest.mark.parametrize(("number", "points"), [(0, 0), (10, 1000), (12.5, 1250), (0.07, 7), (100.0, 10_000)])
def test_share_may_be_a_number_of_percent(number: float, points: int) -> None:
    assert parse_share(number) == points


@pytest.mark.parametrize(
    "text",
    [
        "",
        "%",
        "-1",
        "+1",
        "100.01",
        "101%",
        "1000",
        "1.234",
        "12.",
        ".5",
        "1,5",
        "10 %",
        " 10",
        "10\n",
        "1e1",
        "010",
        "٣",
        "²",
        "nan",
        "9" * 5000,
    ],
)
def test_nothing_else_is_a_share(text: str) -> None:
    with pytest.raises(ValueError, match="percentage from 0 to 100") as refusal:
        parse_share(text)
    assert len(str(refusal.value)) < 250


@pytest.mark.parametrize(
    ("points", "text"), [(0, "0%"), (1, "0.01%"), (110, "1.1%"), (1000, "10%"), (1205, "12.05%"), (10_000, "100%")]
)
def test_a_share_is_written_in_as_few_characters_as_possible(points: int, text: str) -> None:
    assert format_share(Share(points)) == text


@given(shares())
def test_share_survives_its_text(share: Share) -> None:
    assert parse_share(format_share(share)) == share


@given(st.dictionaries(variant_names(), shares(), max_size=4))
def test_override_gives_each_variant_its_share(asked: dict[str, Share]) -> None:
    text = "{" + ", ".join(f'"{name}": "{format_share(share)}"' for name, share in asked.items()) + "}"
    assert parse_override(text) == asked


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON"),
        ("12%", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("12", "not a JSON object"),
        ('["canary"]', "not a JSON object"),
        ('[["canary", "10%"]]', "not a JSON object"),
        ('{"canary": "10%", "canary": "20%"}', "twice"),
        ('{"canary": null}', "neither a text nor a number"),
        ('{"canary": true}', "neither a text nor a number"),
        ('{"canary": {"x": 1}}', "neither a text nor a number"),
        ('{"canary": NaN}', "not a share"),
        ('{"canary": -1}', "not a share"),
        ('{"canary": "10 %"}', "not a share"),
        ('{"stable": "10%"}', "stable gets what"),
        ('{"Canary": "10%"}', "not a variant's name"),
        ('{"a_b": "10%"}', "not a variant's name"),
        ('{"": "10%"}', "not a variant's name"),
    ],
)
def test_override_that_says_something_else_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_override(text)


@pytest.mark.parametrize(("name", "is_one"), [("a" * 31, True), ("a" * 32, False), ("a-9", True), ("-a", False)])
def test_a_variants_name_has_at_most_31_characters_and_begins_with_a_letter(name: str, *, is_one: bool) -> None:
    if is_one:
        assert parse_variant_name(name) == name
    else:
        with pytest.raises(ValueError, match="not a variant's name"):
            parse_variant_name(name)


@given(hostile_text())
def test_hostile_override_is_refused_in_one_short_line(text: str) -> None:
    with pytest.raises(ValueError, match=r"\A[^\n]{1,1000}\Z"):
        parse_override(text + "{")


# --- settling --------------------------------------------------------------------------------------------------------


@given(_asked_and_alive())
def test_shares_sum_to_the_whole_unless_nobody_is_alive(case: tuple[dict[str, Share], frozenset[str]]) -> None:
    asked, alive = case
    settled = settle_shares(asked, alive)
    assert sum(settled.values()) == (WHOLE if alive else 0)
    assert set(settled) == {*asked, STABLE}


@given(_asked_and_alive())
def test_variant_that_is_not_alive_gets_nothing(case: tuple[dict[str, Share], frozenset[str]]) -> None:
    asked, alive = case
    assert not any(share for name, share in settle_shares(asked, alive).items() if name not in alive)


@given(_asked_and_alive())
def test_zero_stays_zero_while_anybody_else_may_serve(case: tuple[dict[str, Share], frozenset[str]]) -> None:
    asked, alive = case
    settled = settle_shares(asked, alive)
    if STABLE in alive or any(asked.get(name) for name in alive):
        assert not any(settled[name] for name, share in asked.items() if share == 0)


@given(_asked_and_alive())
def test_no_share_is_off_by_a_whole_basis_point(case: tuple[dict[str, Share], frozenset[str]]) -> None:
    """The exact proportion: as asked while stable is alive, scaled where that is too much; else of those alive."""
    asked, alive = case
    settled = settle_shares(asked, alive)
    named = {name: asked[name] for name in alive if name != STABLE}
    total = sum(named.values())
    for name, share in named.items():
        if STABLE in alive:
            exact = Fraction(share * WHOLE, max(WHOLE, sum(asked.values())))
        else:
            exact = Fraction(share * WHOLE, total) if total else Fraction(WHOLE, len(named))
        assert abs(settled[name] - exact) < 1


def test_asked_shares_are_given_to_the_point_where_they_fit() -> None:
    assert settle_shares({"canary": Share(1250), "blue": Share(1)}, frozenset({"canary", "blue", STABLE})) == {
        "canary": 1250,
        "blue": 1,
        STABLE: 8749,
    }


def test_dead_variant_leaves_its_share_to_stable_and_not_to_the_other_one_on_trial() -> None:
    settled = settle_shares({"canary": Share(2000), "blue": Share(3000)}, frozenset({"canary", STABLE}))
    assert settled == {"canary": 2000, "blue": 0, STABLE: 8000}


def test_without_stable_those_alive_share_everything_in_proportion() -> None:
    settled = settle_shares(
        {"canary": Share(1000), "blue": Share(3000), "red": Share(5000)}, frozenset({"canary", "blue"})
    )
    assert settled == {"canary": 2500, "blue": 7500, "red": 0, STABLE: 0}


def test_only_one_alive_gets_everything_even_at_zero() -> None:
    """Canary at 100 % and no stable instance; stable alone; a canary at 0 % and nobody else (T27)."""
    assert settle_shares({CANARY: WHOLE}, frozenset({CANARY}))[CANARY] == WHOLE
    assert settle_shares({CANARY: WHOLE}, frozenset({STABLE}))[STABLE] == WHOLE
    assert settle_shares({CANARY: Share(0)}, frozenset({CANARY}))[CANARY] == WHOLE
    assert settle_shares({}, frozenset({STABLE})) == {STABLE: WHOLE}


def test_shares_of_more_than_the_whole_are_scaled_by_all_that_was_asked_and_not_by_who_is_alive() -> None:
    """A variant that comes back then takes its part from stable and from no other one on trial."""
    asked = {"canary": Share(8000), "blue": Share(8000)}
    assert settle_shares(asked, frozenset({"canary", STABLE})) == {"canary": 5000, "blue": 0, STABLE: 5000}
    assert settle_shares(asked, frozenset({"canary", "blue", STABLE})) == {"canary": 5000, "blue": 5000, STABLE: 0}


def test_a_variant_for_which_nothing_was_asked_serves_only_where_nobody_else_can() -> None:
    assert settle_shares({}, frozenset({CANARY, STABLE})) == {CANARY: 0, STABLE: WHOLE}
    assert settle_shares({"blue": Share(1)}, frozenset({CANARY, "blue"})) == {CANARY: 0, "blue": WHOLE, STABLE: 0}
    assert settle_shares({}, frozenset({CANARY})) == {CANARY: WHOLE, STABLE: 0}


def test_without_stable_several_at_zero_share_evenly() -> None:
    asked = {CANARY: Share(0), "blue": Share(0)}
    assert settle_shares(asked, frozenset(asked)) == {"blue": 5000, CANARY: 5000, STABLE: 0}


def test_share_for_stable_cannot_be_asked() -> None:
    with pytest.raises(ValueError, match="stable gets what is left"):
        settle_shares({STABLE: Share(1)}, frozenset({STABLE}))


@given(
    st.dictionaries(variant_names(), st.integers(0, 10_000), min_size=1, max_size=8).filter(
        lambda weights: any(weights.values())
    )
)
def test_positive_weight_keeps_a_part_before_any_other_is_rounded_up(weights: dict[str, int]) -> None:
    parts = apportion(WHOLE, weights)
    rounded_away = [name for name, weight in weights.items() if weight and not parts[name]]
    total = sum(weights.values())
    rounded_up = [name for name, part in parts.items() if part > 1 and part > Fraction(WHOLE * weights[name], total)]
    assert not (rounded_away and rounded_up)


def test_a_weight_of_one_beside_three_large_ones_is_not_rounded_away() -> None:
    """Two units are left to give, and two of the large ones have the larger remainders."""
    assert apportion(10_000, {"tiny": 1, "x": 9999, "y": 9998, "z": 9997}) == {
        "tiny": 1,
        "x": 3333,
        "y": 3333,
        "z": 3333,
    }


def test_what_rounding_leaves_goes_by_the_largest_remainder_and_then_by_name() -> None:
    assert apportion(10, {"a": 26, "b": 55, "c": 19}) == {"a": 3, "b": 5, "c": 2}
    assert apportion(10_000, {"c": 1, "b": 1, "a": 1}) == {"a": 3334, "b": 3333, "c": 3333}
    assert apportion(1, {"b": 5, "a": 5, "c": 0}) == {"a": 1, "b": 0, "c": 0}


# --- ranges ----------------------------------------------------------------------------------------------------------


def _owner(pieces: tuple[tuple[Share, str], ...], key: int) -> str:
    for size, variant in pieces:
        if key < size:
            return variant
        key -= size
    raise AssertionError("the pieces do not cover the hash space")


@given(_asked_and_alive().filter(lambda case: bool(case[1])))
def test_ranges_are_the_shares_and_nothing_empty(case: tuple[dict[str, Share], frozenset[str]]) -> None:
    settled = settle_shares(*case)
    pieces = ranges(settled)
    assert {variant: size for size, variant in pieces} == {name: share for name, share in settled.items() if share}
    assert len({variant for _, variant in pieces}) == len(pieces)


@given(variant_names(), st.data())
def test_growing_share_moves_keys_only_to_the_variant_that_grows(other: str, data: st.DataObject) -> None:
    """With the canary and one other; a growth from nothing is its coming. Checked at every border, between which no
    owner changes."""
    names = sorted({CANARY, other})
    before: dict[str, Share] = {}
    for name in names:
        before[name] = Share(data.draw(st.integers(0, WHOLE - sum(before.values()))))
    grows = data.draw(st.sampled_from(names))
    growth = data.draw(st.integers(0, WHOLE - sum(before.values())))
    after = before | {grows: Share(before[grows] + growth)}
    old, new = _with_stable(before), _with_stable(after)
    for key in _borders(old) | _borders(new):
        assert _owner(new, key) in (_owner(old, key), grows)


def _with_stable(named: Mapping[str, Share]) -> tuple[tuple[Share, str], ...]:
    return ranges({**named, STABLE: Share(WHOLE - sum(named.values()))})


def _borders(pieces: tuple[tuple[Share, str], ...]) -> set[int]:
    """The first and the last key of every piece."""
    ends = [0]
    for size, _ in pieces:
        ends.append(ends[-1] + size)
    return {key for first, end in pairwise(ends) for key in (first, end - 1)}


def test_canary_stands_at_the_bottom_the_second_at_the_top_and_stable_between() -> None:
    assert ranges({STABLE: Share(7000), "blue": Share(1000), CANARY: Share(2000)}) == (
        (2000, CANARY),
        (7000, STABLE),
        (1000, "blue"),
    )


def test_other_variants_are_stacked_from_the_top_down_by_the_alphabet() -> None:
    shares = {"red": Share(300), STABLE: Share(7000), "blue": Share(1000), CANARY: Share(1500), "green": Share(200)}
    assert [variant for _, variant in ranges(shares)] == [CANARY, STABLE, "red", "green", "blue"]
