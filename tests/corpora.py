"""Texts that a hostile or careless service may register, and proxy tags that a good one does."""

from __future__ import annotations

import string
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Final

from hypothesis import strategies as st

from proxygen.tags import (
    KEYS,
    Balance,
    BalanceBy,
    Force,
    Host,
    IPNetwork,
    Path,
    Protocol,
    ProxyTags,
    Rate,
    RouteTag,
    Source,
    Sticky,
    StickyBy,
    VariantTag,
)
from proxygen.tags.shares import Share

_LOWER: Final = string.ascii_lowercase
_ALNUM: Final = string.ascii_letters + string.digits

FRAGMENTS: Final = (
    *(
        "",
        " ",
        "\t",
        "\n",
        "\r\n",
        "\0",
        "\x0b",
        "\x1b[31m",
        "\x7f",
        "\x85",
        "\u00a0",
        "\u2028",
        "\u202e",
        "\ufeff",
        "\ud800",
    ),
    *(
        ";",
        "{",
        "}",
        "{}",
        "#",
        "'",
        '"',
        "\\",
        "\\\\",
        '\\"',
        "`",
        "|",
        "&&",
        "<",
        ">",
        "(",
        ")",
        "[",
        "]",
        "^",
        "~",
        "@",
        "%",
    ),
    *(
        "$",
        "${host}",
        "$http_authorization",
        "$http_cookie",
        "{{ 7 * 7 }}",
        "{% raw %}",
        "{# #}",
        "%00",
        "%2e%2e",
        "%s",
        "%n",
    ),
    *(
        "..",
        "/../",
        "/./",
        "//",
        "/..;/",
        "../../etc/passwd",
        "/etc/passwd",
        "file:///etc/passwd",
        "unix:/run/docker.sock",
    ),
    *(
        "~",
        "~*",
        "~^.*$",
        "= /x",
        "^~ /",
        "@named",
        "_",
        "*",
        "*.",
        "*.com",
        "**.example.com",
        "*.*.example.com",
        ".example.com",
    ),
    *(
        "default",
        "default_server",
        "hostnames",
        "include",
        "volatile",
        "include /etc/passwd",
        "all",
        "none",
        "stable",
        "auto",
    ),
    *("; return 200 pwned", "x; } server { listen 1; #", "/x { return 200 pwned; } location /y", "evil;}", "{ /x"),
    *(
        'x"; return 200 "pwned',
        "a.test; location /pwn { return 200; } #",
        "80 weight=99999",
        "10.0.0.1:80; server 192.0.2.6",
    ),
    *(
        "0",
        "-0",
        "-1",
        "+1",
        "00",
        "007",
        "1e3",
        "0x10",
        "1_000",
        "99999999999999999999",
        "9" * 5000,
        "NaN",
        "inf",
        "١٢",
        "²",
        "１０",
    ),
    *(
        "100.001%",
        "100.01",
        "12.",
        ".5",
        "1,5%",
        "%",
        "10%%",
        "10 %",
        "true",
        "True",
        "TRUE",
        "yes",
        "1",
        "null",
        "undefined",
    ),
    *(
        "example.com",
        "example.com.",
        "example.com:80",
        "-a.com",
        "a-.com",
        "a..b",
        "[::1]",
        "exаmple.com",
        "\u212aelvin.com",
    ),
    *(
        "münchen.de",
        "xn--mnchen-3ya.de",
        "a" * 64 + ".com",
        "a." * 126 + "aa",
        "a." * 127 + "a",
        "/" + "a" * 254,
        "x" * 100_000,
    ),
    *(
        "10.0.0.1/8",
        "10.0.0.0/33",
        "010.0.0.1",
        "1",
        "fe80::1%eth0",
        "fe80::%eth0/64",
        "::ffff:10.0.0.1",
        "10.0.0.0/255.0.0.0",
    ),
    *(
        "header:",
        "header:X-A:",
        "header:X_A",
        "cookie:a-b",
        "cookie::",
        "header:Host\r\nX: y",
        "hash:",
        "hash:$request_uri",
    ),
    *(
        "'; DROP TABLE x; --",
        "<script>alert(1)</script>",
        "() { :; }; id",
        "$(id)",
        "`id`",
        "${jndi:ldap://localhost/a}",
    ),
)
"""What has broken generators of configuration before, and what stands just outside the grammar."""


