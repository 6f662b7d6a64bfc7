from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxygen.errors import BadInput
from proxygen.shares import NOTHING, WHOLE, Share
from proxygen.steering import Lever, format_shares, promoted, refuse_excess, stated_shares
from tests.plan.catalogs import instance

SHARES = st.dictionaries(st.sampled_from(["canary", "blue", "green"]), st.integers(0, WHOLE).map(Share))


def lever(in_kv: dict[str, Share], in_tags: dict[str, Share]) -> Lever:
    return Lever(service="web", key="proxygen/canary/web", index=1, in_kv=in_kv, in_tags=in_tags)


@given(SHARES, SHARES)
def test_what_stands_in_kv_goes_before_tags(in_kv: dict[str, Share], in_tags: dict[str, Share]) -> None:
    asked = lever(in_kv, in_tags).asked
    assert asked.keys() == in_kv.keys() | in_tags.keys()
    assert all(asked[name] == in_kv.get(name, in_tags.get(name)) for name in asked)


@given(SHARES, SHARES, st.sampled_from(["canary", "blue"]))
def test_a_promoted_variant_has_everything_and_no_other_has_any(
    in_kv: dict[str, Share], in_tags: dict[str, Share], variant: str
) -> None:
    wanted = promoted(lever(in_kv, in_tags), variant)
    assert wanted[variant] == WHOLE
    assert sum(wanted.values()) == WHOLE
    assert wanted.keys() == in_kv.keys() | in_tags.keys() | {variant}


@given(SHARES)
def test_more_than_everything_is_refused_with_the_numbers(asked: dict[str, Share]) -> None:
    if sum(asked.values()) <= WHOLE:
        refuse_excess(asked)
        return
    with pytest.raises(BadInput) as refused:
        refuse_excess(asked)
    for name, share in asked.items():
        assert (f"{name} {share / 100:g}%" in str(refused.value)) == (share > NOTHING)


def test_the_sum_is_told_as_it_was_added_up() -> None:
    with pytest.raises(BadInput, match=r"^blue 60% \+ canary 50\.5% is 110\.5%; all variants together can have 100%$"):
        refuse_excess({"canary": Share(5050), "blue": Share(6000), "green": NOTHING})


def test_shares_are_told_by_name() -> None:
    assert format_shares({"canary": Share(1250), "blue": Share(0)}) == "blue 0%, canary 12.5%"


def test_a_variant_that_only_kv_names_has_no_instance() -> None:
    moved = lever({"blue": Share(100), "canary": Share(100)}, {"canary": Share(500)})
    assert moved.unknown == ("blue",)


def test_the_lowest_share_that_instances_state_is_theirs_and_broken_tags_state_none() -> None:
    tags = ("canary=10%", "canary=5%", "canary=101%", "variant=blue:1%", "weight=3")
    instances = [instance("web", number, "route=a.example.com", tag) for number, tag in enumerate(tags)]
    assert stated_shares(instances, "proxygen") == {"canary": 500, "blue": 100}
