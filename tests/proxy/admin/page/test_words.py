from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxygen.proxy.admin.page import words
from tests.proxy.admin.page.reports import NOW, traffic


@pytest.mark.parametrize(
    ("share", "text"), [(None, "–"), (0, "0 %"), (1, "0.01 %"), (1000, "10 %"), (1250, "12.5 %"), (10_000, "100 %")]
)
def test_a_share_is_told_exactly(share: int | None, text: str) -> None:
    assert words.percent(share) == text


@given(st.floats(min_value=1e-9, max_value=1e9), st.floats(min_value=1e-9, max_value=1e9))
def test_what_is_there_is_never_told_as_nothing(part: float, whole: float) -> None:
    """One error in a million requests is not "0 %"."""
    assert words.percent_of(part, whole) != "0 %"
    assert words.per_second(part) != "0/s"


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(0, 0, "–"), (0, 5, "0 %"), (1, 10_000, "< 0.1 %"), (1, 200, "0.5 %"), (1, 4, "25 %"), (5, 5, "100 %")],
)
def test_a_ratio_has_the_digits_that_mean_something(part: float, whole: float, text: str) -> None:
    assert words.percent_of(part, whole) == text


def test_a_rate_is_per_second() -> None:
    assert words.rate(traffic(2500)) == "100/s"
    assert words.rate(traffic(10)) == "0.4/s"
    assert words.rate(traffic(0)) == "0/s"
    assert words.rate(None) == "–"


@pytest.mark.parametrize(("errors", "level"), [(0, ""), (1, "warn"), (9, "warn"), (10, "bad"), (1000, "bad")])
def test_errors_are_bad_from_one_in_a_hundred(errors: float, level: str) -> None:
    assert words.error_level(errors, 1000) == level


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "–"), (0.0004, "0.4 ms"), (0.0123, "12 ms"), (0.25, "250 ms"), (1.25, "1.2 s")]
)
def test_response_times(seconds: float | None, text: str) -> None:
    assert words.milliseconds(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0 s"), (59, "59 s"), (60, "1 min"), (3599, "59 min"), (9000, "2 h 30 min"), (90_000, "1 d 1 h")],
)
def test_a_span_moves_rarely(seconds: float, text: str) -> None:
    assert words.span(seconds) == text


@pytest.mark.parametrize(
    ("iso", "clock", "age"),
    [
        ("2026-03-01T11:00:00+00:00", "11:00:00", "1 h 0 min ago"),
        ("2026-03-01T12:30:00+01:00", "11:30:00", "30 min ago"),
        ("2026-02-28T12:00:00+00:00", "2026-02-28 12:00:00", "1 d 0 h ago"),
        ("2026-03-01T11:59:30", "11:59:30", "30 s ago"),
        ("yesterday", "–", "–"),
    ],
)
def test_moments_are_utc_and_name_the_day_where_it_is_another(iso: str, clock: str, age: str) -> None:
    assert (words.clock(iso, NOW), words.age(iso, NOW)) == (clock, age)


@given(st.text(), st.text())
def test_a_digest_tells_views_apart_whatever_stands_in_them(one: str, other: str) -> None:
    assert (words.digest(one) == words.digest(other)) == (one == other)
