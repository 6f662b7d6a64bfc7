"""Which of nginx.conf's own names answers for a host."""

from __future__ import annotations

import pytest

from proxygen.proxy.plan.operators import answering, overtaken, unreadable
from proxygen.proxy.plan.types import OperatorNames

NAMES = OperatorNames(
    hosts=frozenset({"a.example.com", "*.example.com", "*.b.example.com", "www.*", "www.example.*", "_"}),
    patterns=(r"^(?<shop>shop\d+)\.test$", r"^shop1", "^(?R)$", "[[:alpha:]]x$"),
)


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("a.example.com", "a.example.com"),
        ("z.example.com", "*.example.com"),
        ("z.a.example.com", "*.example.com"),
        ("www.b.example.com", "*.b.example.com"),
        ("b.example.com", "*.example.com"),
        ("example.com", None),
        ("www.example.org", "www.example.*"),
        ("www.other.org", "www.*"),
        ("www", None),
        ("shop1.test", r"~^(?<shop>shop\d+)\.test$"),
        ("shop1.tests", "~^shop1"),
        ("x.alphax", None),
        ("*.example.com", "*.example.com"),
        ("*.c.example.com", "*.example.com"),
        ("*.com", None),
        ("*.test", None),
    ],
)
def test_the_name_that_answers_is_the_one_that_nginx_takes(host: str, name: str | None) -> None:
    assert answering(host, NAMES) == name


def test_an_expression_that_cannot_be_read_matches_nothing_and_is_named() -> None:
    assert unreadable(NAMES) == ("^(?R)$", "[[:alpha:]]x$")
    assert [*overtaken("*.x", NAMES)] == ["www.*", "www.example.*", "~^shop1"]


@pytest.mark.parametrize(
    ("pattern", "wildcard", "may"),
    [
        (r"\.example\.com$", "*.example.com", True),
        (r"\.example\.com$", "*.a.example.com", True),
        (r"^a\.example\.com$", "*.example.com", True),
        (r"\.example\.com$", "*.example.org", False),
        (r"\d\.com$", "*.example.com", True),
        (r"\dx\.com$", "*.example.com", False),
        (r"(com|org)$", "*.example.net", True),
        ("^a", "*.example.net", True),
    ],
)
def test_an_expression_may_match_below_a_wildcard_unless_its_end_says_otherwise(
    pattern: str, wildcard: str, *, may: bool
) -> None:
    assert bool([*overtaken(wildcard, OperatorNames(patterns=(pattern,)))]) is may


@pytest.mark.parametrize(
    "pattern", ["^([a-z]+)+[.]test$", "^(a|aa)*[.]test$", ".*.*.*[.]test$", "a{1,9}a{0,9}a{0,}[.]test", "^(a|aa){2,}"]
)
def test_no_host_of_a_tag_meets_an_expression_that_it_could_keep_busy(pattern: str) -> None:
    names = OperatorNames(patterns=(pattern,))
    assert answering("aaaa.test", names) == f"~{pattern}"
    assert answering("aaaa.test", names, is_strangers=True) is None


@pytest.mark.parametrize("pattern", ["^(www[.])?(?<name>.+)[.]test$", r"^a\+?a{2,9}.*$", "^[*+]?a"])
def test_other_expressions_are_asked_for_hosts_of_tags_too(pattern: str) -> None:
    assert answering("aaaa.test", OperatorNames(patterns=(pattern,)), is_strangers=True) == f"~{pattern}"
