from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxygen.kit.units import format_duration, format_size, parse_duration, parse_size


@given(st.integers(min_value=0, max_value=10**14))
def test_duration_reads_back(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds)) == milliseconds


@given(st.integers(min_value=0, max_value=10**14))
def test_size_reads_back(size: int) -> None:
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize(
    ("text", "milliseconds"), [("25ms", 25), ("2s", 2000), ("1m", 60_000), ("0s", 0), ("1d", 86_400_000)]
)
def test_duration_is_a_whole_number_and_a_unit(text: str, milliseconds: int) -> None:
    assert parse_duration(text) == milliseconds


@pytest.mark.parametrize("text", ["", "5", "s", "1.5s", "-1s", "1 s", "1S", "01s", "1s\n", "٣s", "1s;", "1w"])
def test_anything_else_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


@pytest.mark.parametrize(("text", "size"), [("0", 0), ("10", 10), ("4k", 4096), ("1M", 1 << 20), ("2g", 2 << 30)])
def test_size_is_a_whole_number_with_an_optional_unit(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "k", "1.5m", "-1", "1 m", "1kb", "1m\n", "٣", "1t"])
def test_anything_else_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "0ms"),
        (1, "1ms"),
        (1500, "1500ms"),
        (60_000, "1m"),
        (90_000, "90s"),
        (7_200_000, "2h"),
        (5_400_000, "90m"),
        (172_800_000, "2d"),
    ],
)
def test_a_duration_is_written_in_the_largest_unit_that_fits(milliseconds: int, text: str) -> None:
    assert format_duration(milliseconds) == text


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0"), (1023, "1023"), (1024, "1k"), (1536, "1536"), (3 << 20, "3m"), (5 << 30, "5g")]
)
def test_a_size_is_written_in_the_largest_unit_that_fits(size: int, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize("unit", ["h", "m"])
def test_hours_and_minutes_are_not_mistaken(unit: str) -> None:
    assert parse_duration(f"3{unit}") == {"h": 10_800_000, "m": 180_000}[unit]


def test_a_number_has_at_most_fifteen_digits() -> None:
    assert parse_size("9" * 15) == parse_duration("9" * 15 + "ms") == 10**15 - 1
    for parse, text in ((parse_size, "1" + "0" * 15), (parse_duration, "1" + "0" * 15 + "ms")):
        with pytest.raises(ValueError, match="is not a"):
            parse(text)
