from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxygen.registration.live import merge_tags, registration_with

_TAGS = st.lists(
    st.sampled_from(["v1", "proxygen", "proxygen.", "other.canary=1", "proxygen.route=a", "proxygen.route=b"])
    | st.sampled_from(["proxygen.canary=1%", "proxygen.canaryx=1", "proxygen.weight=2", "=", ""])
)


def merge(tags: Sequence[str], removed: Sequence[str] = (), **set_to: Sequence[str]) -> tuple[str, ...]:
    return merge_tags(tags, set_to=set_to, removed=removed, prefix="proxygen")


def test_a_new_key_goes_to_the_end_and_a_replaced_one_keeps_its_place() -> None:
    tags = ("v1", "proxygen.canary=5%", "proxygen.route=a", "v2")
    assert merge(tags, canary=["10%"], weight=["3"]) == (
        *("v1", "proxygen.canary=10%", "proxygen.route=a", "v2"),
        "proxygen.weight=3",
    )


def test_all_values_of_a_key_are_replaced_together() -> None:
    assert merge(("proxygen.route=a", "x", "proxygen.route=b"), route=["c", "d"]) == (
        *("proxygen.route=c", "proxygen.route=d"),
        "x",
    )


def test_a_removed_key_is_gone_and_nothing_else() -> None:
    assert merge(("proxygen.canary=5%", "canary", "proxygen.canaryx=1"), ["canary"]) == ("canary", "proxygen.canaryx=1")


@given(_TAGS, st.lists(st.sampled_from(["1%", "2%"]), min_size=1, max_size=2))
def test_tags_of_others_stay_and_setting_twice_changes_nothing(tags: list[str], values: list[str]) -> None:
    once = merge(tags, canary=values)
    assert [tag for tag in once if not tag.startswith("proxygen.canary=")] == [
        tag for tag in tags if not tag.startswith("proxygen.canary=")
    ]
    assert [tag for tag in once if tag.startswith("proxygen.canary=")] == [f"proxygen.canary={v}" for v in values]
    assert merge(once, canary=values) == once


@pytest.mark.parametrize("key", ["Check", "Checks", "Datacenter", "ContentHash"])
def test_a_registration_carries_no_checks_and_nothing_that_consul_refuses(key: str) -> None:
    service = {"ID": "1", "Service": "web", "Tags": [], "Port": 0, "ContentHash": "x", "Datacenter": "dc1"}
    body = registration_with(service, ["a"])
    assert key not in body
    assert body == {"ID": "1", "Name": "web", "Tags": ["a"], "Port": 0}
