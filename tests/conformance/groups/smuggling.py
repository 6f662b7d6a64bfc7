"""Requests that two parties could read differently."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from tests.conformance.case import Case, Group, Outcome, Sent

_REFUSED: Final = Outcome(status=400, times=0)


def _case(
    name: str,
    title: str,
    lines: bytes,
    *,
    method: bytes = b"POST",
    version: bytes = b"1.1",
    rest: bytes = b"",
    expected: Outcome = _REFUSED,
    bare: Outcome | None = None,
    bare_old: Outcome | None = None,
    old: Outcome | None = None,
) -> Case:
    refusals = {400, 501}
    quiet = replace(expected, answer=("Server: nginx",)) if expected.status in refusals else expected
    raw = method + b" /?{query} HTTP/" + version + b"\r\nHost: {host}\r\n" + lines + b"\r\n\r\n" + rest
    return Case(
        name=f"smuggle-{name}",
        title=title,
        sent=Sent(raw=raw, method=method.decode()),
        expected=quiet,
        old=old,
        bare=bare or expected,
        bare_old=bare_old or old,
        ways=("http", "tls"),
    )


SMUGGLING: Final = Group(
    title="Smuggling",
    text="What two parties could read differently is refused, as nginx itself does.",
    cases=(
        _case(
            "cl-te",
            "`Content-Length` and `Transfer-Encoding: chunked`",
            b"Content-Length: 4\r\nTransfer-Encoding: chunked",
            rest=b"0\r\n\r\n",
        ),
        _case(
            "te-cl",
            "`Transfer-Encoding: chunked` and `Content-Length`",
            b"Transfer-Encoding: chunked\r\nContent-Length: 4",
            rest=b"0\r\n\r\n",
        ),
        _case("two-lengths", "Two `Content-Length` that differ", b"Content-Length: 1\r\nContent-Length: 2", rest=b"xy"),
        _case("same-lengths", "Two `Content-Length` that agree", b"Content-Length: 1\r\nContent-Length: 1", rest=b"x"),
        _case("list-length", "`Content-Length: 1, 1`", b"Content-Length: 1, 1", rest=b"x"),
        _case("plus-length", "`Content-Length: +1`", b"Content-Length: +1", rest=b"x"),
        _case("minus-length", "`Content-Length: -1`", b"Content-Length: -1", rest=b"x"),
        _case("hex-length", "`Content-Length: 0x1`", b"Content-Length: 0x1", rest=b"x"),
        _case("huge-length", "`Content-Length: 99999999999999999999`", b"Content-Length: 99999999999999999999"),
        _case(
            "two-encodings",
            "Two `Transfer-Encoding: chunked`",
            b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            rest=b"0\r\n\r\n",
        ),
        _case(
            "other-encoding",
            "`Transfer-Encoding: xchunked`",
            b"Transfer-Encoding: xchunked",
            rest=b"0\r\n\r\n",
            expected=Outcome(status=501, times=0),
        ),
        _case(
            "encoding-list",
            "`Transfer-Encoding: chunked, identity`",
            b"Transfer-Encoding: chunked, identity",
            rest=b"0\r\n\r\n",
            expected=Outcome(status=501, times=0),
        ),
        _case(
            "old-chunked",
            "`Transfer-Encoding: chunked` in HTTP/1.0",
            b"Transfer-Encoding: chunked",
            version=b"1.0",
            rest=b"0\r\n\r\n",
        ),
        _case(
            "chunk-size",
            "A chunk of `zz` bytes",
            b"Transfer-Encoding: chunked",
            rest=b"zz\r\nhello\r\n0\r\n\r\n",
        ),
        _case(
            "chunk-overflow",
            "A chunk of `fffffffffffffffff` bytes",
            b"Transfer-Encoding: chunked",
            rest=b"fffffffffffffffff\r\n",
        ),
        _case("folded", "A header that goes on in the next line", b"X-Folded: a\r\n b", method=b"GET"),
        _case(
            "folded-length", "`Content-Length` with its value in a line of its own", b"Content-Length:\r\n 1", rest=b"x"
        ),
        _case("nul", "A NUL in a header", b"X-Nul: a\0b", method=b"GET"),
        _case("nul-name", "A NUL in a header's name", b"X-N\0ul: a", method=b"GET"),
        _case("space-colon", "`Content-Length : 1`", b"Content-Length : 1", rest=b"x"),
        _case("no-colon", "A line without a colon", b"nonsense", method=b"GET", expected=Outcome()),
        _case("two-hosts", "Two `Host`", b"Host: evil.example.org", method=b"GET"),
        Case(
            name="smuggle-target",
            title="A NUL in the target",
            sent=Sent(raw=b"GET /\0?{query} HTTP/1.1\r\nHost: {host}\r\n\r\n"),
            expected=_REFUSED,
            bare=_REFUSED,
            ways=("http", "tls"),
        ),
    ),
)