def hostile_text() -> st.SearchStrategy[str]:
    """Any text: known traps, traps inside good values, and noise from all of Unicode, lone surrogates included."""
    fragment = st.sampled_from(FRAGMENTS)
    good = st.sampled_from([key.example for key in KEYS])
    noise = st.text(st.characters(), max_size=40)
    syntax = st.text(";{}\"'\\$#~*=/.:%,@ \t\n\0azAZ09-_", max_size=40)
    joined = st.lists(fragment | good | syntax, min_size=1, max_size=4).map("".join)
    return st.one_of(
        fragment, noise, syntax, joined, st.tuples(good, fragment).map("".join), st.tuples(fragment, good).map("".join)
    )


def hostile_tags(prefix: str = "proxygen") -> st.SearchStrategy[list[str]]:
    """Lists of tags: known keys with hostile values, good tags among bad ones, keys that do not exist, plain noise."""
    key = st.sampled_from(KEYS)
    known = st.builds(lambda key, value: f"{prefix}.{key.name}={value}", key, hostile_text())
    good = key.map(lambda key: f"{prefix}.{key.name}={key.example}")
    unknown = st.builds(lambda name, value: f"{prefix}.{name}{value}", hostile_text(), hostile_text())
    return st.lists(st.one_of(known, known, good, unknown, hostile_text()), max_size=8)


def hosts() -> st.SearchStrategy[Host]:
    edge = st.sampled_from(_LOWER + string.digits)
    inner = st.text(_LOWER + string.digits + "-", max_size=61)
    label = edge | st.tuples(edge, inner, edge).map("".join)
    plain = st.lists(label, min_size=1, max_size=5).map(".".join)
    wildcard = st.lists(label, min_size=2, max_size=4).map(lambda labels: ".".join(["*", *labels]))
    return (plain | wildcard).filter(lambda host: len(host) <= 253).map(Host)


def paths() -> st.SearchStrategy[Path]:
    segment = st.text(_ALNUM + "._~!&()*+,=:@-", min_size=1, max_size=20).filter(lambda text: text not in (".", ".."))
    return st.lists(segment, max_size=5).map(lambda segments: Path("/" + "/".join(segments)))


def _header_names() -> st.SearchStrategy[str]:
    return st.builds(str.__add__, st.sampled_from(_LOWER), st.text(_LOWER + string.digits + "-", max_size=63))


def _cookie_names() -> st.SearchStrategy[str]:
    return st.builds(str.__add__, st.sampled_from(string.ascii_letters), st.text(_ALNUM + "_", max_size=63))


def _file_names() -> st.SearchStrategy[str]:
    return st.builds(str.__add__, st.sampled_from(_ALNUM + "_"), st.text(_ALNUM + "._-", max_size=127))


def _forces() -> st.SearchStrategy[Force]:
    value = st.none() | st.text(_ALNUM + "._-", min_size=1, max_size=128)
    header = st.builds(Force, st.just(Source.HEADER), _header_names(), value)
    return header | st.builds(Force, st.just(Source.COOKIE), _cookie_names(), value)


def variant_names() -> st.SearchStrategy[str]:
    name = st.builds(str.__add__, st.sampled_from(_LOWER), st.text(_LOWER + string.digits + "-", max_size=30))
    return (st.just("canary") | name).filter(lambda text: text != "stable")


def shares() -> st.SearchStrategy[Share]:
    return st.integers(0, 10_000).map(Share)


def _datacenters() -> st.SearchStrategy[str]:
    return st.text(_LOWER + string.digits + "_-", min_size=1, max_size=64)


