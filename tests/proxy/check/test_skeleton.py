"""The shape of a configuration, and where two shapes part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import crossplane
import pytest

from proxygen.proxy.check.skeleton import difference, forbidden, skeleton

Parse = Any


@pytest.fixture
def parse(tmp_path: Path) -> Parse:
    def read(text: str) -> list[dict[str, Any]]:
        (tmp_path / "x.conf").write_text(text)
        document = crossplane.parse(str(tmp_path / "x.conf"), single=True, check_ctx=False, check_args=False)
        parsed: list[dict[str, Any]] = document["config"][0]["parsed"]
        return parsed

    return read


GOOD = "server {\n    listen 80;\n    location /a {\n        return 200 ok;\n    }\n}\n"


def test_values_do_not_show_in_a_skeleton(parse: Parse) -> None:
    other = GOOD.replace("80", "81").replace("/a", "/b").replace("ok", "'quite another thing'")
    assert skeleton(parse(GOOD)) == skeleton(parse(other))


@pytest.mark.parametrize(
    ("old", "new", "line", "reason"),
    [
        ("listen 80;", "listen 80; autoindex on;", 2, "autoindex"),
        ("listen 80;", "listen 80 default_server;", 2, '"listen" has 2 arguments'),
        ("listen 80;", "", 3, "location"),
        ("/a {", "/a { return 200; } location /b {", 3, '"return" has 1 arguments'),
        ("/a", "= /a", 3, '"location" has 2 arguments'),
        ("}\n}\n", "}\n}\nserver { }\n", 7, 'unexpected directive "server"'),
    ],
)
def test_a_directive_more_or_less_or_with_another_number_of_arguments_is_seen_where_it_is(
    parse: Parse, old: str, new: str, line: int, reason: str
) -> None:
    tree = parse(GOOD.replace(old, new))
    found = difference(skeleton(tree), skeleton(parse(GOOD)), tree)
    assert found is not None
    assert reason in found.reason
    assert found.line == line


def test_the_same_shape_has_no_difference(parse: Parse) -> None:
    tree = parse(GOOD)
    assert difference(skeleton(tree), skeleton(parse(GOOD)), tree) is None


def test_the_lines_of_a_map_are_values_and_their_number_counts(parse: Parse) -> None:
    one = parse('map $a $b {\n    default x;\n    "k" v;\n}\n')
    same = parse('map $a $b {\n    "other" y;\n    default z;\n}\n')
    more = parse('map $a $b {\n    default x;\n    "k" v;\n    "l" w;\n}\n')
    assert skeleton(one) == skeleton(same)
    assert skeleton(one) != skeleton(more)


@pytest.mark.parametrize(
    ("context", "text", "name"),
    [
        (("http",), "lua_need_request_body on;", "lua_need_request_body"),
        (("http",), "include /etc/passwd;", "include"),
        (("http",), "server { root /; }", "root"),
        (("http",), "server { location / { alias /; } }", "alias"),
        (("http",), "server { location / { if ($a) { proxy_pass http://a; } } }", "proxy_pass"),
        (("http",), "map $a $b { include /etc/passwd; }", "include"),
        (("http",), "map $a $b { volatile x; }", "volatile"),
        (("http",), "map $a $b { hostnames; }", "hostnames"),
        (("stream",), "server { location / { } }", "location"),
        (("stream",), "map $a $b { }", "map"),
    ],
)
def test_what_a_shipped_template_never_says_is_forbidden(
    parse: Parse, context: tuple[str, ...], text: str, name: str
) -> None:
    assert [name in oddity.reason for oddity in forbidden(parse(text), context)] == [True]
