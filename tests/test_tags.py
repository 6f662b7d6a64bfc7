"""Laws of the tag grammar: what it takes, what it refuses and how it says so, and that it reads what it writes."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxygen.kit.errors import TagError
from proxygen.tags import (
    KEYS,
    Balance,
    BalanceBy,
    Force,
    Host,
    Path,
    Protocol,
    ProxyTags,
    Rate,
    RouteTag,
    Source,
    Sticky,
    StickyBy,
    TagValues,
    VariantTag,
    check_combination,
    format_meta,
    format_tags,
    has_proxy_tags,
    lint_tags,
    parse_host,
    parse_path,
    parse_route,
    parse_tags,
)
from proxygen.tags.shares import CANARY, Share
from tests.corpora import DRAWN, hostile_tags, hostile_text, valid_proxy_tags

# --- both ways -------------------------------------------------------------------------------------------------------


@given(valid_proxy_tags(), st.sampled_from(["proxygen", "edge-1"]))
def test_tags_are_read_back_as_they_were_written(tags: ProxyTags, prefix: str) -> None:
    assert parse_tags(format_tags(tags, prefix), prefix=prefix) == tags


@given(valid_proxy_tags())
def test_meta_is_read_back_as_it_was_written(tags: ProxyTags) -> None:
    assert parse_tags((), format_meta(tags)) == tags


@given(valid_proxy_tags(), st.randoms())
def test_order_of_tags_means_nothing(tags: ProxyTags, random: Any) -> None:
    texts = list(format_tags(tags))
    random.shuffle(texts)
    assert parse_tags(texts) == tags
    assert format_tags(parse_tags(texts)) == format_tags(tags)


@given(valid_proxy_tags())
def test_value_and_its_text_build_the_same(tags: ProxyTags) -> None:
    """A copy goes through values, `format_tags` through texts."""
    assert replace(tags) == tags == parse_tags(format_tags(replace(tags)))


def test_every_key_survives_the_round_trip_of_its_own_example() -> None:
    for key in KEYS:
        assert key.parse(key.format(key.parse(key.example))) == key.parse(key.example), key.name


def test_every_field_has_a_key_that_can_state_it() -> None:
    assert {key.field for key in KEYS} == set(ProxyTags.__dataclass_fields__)
    assert [key.name for key in KEYS if key.name.replace("-", "_") != key.field] == ["canary"]
    assert set(TagValues.__annotations__) == {key.field for key in KEYS} | {"canary"}


def test_every_field_is_drawn_where_tags_are_drawn() -> None:
    assert set(ProxyTags.__dataclass_fields__) == DRAWN


# --- hostile values --------------------------------------------------------------------------------------------------

_SAFE = re.compile(r"[A-Za-z0-9._~!&()*+,=:@/$%-]+")
"""What may come out of the grammar: no quote, brace, semicolon, backslash, hash, space or control character."""


@given(hostile_tags())
def test_hostile_tags_are_refused_or_harmless(tags: list[str]) -> None:
    problems = lint_tags(tags)
    if not problems:
        for text in format_tags(parse_tags(tags)):
            assert _SAFE.fullmatch(text), text
            assert "$" not in text or text == "proxygen.balance=hash:$uri", text
            assert "%" not in text or text.startswith(("proxygen.canary=", "proxygen.variant=")), text
    for problem in problems:
        assert str(problem).isprintable(), problem
        assert len(str(problem)) < 1_000, problem


@given(hostile_text(), hostile_text())
def test_hostile_meta_is_refused_or_harmless(name: str, value: str) -> None:
    for problem in lint_tags((), [(f"proxygen-{name}", value), ("proxygen-route", value), (name, value)]):
        assert str(problem).isprintable(), problem
        assert len(str(problem)) < 1_000, problem


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
@pytest.mark.parametrize(
    "trap",
    [
        "\n",
        "\t",
        "\0",
        "\x7f",
        "\x85",
        " ",
        ";",
        "{",
        "}",
        '"',
        "'",
        "\\",
        "$x",
        "#",
        "é",
        "\u212a",
        "\u2028",
        "\ud800",
    ],
)
def test_no_key_takes_a_trap_anywhere_in_its_value(key: Any, trap: str) -> None:
    for value in (key.example + trap, trap + key.example, key.example[:1] + trap + key.example[1:], trap):
        assert lint_tags([f"proxygen.{key.name}={value}"]), value


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
def test_no_key_takes_nothing_or_too_much(key: Any) -> None:
    assert lint_tags([f"proxygen.{key.name}="])
    assert lint_tags([f"proxygen.{key.name}={'1' * 100_000}"])


# --- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "localhost",
        "example.com",
        "a-b.example.com",
        "0.example",
        "xn--mnchen-3ya.de",
        "a" * 63 + ".com",
        "*.example.com",
        "10.0.0.1",
    ],
)
def test_host_is_labels(text: str) -> None:
    assert parse_host(text) == text


def test_host_is_lower_case_in_its_normal_form() -> None:
    assert parse_host("WWW.Example.COM") == "www.example.com"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "_",
        "a_b.com",
        "~^a$",
        "-a.com",
        "a-.com",
        "a..b",
        ".a.com",
        "a.com.",
        "a.com:80",
        "*",
        "*.com",
        "*.*.a.com",
        "a.*.com",
        "*a.b.com",
        "a" * 64 + ".com",
        "a." * 126 + "aa",
        "[::1]",
        "a b.com",
        "münchen.de",
        "\u212aelvin.com",
        "exаmple.com",
        "$host",
        "a.com\n",
    ],
)
def test_nothing_else_is_a_host(text: str) -> None:
    with pytest.raises(ValueError, match="is not a host"):
        parse_host(text)


def test_international_host_is_refused_with_the_way_to_write_it() -> None:
    with pytest.raises(ValueError, match="xn--"):
        parse_host("münchen.de")


@pytest.mark.parametrize(
    ("text", "path"), [("/", "/"), ("/api", "/api"), ("/api/", "/api"), ("/a/b.c/~d", "/a/b.c/~d"), ("/...", "/...")]
)
def test_path_has_no_trailing_slash_in_its_normal_form(text: str, path: str) -> None:
    assert parse_path(text) == path


@pytest.mark.parametrize(
    "text",
    [
        "",
        "api",
        "//",
        "/a//b",
        "/a//",
        "/.",
        "/..",
        "/a/../b",
        "/a/./b",
        "/a/..",
        "/%2e",
        "/a b",
        "/a;b",
        "/$uri",
        "/{a}",
        "/a?b",
        "/a#b",
        "/" + "a" * 254,
        "/a\n",
        "= /a",
        "~ /a",
        "^~ /a",
        "@a",
        "/é",
    ],
)
def test_nothing_else_is_a_path(text: str) -> None:
    with pytest.raises(ValueError, match=r"path|/\.\./"):
        parse_path(text)


@pytest.mark.parametrize(
    ("text", "host", "path"),
    [
        ("App.example.com", "app.example.com", "/"),
        ("app.example.com/", "app.example.com", "/"),
        ("app.example.com/api/", "app.example.com", "/api"),
        ("*.example.com/", "*.example.com", "/"),
        ("/api", None, "/api"),
        ("/", None, "/"),
    ],
)
def test_route_is_a_host_and_a_path(text: str, host: str | None, path: str) -> None:
    route = parse_route(text)
    assert route == RouteTag(Host(host) if host else None, Path(path))
    assert parse_route(str(route)) == route


_READ = [
    ("canary", "12.5%", VariantTag(CANARY, Share(1250))),
    ("canary", "10", VariantTag(CANARY, Share(1000))),
    ("variant", "blue:0.01%", VariantTag("blue", Share(1))),
    ("variant", "canary:10%", VariantTag(CANARY, Share(1000))),
    ("sticky", "none", Sticky(StickyBy.NONE)),
    ("sticky", "ip", Sticky(StickyBy.IP)),
    ("sticky", "cookie", Sticky(StickyBy.COOKIE, "proxygen_client")),
    ("sticky", "cookie:Sid", Sticky(StickyBy.COOKIE, "Sid")),
    ("sticky", "header:X-User", Sticky(StickyBy.HEADER, "x-user")),
    ("force", "header:X-Canary", (Force(Source.HEADER, "x-canary"),)),
    ("force", "cookie:Beta:yes", (Force(Source.COOKIE, "Beta", "yes"),)),
    ("weight", "0", 0),
    ("weight", "1000", 1000),
    ("balance", "least_conn", Balance(BalanceBy.LEAST_CONN)),
    ("balance", "hash:$uri", Balance(BalanceBy.HASH_URI)),
    ("balance", "hash:header:X-User", Balance(BalanceBy.HASH_HEADER, "x-user")),
    ("balance", "hash:cookie:Sid", Balance(BalanceBy.HASH_COOKIE, "Sid")),
    ("failover", "dc2", ("dc2",)),
    ("failover", "us-east_1,dc2,0", ("us-east_1", "dc2", "0")),
    ("protocol", "grpcs", Protocol.GRPCS),
    ("websocket", "false", False),
    ("tls", "auto", "auto"),
    ("tls", "example.com", "example.com"),
    ("timeout", "1500ms", 1500),
    ("timeout", "24h", 86_400_000),
    ("body-size", "0", 0),
    ("body-size", "10m", 10 << 20),
    ("body-size", "1024g", 1 << 40),
    ("rate", "10r/s", Rate(10, "s")),
    ("rate", "10r/m:20", Rate(10, "m", 20)),
    ("retries", "20", 20),
    ("keepalive", "10000", 10_000),
    ("auth", "staff.htpasswd", "staff.htpasswd"),
]


@pytest.mark.parametrize(("name", "text", "value"), _READ)
def test_value_is_read(name: str, text: str, value: object) -> None:
    field = next(key.field for key in KEYS if key.name == name)
    assert getattr(parse_tags([f"proxygen.{name}={text}"]), field) == value


_REFUSED = [
    ("canary", ["-1", "101", "1.234", "ten", "10%%"]),
    (
        "variant",
        ["blue", "blue:", ":10%", "stable:10%", "Blue:10%", "1blue:10%", "b_l:10%", "a" * 32 + ":10%", "a:b:10%"],
    ),
    ("sticky", ["", "cookie:", "header", "header:", "ip:x", "none:x", "cookie:a-b", "header:a_b", "cookie:1a", "url"]),
    (
        "force",
        [
            "header",
            "header:",
            "cookie:",
            "header:a:",
            "header:a:b c",
            "header:a:b:c",
            "query:a",
            "header:" + "a" * 65,
            "cookie:a:" + "b" * 129,
        ],
    ),
    ("weight", ["-1", "1001", "01", "1.5", "+1", "abc", "1_0", "١"]),
    (
        "balance",
        [
            "hash",
            "hash:",
            "hash:header",
            "hash:header:",
            "hash:cookie",
            "hash:cookie:a-b",
            "hash:$request_uri",
            "least_time",
            "ROUND_ROBIN",
        ],
    ),
    (
        "failover",
        ["DC2", "dc2,", ",dc2", "dc2,,dc3", "dc2, dc3", "dc2;dc3", "dc.2", "dc2,dc2", "a" * 65, "a,b,c,d,e,f,g,h,i"],
    ),
    ("protocol", ["HTTP", "ftp", "http2", "is_stream"]),
    ("listen", ["0", "65536", "-1", "80-90"]),
    ("hsts", ["True", "1", "yes", "on"]),
    ("tls", [".hidden", "../x", "a/b", "-a", "a" * 129]),
    ("auth", [".htpasswd", "/etc/passwd", "..", "a b"]),
    ("timeout", ["0", "0s", "25h", "1", "1.5s", "-1s", "1S", "1w"]),
    ("body-size", ["-1", "1025g", "1t", "1.5m", "1\u212a"]),
    ("max-fails", ["1001"]),
    ("retries", ["21"]),
    ("keepalive", ["10001"]),
    ("rate", ["10", "0r/s", "1000001r/s", "10r/h", "10r/s:", "10r/s:1000001", "10r/s:-1", "1.5r/s", "10r/s burst=5"]),
    (
        "allow",
        [
            "all",
            "10.0.0.1/8",
            "10.0.0.0/33",
            "10.0.0",
            "1",
            "010.0.0.1",
            "10.0.0.0/255.0.0.0",
            "fe80::1%eth0",
            ",",
            "10.0.0.1,",
            "10.0.0.1, 10.0.0.2",
        ],
    ),
]


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in _REFUSED for text in texts])
def test_value_is_refused_at_its_place(name: str, text: str) -> None:
    [problem] = lint_tags([f"proxygen.{name}={text}"])
    assert problem.place == f"proxygen.{name}"
    # In words.
    assert len(problem.reason.split()) > 4


def test_failover_keeps_its_order() -> None:
    assert format_tags(parse_tags(["proxygen.failover=dc3,dc1,dc2"])) == ("proxygen.failover=dc3,dc1,dc2",)
    assert ProxyTags(failover=["dc3", "dc1"]).failover == ("dc3", "dc1")


def test_networks_are_sorted_and_each_there_once() -> None:
    tags = parse_tags(["proxygen.allow=2001:DB8::/32,10.0.0.1,10.0.0.0/8,10.0.0.1/32"])
    assert format_tags(tags) == ("proxygen.allow=10.0.0.0/8,10.0.0.1/32,2001:db8::/32",)


# --- tags and Meta ---------------------------------------------------------------------------------------------------


def test_tags_of_others_are_ignored() -> None:
    assert (
        parse_tags(["v1", "proxygen", "proxygen-route=x", "Proxygen.route=x", "proxygenroute=x", "traefik.enable=true"])
        == ProxyTags()
    )
    assert (
        parse_tags((), [("version", "1"), ("proxygen", "x"), ("proxygen.route", "x"), ("Proxygen-route", "x")])
        == ProxyTags()
    )


def test_only_a_tag_with_the_prefix_is_meant_for_the_proxy() -> None:
    assert has_proxy_tags(["v1", "proxygen.nonsense"])
    assert not has_proxy_tags(["v1", "proxygen", "Proxygen.route=a.com"])
    assert has_proxy_tags(["edge.route=a.com"], "edge")


def test_tag_wins_over_meta_key_by_key() -> None:
    tags = parse_tags(
        ["proxygen.route=a.example.com", "proxygen.weight=5"],
        [("proxygen-route", "b.example.com c.example.com"), ("proxygen-weight", "nonsense"), ("proxygen-tls", "auto")],
    )
    assert tags == ProxyTags(route=["a.example.com"], weight=5, tls="auto")


def test_several_routes_in_meta_stand_between_spaces() -> None:
    tags = parse_tags((), [("proxygen-route", "b.example.com  a.example.com/x")])
    assert tags == ProxyTags(route=["a.example.com/x", "b.example.com"])


def test_problem_in_meta_is_placed_there() -> None:
    assert [problem.place for problem in lint_tags((), [("proxygen-weight", "x"), ("proxygen-route", "a..b")])] == [
        "proxygen-weight",
        "proxygen-route",
    ]


def test_key_that_is_stated_twice_must_say_the_same() -> None:
    assert parse_tags(["proxygen.timeout=60s", "proxygen.timeout=1m"]) == ProxyTags(timeout="1m")
    [problem] = lint_tags(["proxygen.weight=5", "proxygen.weight=6"])
    assert str(problem) == "proxygen.weight: one value is allowed, and there are '5' and '6'"


def test_unknown_key_is_refused_with_the_nearest_and_all_others() -> None:
    [problem] = lint_tags(["proxygen.strip_prefix=true"])
    assert problem.place == "'proxygen.strip_prefix=true'"
    assert "did you mean strip-prefix?" in problem.reason
    assert all(key.name in problem.reason for key in KEYS)


def test_tag_without_a_value_is_refused_with_an_example() -> None:
    [problem] = lint_tags(["proxygen.canary"])
    assert str(problem) == "proxygen.canary: there is no value; write proxygen.canary=10%"


def test_all_problems_are_found_and_the_first_is_raised() -> None:
    tags = [
        "proxygen.weight=x",
        "proxygen.weight=y",
        "proxygen.nonsense=1",
        "proxygen.route=a.com",
        "proxygen.hsts=yes",
    ]
    problems = lint_tags(tags)
    assert [problem.place for problem in problems] == [
        "'proxygen.nonsense=1'",
        "proxygen.weight",
        "proxygen.weight",
        "proxygen.hsts",
    ]
    with pytest.raises(TagError, match=re.escape(str(problems[0]))):
        parse_tags(tags)


# --- combinations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "place"),
    [
        (["protocol=tcp"], "protocol"),
        (["protocol=udp"], "protocol"),
        (["listen=5432"], "listen"),
        (["protocol=grpc", "listen=5432"], "listen"),
        (["protocol=fastcgi", "strip-prefix=true"], "strip-prefix"),
        (["protocol=uwsgi", "strip-prefix=true"], "strip-prefix"),
        (["hsts=true"], "hsts"),
        (["redirect-https=true"], "redirect-https"),
        (["canary=5%", "variant=blue:5%"], "variant"),
        (["variant=canary:5%", "canary=5%"], "canary"),
    ],
)
def test_combination_that_makes_no_sense_is_refused(tags: list[str], place: str) -> None:
    [problem] = lint_tags([f"proxygen.{tag}" for tag in tags])
    assert problem.place == f"proxygen.{place}"


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize(
    "tag",
    [
        "sticky=cookie",
        "sticky=header:a",
        "force=header:a",
        "strip-prefix=true",
        "websocket=true",
        "tls=auto",
        "body-size=0",
        "keepalive=0",
        "rate=1r/s",
        "auth=staff",
        "balance=ip_hash",
        "balance=hash:$uri",
        "balance=hash:header:a",
        "balance=hash:cookie:a",
    ],
)
def test_stream_takes_nothing_that_needs_a_request(protocol: str, tag: str) -> None:
    [problem] = lint_tags([f"proxygen.protocol={protocol}", "proxygen.listen=5432", f"proxygen.{tag}"])
    assert problem.place == f"proxygen.{tag.partition('=')[0]}"


@pytest.mark.parametrize(
    "tags",
    [
        [
            "protocol=tcp",
            "listen=5432",
            "canary=10%",
            "sticky=ip",
            "balance=least_conn",
            "weight=3",
            "allow=10.0.0.0/8",
            "websocket=false",
        ],
        ["hsts=true", "redirect-https=true", "tls=auto"],
        ["hsts=false"],
        ["protocol=fastcgi", "strip-prefix=false"],
        ["protocol=grpc", "strip-prefix=true"],
    ],
)
def test_combination_that_makes_sense_is_taken(tags: list[str]) -> None:
    assert lint_tags([f"proxygen.{tag}" for tag in tags]) == []


def test_tags_that_nobody_could_read_back_are_not_written() -> None:
    contradictory = ProxyTags(hsts=True)
    assert [problem.place for problem in check_combination(contradictory)] == ["hsts"]
    with pytest.raises(TagError, match="add tls"):
        format_tags(contradictory)
    with pytest.raises(TagError, match="add tls"):
        format_meta(contradictory)


# --- building by hand ------------------------------------------------------------------------------------------------


def test_application_builds_tags_from_texts() -> None:
    tags = ProxyTags(
        route=["App.example.com/", "/api"], canary="10%", timeout="30s", force="header:X-A", allow=["10.0.0.1"]
    )
    assert tags.route == (RouteTag(None, Path("/api")), RouteTag(Host("app.example.com")))
    assert tags.variant == VariantTag(CANARY, Share(1000))
    assert tags.timeout == 30_000
    assert tags.force == (Force(Source.HEADER, "x-a"),)
    assert format_tags(tags)[-1] == "proxygen.allow=10.0.0.1/32"


def test_application_builds_tags_from_plain_values() -> None:
    tags = ProxyTags(canary=12.5, weight=5, hsts=False, tls="auto", body_size=1 << 20)
    assert tags == ProxyTags(variant="canary:12.5%", weight="5", hsts="false", tls="auto", body_size="1m")


def test_value_of_the_wrong_shape_does_not_get_in_as_a_value() -> None:
    """A NewType or a dataclass proves nothing at run time; the grammar is asked all the same."""
    refused: tuple[dict[str, Any], ...] = (
        {"route": [RouteTag(Host("a.com; }"), Path("/"))]},
        {"route": [RouteTag(None, Path("/x { return 200; }"))]},
        {"force": [Force(Source.HEADER, "a b")]},
        {"sticky": Sticky(StickyBy.COOKIE, "a;b")},
        {"weight": True},
        {"weight": 1001},
        {"hsts": 1},
        {"timeout": 0},
        {"canary": float("nan")},
    )
    for values in refused:
        with pytest.raises(TagError) as refusal:
            ProxyTags(**values)
        assert refusal.value.place in values


def test_keyword_that_is_no_key_is_a_type_error() -> None:
    values: dict[str, Any] = {"strip-prefix": True}
    with pytest.raises(TypeError, match="strip-prefix"):
        ProxyTags(**values)


def test_none_is_a_key_that_is_not_stated() -> None:
    assert ProxyTags(weight=None, tls=None, allow=None) == ProxyTags()


def test_applications_that_import_tags_load_no_library() -> None:
    """`proxygen.registration` builds on this package and promises to stay light."""
    script = (
        "import sys; import proxygen.tags, proxygen.tags.shares;"
        "print(sorted({name.partition('.')[0] for name in sys.modules}"
        " - {'__main__', *sys.stdlib_module_names}))"
    )
    done = subprocess.run([sys.executable, "-S", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['proxygen']"


# --- ends of ranges, and forms that are written though others are read too


@pytest.mark.parametrize(
    ("name", "lowest", "highest"),
    [
        ("weight", 0, 1000),
        ("listen", 1, 65_535),
        ("max-fails", 0, 1000),
        ("retries", 0, 20),
        ("keepalive", 0, 10_000),
    ],
)
def test_a_whole_number_has_both_its_ends(name: str, lowest: int, highest: int) -> None:
    key = next(key for key in KEYS if key.name == name)
    assert (key.parse(str(lowest)), key.parse(str(highest))) == (lowest, highest)
    for beyond in (lowest - 1, highest + 1):
        with pytest.raises(ValueError, match=f"from {lowest} to {highest}"):
            key.parse(str(beyond))


@pytest.mark.parametrize(
    ("name", "longest", "too_long"),
    [
        ("timeout", "86400000ms", "86400001ms"),
        ("body-size", "1024g", "1048577m"),
        ("rate", "1000000r/s:1000000", "1000000r/s:1000001"),
        ("tls", "a" * 128, "a" * 129),
        ("sticky", "header:" + "a" * 64, "header:" + "a" * 65),
        ("force", "cookie:a:" + "b" * 128, "cookie:a:" + "b" * 129),
        ("failover", "a,b,c,d,e,f,g,h", "a,b,c,d,e,f,g,h,i"),
        ("failover", "a" * 64, "a" * 65),
        ("route", "/" + "a" * 253, "/" + "a" * 254),
        ("route", ".".join(["a" * 63] * 3 + ["b" * 61]), ".".join(["a" * 63] * 3 + ["b" * 62])),
        ("allow", ",".join(["1.1.1.1"] * 255 + ["1.1.1.10"]), ",".join(["1.1.1.1"] * 255 + ["1.1.1.100"])),
    ],
)
def test_what_is_just_not_too_long_is_taken(name: str, longest: str, too_long: str) -> None:
    field = next(key.field for key in KEYS if key.name == name)
    assert getattr(parse_tags([f"proxygen.{name}={longest}"]), field)
    assert lint_tags([f"proxygen.{name}={too_long}"])


def test_networks_stand_by_version_then_address_then_width() -> None:
    tags = parse_tags(["proxygen.allow=::/0,10.0.0.0/16,192.0.2.0/24,10.0.0.0/8,2001:db8::/32"])
    assert format_tags(tags) == ("proxygen.allow=10.0.0.0/8,10.0.0.0/16,192.0.2.0/24,::/0,2001:db8::/32",)


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("route=App.example.com/", "route=app.example.com"),
        ("route=app.example.com/a/", "route=app.example.com/a"),
        ("route=/", "route=/"),
        ("canary=10", "canary=10%"),
        ("variant=canary:10%", "canary=10%"),
        ("variant=blue:5.50%", "variant=blue:5.5%"),
        ("sticky=cookie", "sticky=cookie:proxygen_client"),
        ("sticky=header:X-User", "sticky=header:x-user"),
        ("rate=10r/s:0", "rate=10r/s"),
        ("rate=10r/m:7", "rate=10r/m:7"),
        ("timeout=60s", "timeout=1m"),
        ("body-size=1024k", "body-size=1m"),
    ],
)
def test_a_tag_is_written_in_its_normal_form(written: str, normal: str) -> None:
    assert format_tags(parse_tags([f"proxygen.{written}"])) == (f"proxygen.{normal}",)


def test_an_application_cannot_belong_to_two_variants() -> None:
    for values in ({"canary": "10%", "variant": "blue:5%"}, {"variant": "canary:5%", "canary": "10%"}):
        with pytest.raises(TagError, match="one variant"):
            ProxyTags(**values)  # type: ignore[arg-type]


def test_a_tag_wins_over_meta_of_a_key_that_has_a_hyphen() -> None:
    tags = ("proxygen.strip-prefix=true", "proxygen.max-fails=3")
    meta = (("proxygen-strip-prefix", "false"), ("proxygen-max-fails", "4"), ("proxygen-fail-timeout", "7s"))
    found = parse_tags(tags, meta)
    assert (found.strip_prefix, found.max_fails, found.fail_timeout) == (True, 3, 7000)


def test_meta_of_the_other_key_for_one_field_is_a_contradiction() -> None:
    [problem] = lint_tags(["proxygen.canary=10%"], [("proxygen-variant", "blue:5%")])
    assert (problem.place, "one variant" in problem.reason) == ("proxygen-variant", True)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("a\x7f", "control character"),
        ("a\x9f", "control character"),
        ("a\x1f", "control character"),
        ("a ", "white space"),
        (" a", "white space"),
        ("a\u00a0", "white space"),
    ],
)
def test_what_cannot_be_seen_is_told_as_that(value: str, reason: str) -> None:
    [problem] = lint_tags([f"proxygen.tls={value}"])
    assert reason in problem.reason
