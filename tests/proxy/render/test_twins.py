"""Twins: a view's inert double, kept by its shape, and never taken for another's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from proxygen.kit.templating import Block, Expression, Regex, Templates, Variable
from proxygen.proxy.render.twins import MAX_SHAPES, Twins
from proxygen.proxy.render.views import (
    HashSize,
    ListenView,
    ServerLine,
    StreamDefaultsView,
    Template,
    as_context,
    inert,
)

LINE = ServerLine(address="10.0.0.1:80", weight=3, max_fails=4, fail_timeout=5, backup=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A view of a template of the test's own."""

    text: str
    number: int = 0


@pytest.fixture
def twins(tmp_path: Path) -> Twins:
    (tmp_path / "one.j2").write_text("one {{ text | q }} {{ number | q }}\n")
    (tmp_path / "two.j2").write_text("two {{ text | q }} {{ number | q }}\n")
    (tmp_path / "keyed.j2").write_text("{{ it.text | q }} {{ more | q }}\n")
    return Twins(Templates(tmp_path))


def test_a_text_stands_in_the_text_and_not_in_its_twin(twins: Twins) -> None:
    assert twins.pair("one.j2", View(text="secret", number=7)) == ("one secret 7\n", "one inert 7\n")


def test_views_of_one_shape_share_a_twin_and_their_texts_are_their_own(twins: Twins) -> None:
    first, twin = twins.pair("one.j2", View(text="a"))
    second, again = twins.pair("one.j2", View(text="b"))
    assert (first, second) == ("one a 0\n", "one b 0\n")
    assert twin is again


def test_another_template_or_another_number_has_another_twin(twins: Twins) -> None:
    found = [
        twins.pair(name, view)[1]
        for name, view in (
            ("one.j2", View(text="a")),
            ("two.j2", View(text="a")),
            ("one.j2", View(text="a", number=1)),
            ("one.j2", View(text="")),
        )
    ]
    assert found == ["one inert 0\n", "two inert 0\n", "one inert 1\n", 'one "" 0\n']


def test_what_stands_beside_a_view_is_the_same_for_its_twin(twins: Twins) -> None:
    assert twins.pair_as("it", "keyed.j2", View(text="a"), more="beside") == ("a beside\n", "inert beside\n")


@pytest.mark.parametrize(("shapes", "is_swept"), [(MAX_SHAPES, False), (MAX_SHAPES + 1, True)])
def test_twins_are_forgotten_once_there_are_too_many(twins: Twins, shapes: int, *, is_swept: bool) -> None:
    _, first = twins.pair("one.j2", View(text="a", number=-1))
    # Their number is what counts, and rendering two thousand would take long.
    twins._inert |= {("x", number): Block("") for number in range(shapes - 1)}
    twins.sweep()
    assert (twins.pair("one.j2", View(text="a", number=-1))[1] is not first) is is_swept


def test_numbers_flags_and_emptiness_stay_and_no_text_does() -> None:
    assert inert(LINE) == ServerLine(address="inert", weight=2, max_fails=4, fail_timeout=5, backup=True)
    assert inert(replace(LINE, weight=1, max_fails=None)) == ServerLine(
        address="inert", weight=1, max_fails=None, fail_timeout=5, backup=True
    )
    assert inert(ListenView(address="80", tls=True, default=True)) == ListenView(
        address="inert", tls=True, default=True
    )
    size = HashSize(directive="map_hash_max_size", value=4096)
    assert inert(StreamDefaultsView(hash_sizes=(size,))) == StreamDefaultsView(hash_sizes=(size,))


@pytest.mark.parametrize(
    ("value", "twin"),
    [
        ("text", "inert"),
        ("", ""),
        (("a", "", ("b",)), ("inert", "", ("inert",))),
        (Variable("host"), Variable("inert")),
        (Regex("^a$"), Regex("inert")),
        (Expression(("a", Variable("host"))), Expression(("inert",))),
        (Block("mine\n"), Block("mine\n")),
        (Template.GRPC, Template.GRPC),
        (True, True),
        (7, 7),
        (None, None),
    ],
)
def test_each_kind_of_value_has_its_twin(value: object, twin: object) -> None:
    assert inert(value) == twin
    assert type(inert(value)) is type(twin)


def test_a_views_fields_are_a_templates_names() -> None:
    assert as_context(View(text="a", number=3)) == {"text": "a", "number": 3}