def _networks() -> st.SearchStrategy[list[IPNetwork]]:
    four = st.builds(
        lambda number, length: IPv4Network((number, length), strict=False),
        st.integers(0, 2**32 - 1),
        st.integers(0, 32),
    )
    six = st.builds(
        lambda number, length: IPv6Network((number, length), strict=False),
        st.integers(0, 2**128 - 1),
        st.integers(0, 128),
    )
    return st.lists(four | six, min_size=1, max_size=5)


_DURATIONS: Final = st.integers(1, 86_400_000)

_ANYWHERE: Final[dict[str, st.SearchStrategy[Any]]] = {
    "route": st.lists(st.builds(RouteTag, st.none() | hosts(), paths()), max_size=4),
    "variant": st.builds(VariantTag, variant_names(), shares()),
    "weight": st.integers(0, 1000),
    "timeout": _DURATIONS,
    "connect_timeout": _DURATIONS,
    "fail_timeout": _DURATIONS,
    "max_fails": st.integers(0, 1000),
    "retries": st.integers(0, 20),
    "allow": _networks(),
    "deny": _networks(),
    "failover": st.lists(_datacenters(), min_size=1, max_size=8, unique=True),
}
_STREAM: Final[dict[str, st.SearchStrategy[Any]]] = {
    "sticky": st.sampled_from([Sticky(StickyBy.NONE), Sticky(StickyBy.IP)]),
    "balance": st.sampled_from(
        [Balance(BalanceBy.ROUND_ROBIN), Balance(BalanceBy.LEAST_CONN), Balance(BalanceBy.RANDOM)]
    ),
    "websocket": st.just(False),
}
_HTTP: Final[dict[str, st.SearchStrategy[Any]]] = {
    "sticky": st.one_of(
        _STREAM["sticky"],
        st.builds(Sticky, st.just(StickyBy.COOKIE), _cookie_names()),
        st.builds(Sticky, st.just(StickyBy.HEADER), _header_names()),
    ),
    "force": st.lists(_forces(), max_size=3),
    "balance": st.one_of(
        _STREAM["balance"],
        st.sampled_from([Balance(BalanceBy.IP_HASH), Balance(BalanceBy.HASH_URI)]),
        st.builds(Balance, st.just(BalanceBy.HASH_COOKIE), _cookie_names()),
        st.builds(Balance, st.just(BalanceBy.HASH_HEADER), _header_names()),
    ),
    "websocket": st.booleans(),
    "idle_timeout": _DURATIONS,
    "body_size": st.integers(0, 1 << 40),
    "request_buffering": st.booleans(),
    "response_buffering": st.booleans(),
    "retries_unsafe": st.booleans(),
    "keepalive": st.integers(0, 10_000),
    "keepalive_timeout": _DURATIONS,
    "rate": st.builds(Rate, st.integers(1, 1_000_000), st.sampled_from("sm"), st.integers(0, 1_000_000)),
    "auth": _file_names(),
}
_TLS: Final[dict[str, st.SearchStrategy[Any]]] = {"redirect_https": st.booleans(), "hsts": st.booleans()}


DRAWN: Final = frozenset({*_ANYWHERE, *_STREAM, *_HTTP, *_TLS, "protocol", "listen", "tls", "strip_prefix"})
"""The fields that `valid_proxy_tags` draws."""


@st.composite
def valid_proxy_tags(draw: st.DrawFn) -> ProxyTags:
    """Proxy tags of any key in any combination that makes sense."""
    protocol = draw(st.none() | st.sampled_from(list(Protocol)))
    values: dict[str, Any] = {} if protocol is None else {"protocol": protocol}
    optional = dict(_ANYWHERE)
    if protocol is not None and protocol.is_stream:
        values["listen"] = draw(st.integers(1, 65535))
        optional |= _STREAM
    else:
        optional |= _HTTP
        if draw(st.booleans()):
            values["tls"] = draw(st.just("auto") | _file_names())
            optional |= _TLS
        optional["strip_prefix"] = st.just(False) if protocol in (Protocol.FASTCGI, Protocol.UWSGI) else st.booleans()
    return ProxyTags(**values, **draw(st.fixed_dictionaries({}, optional=optional)))
