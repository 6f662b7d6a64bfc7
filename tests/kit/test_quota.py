"""How many of a key there may be in a period. Pure: the clock is an argument."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxygen.kit.quota import Quota


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 7)), max_size=60))
def test_all_that_were_asked_for_are_admitted_or_counted_and_no_more_than_may_be(
    asked: list[tuple[str, float]],
) -> None:
    quota = Quota[str](most=3, seconds=10)
    now, admitted, left_out = 0.0, 0, 0
    times: dict[str, list[float]] = {key: [] for key in "abc"}
    for key, pause in asked:
        now += pause
        left_out += sum(quota.end(now).values())
        if quota.admit(key, now):
            admitted += 1
            times[key].append(now)
    left_out += sum(quota.end(now + 10).values())
    assert admitted + left_out == len(asked)
    assert quota.end(now + 1_000) == {}
    for found in times.values():
        # Two periods meet in any such time.
        assert all(sum(at <= other < at + 10 for other in found) <= 6 for at in found)


def test_a_period_begins_with_the_first_of_its_key() -> None:
    quota = Quota[str](most=1, seconds=10)
    assert [quota.admit("a", 0), quota.admit("b", 5), quota.admit("a", 9), quota.admit("b", 14)] == [1, 1, 0, 0]
    assert quota.end(9.9) == {}
    assert quota.end(10) == {"a": 1}
    assert quota.admit("a", 10)
    assert quota.end(15) == {"b": 1}
