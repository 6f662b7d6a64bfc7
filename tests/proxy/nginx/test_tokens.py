"""Reading nginx's own syntax."""

from __future__ import annotations

import pytest

from proxygen.proxy.nginx.tokens import Directive, Unreadable, quote, read_directives


def _named(text: str, name: str) -> Directive:
    return next(directive for directive in read_directives(text) if directive.name == name)


def test_a_directive_knows_its_blocks_and_line() -> None:
    text = "user x;\nhttp {\n  # } ;\n  server {\n    listen 80;\n  }\n}\n"
    listen = _named(text, "listen")
    assert (listen.arguments, listen.context, listen.line) == (("80",), ("http", "server"), 5)


def test_a_span_covers_the_arguments_and_nothing_else() -> None:
    text = 'http { include  "a b.conf" ; }'
    start, end = _named(text, "include").span
    assert text[start:end] == '"a b.conf"'


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ('"a;b{c}"', "a;b{c}"),
        ("'it\\'s'", "it's"),
        ('"\\\\ \\" \\n \\d"', '\\ " \n \\d'),
        ("a\\;b", "a\\;b"),
        ("x${name}y", "x${name}y"),
        ("^/a}b", "^/a}b"),
        ("a#b", "a#b"),
    ],
)
def test_an_argument_is_read_as_nginx_reads_it(written: str, meant: str) -> None:
    """Checked against ngx_conf_read_token: only quotes, backslashes, t, r and n are escapes."""
    assert _named(f"d {written};", "d").arguments == (meant,)


def test_a_comment_starts_only_where_a_word_may_start() -> None:
    assert [directive.name for directive in read_directives("a b#c;\n#d e;\nf;")] == ["a", "f"]


def test_braces_in_lua_are_not_nginx_blocks() -> None:
    lua = "local s = \"}\" --[[ } ]] -- }\n local t = { [[ } ]], '}' }"
    text = f"http {{ init_by_lua_block {{ {lua} }}\n include x; }}"
    assert _named(text, "include").context == ("http",)


@pytest.mark.parametrize(
    ("text", "line"),
    [("a;\n}", 2), ("a {\n b;\n", 2), ('a;\nb "c;\n', 2), ("a;\nb", 1), ("{", 1), ("a_by_lua_block {", 1)],
)
def test_an_open_end_is_reported_with_its_line(text: str, line: int) -> None:
    with pytest.raises(Unreadable) as caught:
        list(read_directives(text))
    assert caught.value.line == line


@pytest.mark.parametrize("text", ["plain", "a b", 'a"b', "a\\b", "a\\", "a;b{c}#'"])
def test_what_is_quoted_is_read_back(text: str) -> None:
    assert _named(f"d {quote(text)};", "d").arguments == (text,)
