"""Which protocols a client may speak."""

from __future__ import annotations

from typing import Final

from tests.conformance.case import Case, Group, Outcome, Sent

_PASSED: Final = ('If-None-Match: "a"', "Range: bytes=0-1", "Accept-Encoding: gzip, br", "Authorization: Basic YTpi")

PROTOCOLS: Final = Group(
    title="Protocols and targets",
    text="On nginx 1.22 as on the newest, where nginx can.",
    cases=(
        Case(
            name="tls-1-3",
            title="TLS 1.3 and no older",
            sent=Sent(),
            ways=("tls13",),
            expected=Outcome(reaches=("X-Forwarded-Proto: https",)),
            bare=Outcome(),
            bare_old=Outcome(status=None, times=0),
            incident="T83",
        ),
        Case(
            name="prior-knowledge",
            title="HTTP/2 in plain text, with prior knowledge",
            sent=Sent(),
            ways=("h2c",),
            expected=Outcome(reaches=("X-Forwarded-Proto: http",)),
            old=Outcome(status=None, times=0),
            bare=Outcome(status=None, times=0),
            incident="",
        ),
        Case(
            name="socket-refused",
            title="`Upgrade: websocket`; `websocket=false`",
            sent=Sent(headers=("Connection: Upgrade", "Upgrade: websocket"), does="status:404"),
            tags=("websocket=false",),
            expected=Outcome(status=404, without=("Upgrade", "Connection")),
            bare=None,
            ways=("http", "tls"),
        ),
        Case(
            name="old-client",
            title="HTTP/1.0 with `Host`",
            sent=Sent(raw=b"GET /?{query} HTTP/1.0\r\nHost: {host}\r\n\r\n"),
            expected=Outcome(reaches=("Host: {host}",)),
            bare=Outcome(reaches=("Host: {upstream}",)),
            ways=("http", "tls"),
        ),
        Case(
            name="old-client-no-host",
            title="HTTP/1.0 without `Host`",
            sent=Sent(raw=b"GET /?{query} HTTP/1.0\r\n\r\n"),
            expected=Outcome(status=404, times=0, answer=("Server: nginx",)),
            bare=None,
            ways=("http",),
        ),
        Case(
            name="no-host",
            title="HTTP/1.1 without `Host`",
            sent=Sent(raw=b"GET /?{query} HTTP/1.1\r\n\r\n"),
            expected=Outcome(status=400, times=0, answer=("Server: nginx",)),
            bare=Outcome(status=400, times=0),
            ways=("http",),
        ),
        Case(
            name="expect-continue",
            title="`POST` with `Expect: 100-continue`",
            sent=Sent(method="POST", body=b"x", headers=("Expect: 100-continue",)),
            expected=Outcome(body=1, without=("Expect",)),
            bare=Outcome(body=1, without=("Expect",)),
            ways=("http", "tls"),
        ),
        Case(
            name="conditional",
            title="`If-None-Match`, `Range`, `Accept-Encoding`, `Authorization`",
            sent=Sent(headers=_PASSED),
            expected=Outcome(reaches=_PASSED),
            bare=Outcome(reaches=_PASSED),
        ),
        *(
            Case(
                name=f"target-{name}",
                title=f"`{method} /a%2Fb//c/./d?e=%20&f=g+h`{more}",
                sent=Sent(method=method, target="/a%2Fb//c/./d?e=%20&f=g+h", headers=headers),
                expected=Outcome(line=f"{method} /a%2Fb//c/./d?e=%20&f=g+h"),
                bare=Outcome(line=f"{method} /a%2Fb//c/./d?e=%20&f=g+h"),
            )
            for name, method, headers, more in (
                ("get", "GET", (), ""),
                ("put", "PUT", (), ""),
                ("post", "POST", (), ""),
                ("events", "GET", ("Accept: text/event-stream",), " with `Accept: text/event-stream`"),
            )
        ),
        Case(
            name="early-hints",
            title="`GET`; the instance says 103 and then 200",
            sent=Sent(does="early", headers=("Connection: close",)),
            # nginx 1.22 takes the 103 for the answer, and waits for the end of its body.
            tags=("timeout=500ms",),
            bare_conf="proxy_read_timeout 500ms;",
            expected=Outcome(says=("hello",)),
            old=Outcome(status=None),
            bare=Outcome(says=("hello",)),
            incident="T84",
        ),
    ),
)
