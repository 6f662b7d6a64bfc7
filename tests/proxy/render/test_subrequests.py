"""What nginx asks by itself, as the operator says for all virtual servers, is answered by no service."""

from __future__ import annotations

import pytest

from proxygen.kit.templating import Block
from proxygen.proxy.render.subrequests import closed, subrequests, unanswered

ASKS = (Block('auth_request "/allows";'),)
SEVERAL = (Block("mirror /copy; mirror /more; add_before_body /head; add_after_body /more;"),)


def answered(*fragments: str, around: tuple[Block, ...] = ASKS, paths: tuple[str, ...] = ()) -> dict[str, int | str]:
    found = subrequests(tuple(map(Block, fragments)), around, paths)
    return {each.path.pattern: each.answer.words[0] for each in found}


@pytest.mark.incident("T41")
def test_a_path_that_nobody_answers_lets_nobody_in_and_adds_nothing() -> None:
    assert answered() == {"/allows": 403}
    assert answered(around=SEVERAL) == {"/copy": 204, "/more": 204, "/head": 204}
    assert answered(around=(*ASKS, Block("mirror /allows;"))) == {"/allows": 403}


@pytest.mark.parametrize("around", ["", "auth_request off;", "mirror off;", 'add_after_body "";', "mirror @copy;"])
def test_where_nothing_is_asked_for_nothing_is_answered(around: str) -> None:
    assert answered(around=(Block(around),)) == {}


def test_a_path_is_the_text_that_nginx_reads() -> None:
    assert answered(around=(Block(r"auth_request '/$a\"b\'c';"),)) == {"/$a\"b'c": 403}


@pytest.mark.parametrize(
    "fragment",
    [
        "location = /allows { return 204; }",
        "location =/allows { return 204; }",
        'location "/allows" { return 204; }',
        "location /al { return 204; }",
        "location ^~ /al { return 204; }",
        "location ~ ^/allows$ { return 204; }",
        "location ~* ^/ALLOWS$ { return 204; }",
        "location ~ ^(?R)$ { return 204; }",
        "auth_request off;",
        "auth_request /elsewhere;",
        "include more.conf;",
    ],
)
def test_what_a_fragment_answers_or_ends_is_the_operators(fragment: str) -> None:
    assert answered(fragment) == {}


@pytest.mark.parametrize(
    "fragment",
    [
        "location = /allow { return 204; }",
        "location ~ ^/ALLOWS$ { return 204; }",
        "location /x { location /allows { } }",
    ],
)
def test_another_location_of_a_fragments_answers_nothing(fragment: str) -> None:
    assert answered(fragment) == {"/allows": 403}


@pytest.mark.incident("T41")
@pytest.mark.parametrize(
    ("fragment", "path", "is_his"),
    [
        ("location = /a/b/c { }", "/a/b/c", True),
        ("location = /a/b/c { }", "/a/b", True),
        ("location ~ ^/a/ { }", "/a/b", True),
        ("location ~ ^/a/ { }", "/a/b/c", False),
        ("location /a/ { }", "/a/b", False),
        ("location /a/ { }", "/a/bb", True),
        ("location /a/b/ { }", "/a", True),
    ],
)
def test_a_longer_route_of_a_tag_is_not_asked_in_the_operators_place(fragment: str, path: str, *, is_his: bool) -> None:
    asks = (Block("auth_request /a/b/c;"),)
    assert answered(fragment, around=asks, paths=(path,)) == ({} if is_his else {"/a/b/c": 403})


@pytest.mark.incident("T41")
def test_a_route_keeps_no_location_of_the_operators_out() -> None:
    """nginx would refuse his fragment for the tag's location of the same path."""
    exact = (Block("location = /allows { } location = /else { }"),)
    assert closed(exact, ASKS) == {"/allows"}
    assert closed((), ASKS) == {"/allows"}
    assert closed((Block("auth_request /else; location = /else { }"),), ASKS) == {"/else"}
    assert closed((Block("auth_request /gate;"),), ASKS) == frozenset(), "he asks a service"
    assert closed(exact, ()) == frozenset(), "nothing is asked for"


def test_it_is_said_with_its_place_and_what_to_do() -> None:
    lines = [("nginx.conf:7", ASKS[0]), ("http.conf", Block('add_after_body "/foot";'))]
    first, second = unanswered(lines, ())
    assert first == (
        "nginx.conf:7: auth_request /allows applies in the virtual servers of tags too, and no location of yours"
        " answers it there: proxygen does, with 403; put location = /allows into the fragment server.conf itself, or"
        " auth_request off;"
    )
    assert second.endswith('put location = /foot into the fragment server.conf itself, or add_after_body "";')
    (only,) = unanswered(lines, (Block("location = /allows { return 204; }"),))
    assert only == second
    included = [*unanswered(lines, (Block("include more.conf;"),))]
    assert all("server.conf includes files that are not read" in each for each in included)
    assert len(included) == len(lines)
