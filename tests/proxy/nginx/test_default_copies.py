"""Copies of the operator's servers that answer by default, where nginx reads ours first."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from proxygen.proxy.nginx.addresses import occupied
from proxygen.proxy.nginx.conf import OperatorConf
from proxygen.proxy.nginx.default_copies import DefaultCopies, copy_defaults
from proxygen.proxy.nginx.tokens import end_of, read_directives
from tests.proxy.conftest import ReadConf

pytestmark = pytest.mark.incident("T35")

INCLUDE = "include OUTPUT/current/http.d/*.conf;"


def copied(conf: OperatorConf, *ours: str) -> DefaultCopies:
    return copy_defaults(conf, occupied(conf), ours)


def test_the_first_server_behind_ours_is_copied_in_its_own_words(read_conf: ReadConf) -> None:
    conf = read_conf(
        f"http {{ {INCLUDE}\n"
        "server { # its own\n listen *:80 backlog=9 ; listen 81; server_name one.test;\n"
        ' location / { return 200 "}"; } }\n'
        "server { listen 80; server_name two.test; } }"
    )
    (copy,) = copied(conf, "80").copies
    _, _, text = copy.text.partition("\n")
    assert [(each.name, each.arguments) for each in read_directives(text)] == [
        ("server", ()),
        ("listen", ("80", "default_server")),
        ("server_name", ("one.test",)),
        ("location", ("/",)),
        ("return", ("200", "}")),
    ]
    assert copy.names == {"one.test"}
    assert str(conf.path) in copy.text.splitlines()[0]


def test_a_copy_is_told_with_its_cure(read_conf: ReadConf) -> None:
    conf = read_conf(f"http {{ {INCLUDE}\nserver {{ listen 80; listen 81; }} }}")
    found = copied(conf, "80", "81")
    (remark,) = found.remarks
    assert f"a copy of the server at {conf.path}:2 answers by default on 80, 81" in remark
    assert "write default_server at its listen, or move the include behind it" in remark
    assert found.sources == (conf.path,)
    assert (found.refused("no").remarks, found.refused("no").sources) == ((), ())


def test_tls_is_spoken_where_it_was(read_conf: ReadConf) -> None:
    conf = read_conf(f"http {{ {INCLUDE} server {{ listen 443 ssl http2 reuseport; listen [::]:443 ssl; }} }}")
    (copy,) = copied(conf, "443", "[::]:443").copies
    assert "    listen 443 ssl http2 default_server;\n    listen [::]:443 ssl default_server;\n" in copy.text
    assert copy.names == {""}


@pytest.mark.parametrize(
    "text",
    [
        f"server {{ listen 80; }} {INCLUDE}",
        f"{INCLUDE} server {{ listen 80 default_server; }}",
        f"{INCLUDE} server {{ listen 81; }}",
        f"server {{ listen 80; }} {INCLUDE} server {{ listen 80; }}",
    ],
)
def test_what_needs_no_copy_gets_none(read_conf: ReadConf, text: str) -> None:
    assert copied(read_conf(f"http {{ {text} }}"), "80") == DefaultCopies()


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        ("include listen.conf; listen 82;", "a file that it includes says where it listens"),
        ("include listen.conf;", "a file that it includes says where it listens"),
        ("include nested.conf; listen 82;", "a file that it includes says where it listens"),
        ("listen 80; access_log /dev/null late;", "the log_format late stands behind the include"),
        ("listen 80; include log.conf;", "the log_format late stands behind the include"),
        ("location / { include log.conf; }", "the log_format late stands behind the include"),
    ],
)
def test_what_cannot_be_copied_is_said(read_conf: ReadConf, etc: Path, block: str, reason: str) -> None:
    (etc / "listen.conf").write_text("listen 80;")
    (etc / "nested.conf").write_text("include listen.conf;")
    (etc / "log.conf").write_text("access_log /dev/null late;")
    conf = read_conf(f"http {{ {INCLUDE} log_format late x; server {{ {block} }} }}")
    found = copied(conf, "80", "82")
    assert not found.copies
    (problem,) = found.problems
    assert reason in problem
    assert "move the include behind it" in problem


def test_what_other_servers_include_is_no_obstacle(read_conf: ReadConf, etc: Path) -> None:
    (etc / "listen.conf").write_text("listen 80;")
    (etc / "log.conf").write_text("access_log /dev/null late; server_name included.test;")
    (etc / "one.conf").write_text("server { listen 80; location / { include root.conf; } }")
    (etc / "root.conf").write_text("root /srv;")
    others = "server { listen 81; include log.conf; } server { include listen.conf; include log.conf; }"
    conf = read_conf(f"http {{ {INCLUDE} log_format late x; include one.conf; {others} }}")
    (copy,) = copied(conf, "80").copies
    assert copy.names == {""}


def test_names_that_a_file_says_are_its_own_too(read_conf: ReadConf, etc: Path) -> None:
    (etc / "names.conf").write_text("server_name One.test;")
    (copy,) = copied(read_conf(f"http {{ {INCLUDE} server {{ listen 80; include names.conf; }} }}"), "80").copies
    assert copy.names == {"one.test"}


def test_a_file_in_another_coding_is_left_alone(read_conf: ReadConf, etc: Path) -> None:
    (etc / "own.conf").write_bytes(b"server { listen 80; add_header X \xff; }")
    (problem,) = copied(read_conf(f"http {{ {INCLUDE} include own.conf; }}"), "80").problems
    assert "it is not UTF-8" in problem


def test_only_remarks_about_its_own_names_are_explained(read_conf: ReadConf) -> None:
    found = copied(read_conf(f"http {{ {INCLUDE} server {{ server_name One.test .two.test; listen 80; }} }}"), "80")
    for name, explained in (("one.test", True), (".two.test", True), ("three.test", False), ("", False)):
        assert found.explains(f'conflicting server name "{name}" on 0.0.0.0:80, ignored') is explained


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("server { a { b c; } d; } e;", " a { b c; } d; "),
        ('server { a "}"; # }\n } e;', ' a "}"; # }\n '),
        ("server { content_by_lua_block { return '}' } x; } e;", " content_by_lua_block { return '}' } x; "),
        ("server { } e;", " "),
    ],
)
def test_the_end_of_a_block_is_found(text: str, inside: str) -> None:
    directive = next(read_directives(text))
    begin, end = end_of(text, directive)
    assert text[begin : end - 1] == inside
    assert text[end:] == " e;"


def test_the_end_of_a_line_is_found() -> None:
    text = "listen 80 # here;\n ; next;"
    assert text[end_of(text, next(read_directives(text)))[1] :] == " next;"


def test_a_copy_goes_by_the_name_of_this_host_where_the_server_does(read_conf: ReadConf) -> None:
    conf = read_conf(f"http {{ {INCLUDE}\nserver {{ listen 80; server_name $hostname; }} }}")
    name = socket.gethostname().lower()
    assert copied(conf, "80").explains(f'conflicting server name "{name}" on 0.0.0.0:80, ignored')
