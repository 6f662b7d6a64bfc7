"""What a client is told where things go wrong, and what it is not told."""

from __future__ import annotations

from typing import Final

from tests.conformance.case import Case, Group, Outcome, Sent

_STICKY: Final = ("sticky=cookie",)
_CANARY: Final = ("canary=50%",)

MANNERS: Final = Group(
    title="Errors and cookies",
    text=(
        "Errors that nginx itself gives are small pages without its version; an application's own answers stay as "
        "they are."
    ),
    cases=(
        Case(
            name="error-page",
            title="`GET`; no instance answers",
            sent=Sent(does="hang-up", headers=("Accept: text/html,*/*",)),
            expected=Outcome(
                status=502,
                times=None,
                answer=("Server: nginx", "Retry-After: *", "Content-Type: text/html*"),
                says=("502", "{request_id}"),
            ),
            bare=Outcome(status=502, times=2, answer=("Server: nginx/*",), bare_of=("Retry-After",)),
            incident="T86",
        ),
        Case(
            name="error-json",
            title="The same with `Accept: application/json`",
            sent=Sent(does="hang-up", headers=("Accept: application/json",)),
            expected=Outcome(
                status=502,
                times=None,
                answer=("Retry-After: *", "Content-Type: application/json*"),
                says=('"status": 502', '"error": "Bad Gateway"', '"request_id": "{request_id}"'),
            ),
            bare=Outcome(status=502, times=2, answer=("Content-Type: text/html",)),
            incident="T86",
        ),
        Case(
            name="error-timeout",
            title="`POST` with `Accept: application/json`; the instance says nothing within `timeout`",
            sent=Sent(method="POST", does="silent", headers=("Accept: application/json",)),
            tags=("timeout=400ms",),
            expected=Outcome(status=504, answer=("Retry-After: *",), says=('"status": 504', '"error": "Gateway Time')),
            bare=Outcome(status=504, bare_of=("Retry-After",)),
            bare_conf="proxy_read_timeout 400ms;",
            ways=("http",),
            incident="T86",
        ),
        Case(
            name="error-rate",
            title="A second request; `rate=1r/m`",
            sent=Sent(),
            tags=("rate=1r/m",),
            before=1,
            expected=Outcome(status=429, times=0, answer=("Retry-After: *",), says=("429",)),
            bare=None,
            incident="T86",
        ),
        Case(
            name="error-too-large",
            title="`POST` with 2 kB and `Accept: application/json`; `body-size=1k`",
            sent=Sent(method="POST", body=b"u" * 2048, headers=("Accept: application/json",)),
            tags=("body-size=1k",),
            expected=Outcome(status=413, times=0, says=('"status": 413',), bare_of=("Retry-After",)),
            bare=None,
            incident="T86",
        ),
        Case(
            name="own-500",
            title="`GET`; the application answers 500",
            sent=Sent(does="status:500"),
            expected=Outcome(status=500, says=("the application's own words",), bare_of=("Retry-After",)),
            bare=Outcome(status=500, says=("the application's own words",)),
            incident="T86",
        ),
        Case(
            name="own-503",
            title="`GET`; the application answers 503",
            sent=Sent(does="status:503", headers=("Accept: application/json",)),
            expected=Outcome(status=503, says=("the application's own words",), answer=("Content-Type: text/plain",)),
            bare=Outcome(status=503, says=("the application's own words",)),
            incident="T86",
        ),
        Case(
            name="sticky-http",
            title="`GET`; `sticky=cookie`, over plain HTTP",
            sent=Sent(),
            tags=_STICKY,
            second=_CANARY,
            ways=("http",),
            expected=Outcome(answer=("Set-Cookie: *; HttpOnly; SameSite=Lax",)),
            bare=None,
            incident="T86",
        ),
        Case(
            name="sticky-tls",
            title="`GET`; `sticky=cookie`, over TLS",
            sent=Sent(),
            tags=_STICKY,
            second=_CANARY,
            ways=("tls",),
            expected=Outcome(answer=("Set-Cookie: *; HttpOnly; SameSite=Lax; Secure",)),
            bare=None,
            incident="T86",
        ),
        Case(
            name="sticky-redirect",
            title="`GET`; `sticky=cookie`, and the instance redirects",
            sent=Sent(does="location:/login"),
            tags=_STICKY,
            second=_CANARY,
            expected=Outcome(status=302, bare_of=("Set-Cookie",)),
            bare=None,
            incident="T86",
        ),
        Case(
            name="header-underscore",
            title="`X_Under_Score: 1`",
            sent=Sent(headers=("X_Under_Score: 1",)),
            expected=Outcome(without=("X_Under_Score",)),
            bare=Outcome(without=("X_Under_Score",)),
            incident="",
        ),
    ),
)
