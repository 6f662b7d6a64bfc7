"""The first of many are named, the others counted."""

from __future__ import annotations

import pytest

from proxygen.kit.texts import keep_some, name_some


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], ""),
        (["web"], "web"),
        (["web", "shop"], "web, shop"),
        (["web", "shop", "mail"], "web, shop and 1 more"),
        ([*"abcdefghi"], "a, b and 7 more"),
    ],
)
def test_the_first_are_named_and_the_others_counted(names: list[str], said: str) -> None:
    assert name_some(names, 2) == said
    assert name_some(dict.fromkeys(names), 2) == said


def test_what_stands_between_is_the_callers() -> None:
    assert name_some(["a", "b", "c"], 2, between=" and ") == "a and b and 1 more"


@pytest.mark.parametrize(
    ("texts", "kept"),
    [
        ([], ()),
        (["a", "b"], ("a", "b")),
        (["a", "b", "c", "d"], ("a", "b", "and 2 more warnings")),
    ],
)
def test_of_many_texts_the_last_counts_those_that_are_left_out(texts: list[str], kept: tuple[str, ...]) -> None:
    assert keep_some(texts, 2, "and {} more warnings") == kept
