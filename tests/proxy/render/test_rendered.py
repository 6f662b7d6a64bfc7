"""Whose line is whose, and when two renderings are the same configuration."""

from __future__ import annotations

from proxygen.catalog import ServiceName
from proxygen.kit.templating import Block
from proxygen.proxy.render.rendered import Rendered, RenderedFile, Unit
from tests.proxy.plan.catalogs import plan

A, B, C = (ServiceName(name) for name in "abc")


def unit(text: str, *owners: tuple[int, tuple[ServiceName, ...]]) -> Unit:
    return Unit(context="http", text=Block(text), inert=Block(text), owners=owners or ((1, ()),))


FIRST = unit("1\n2\n3\n", (1, (A,)), (2, (B,)), (3, ()))
SECOND = unit("4\n5\n", (1, (C,)))
FILE = RenderedFile("http.d/x.conf", (FIRST, SECOND))


def rendered(**files: str) -> Rendered:
    return Rendered(plan=plan(), files=tuple(RenderedFile(name, (unit(text),)) for name, text in files.items()))


def test_a_line_belongs_to_the_last_owner_that_begins_at_or_before_it() -> None:
    assert [FIRST.owners_at(line) for line in (1, 2, 3, 9)] == [(A,), (B,), (), ()]
    late = unit("1\n2\n3\n", (2, (A,)), (3, (B,)))
    assert [late.owners_at(line) for line in (1, 2, 3)] == [(A,), (A,), (B,)]


def test_lines_of_a_file_are_counted_through_its_units() -> None:
    assert [FILE.owners_at(line) for line in range(1, 7)] == [(A,), (B,), (), (C,), (C,), ()]
    assert FILE.text == "1\n2\n3\n4\n5\n"
    assert FIRST.lines == 3


def test_a_line_is_looked_for_in_its_own_file() -> None:
    other = RenderedFile("http.d/y.conf", (SECOND,))
    both = Rendered(plan=plan(), files=(FILE, other))
    assert (both.owners_at("http.d/x.conf", 1), both.owners_at("http.d/y.conf", 1)) == ((A,), (C,))
    assert both.owners_at("http.d/z.conf", 1) == ()


def test_the_digest_is_of_all_files_their_names_and_what_stands_in_which() -> None:
    base = rendered(a="1\n", b="2\n")
    assert base.digest == rendered(b="2\n", a="1\n").digest
    for other in (
        rendered(a="1\n"),
        rendered(a="2\n", b="1\n"),
        rendered(a="1\n", b="2\n", c=""),
        rendered(a="1\n", c="2\n"),
        rendered(a="1\n2\n", b=""),
    ):
        assert other.digest != base.digest
    assert rendered(a="b1\n").digest != rendered(ab="1\n").digest
    assert base.contents == {"a": b"1\n", "b": b"2\n"}


def test_a_unit_is_marked_by_what_it_says_and_where_that_may_stand() -> None:
    same = unit("1\n", (1, (A,)))
    assert same.mark == unit("1\n").mark
    other = Unit(context="stream", text=same.text, inert=same.inert)
    assert len({same.mark, unit("2\n").mark, other.mark}) == 3
