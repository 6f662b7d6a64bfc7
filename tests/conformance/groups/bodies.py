"""How much, and for how long."""

from __future__ import annotations

from typing import Final

from tests.conformance.case import Case, Group, Outcome, Sent

_LARGE: Final = 1_100_000
_TIMES: Final = ("timeout=500ms", "idle-timeout=30s")
_BARE_TIMES: Final = "proxy_read_timeout 500ms; proxy_send_timeout 500ms;"

BODIES: Final = Group(
    title="Bodies",
    text="There is no limit unless `proxy.body_size` or the tag `body-size` sets one.",
    cases=(
        Case(
            name="upload",
            title="`POST` with 1.1 MB",
            sent=Sent(method="POST", body=b"u" * _LARGE),
            expected=Outcome(body=_LARGE),
            bare=Outcome(status=413, times=0),
            incident="T74",
        ),
        Case(
            name="upload-chunked",
            title="`POST` with 1.1 MB in chunks",
            sent=Sent(method="POST", body=b"u" * _LARGE, chunked=True),
            expected=Outcome(body=_LARGE),
            bare=Outcome(status=413, times=0),
            ways=("http", "tls"),
            incident="T74",
        ),
        Case(
            name="upload-streamed",
            title="`POST` with 1.1 MB; `request-buffering=false`",
            sent=Sent(method="POST", body=b"u" * _LARGE),
            tags=("request-buffering=false",),
            expected=Outcome(body=_LARGE),
            bare=None,
            incident="T74",
        ),
        Case(
            name="put-upload",
            title="`PUT` with 1.1 MB; nobody listens on the first instance's port",
            sent=Sent(method="PUT", body=b"u" * _LARGE),
            closed=1,
            expected=Outcome(body=_LARGE),
            bare=Outcome(status=413, times=0),
            incident="T74",
        ),
        Case(
            name="put-streamed",
            title="`PUT` with 1.1 MB; `request-buffering=false`",
            sent=Sent(method="PUT", body=b"u" * _LARGE),
            tags=("request-buffering=false",),
            expected=Outcome(body=_LARGE),
            bare=None,
            incident="T74",
        ),
        Case(
            name="put-limited",
            title="`PUT` with 2 kB; `body-size=1k`",
            sent=Sent(method="PUT", body=b"u" * 2048),
            tags=("body-size=1k",),
            expected=Outcome(status=413, times=0),
            bare=None,
            incident="T74",
        ),
        Case(
            name="upload-limited",
            title="`POST` with 2 kB; `body-size=1k`",
            sent=Sent(method="POST", body=b"u" * 2048),
            tags=("body-size=1k",),
            expected=Outcome(status=413, times=0),
            bare=None,
            incident="T74",
        ),
    ),
)

HEADERS: Final = Group(
    title="Long headers",
    text=(
        "The request line, each header of a request, and the headers of an answer may have 32 kB (`proxy.header_size`)."
    ),
    cases=(
        Case(
            name="answer-5k",
            title="The answer has 5 kB of headers",
            sent=Sent(does="headers:5120"),
            expected=Outcome(answer=("X-Large-00: *", "X-Large-04: *")),
            bare=Outcome(status=502),
            incident="T75",
        ),
        Case(
            name="answer-30k",
            title="The answer has 30 kB of headers",
            sent=Sent(does="headers:30720"),
            expected=Outcome(answer=("X-Large-00: *", "X-Large-29: *")),
            bare=Outcome(status=502),
            incident="T75",
        ),
        Case(
            name="cookie-9k",
            title="A cookie of 9 kB",
            sent=Sent(headers=("Cookie: session=" + "c" * 9000,)),
            expected=Outcome(),
            bare=Outcome(status=400, times=0),
            incident="T79",
        ),
        Case(
            name="cookie-31k",
            title="A cookie of 31 kB",
            sent=Sent(headers=("Cookie: session=" + "c" * 31_000,)),
            expected=Outcome(),
            bare=Outcome(status=400, times=0),
            incident="T79",
        ),
        Case(
            name="accept-30k",
            title="`Accept` and `Prefer` of 30 kB",
            sent=Sent(headers=("Accept: " + "a/b, |wait|" * 2700, "Prefer: " + "a=b, " * 5900)),
            expected=Outcome(),
            bare=Outcome(status=400, times=0),
            incident="T79",
        ),
        Case(
            name="crumbs",
            title="A cookie of 20 kB in two fields of HTTP/2",
            sent=Sent(headers=("Cookie: a=" + "1" * 10_000, "Cookie: b=" + "2" * 10_000)),
            expected=Outcome(reaches=("Cookie: a=" + "1" * 10_000 + "; b=" + "2" * 10_000,)),
            bare=None,
            ways=("h2",),
            incident="T79",
        ),
        Case(
            name="target-9k",
            title="A target of 9 kB",
            sent=Sent(target="/" + "t" * 9000),
            expected=Outcome(),
            bare=Outcome(status=414, times=0),
            incident="T79",
        ),
        Case(
            name="headers-30k",
            title="30 kB in ten headers",
            sent=Sent(headers=tuple(f"X-Part-{number}: {'p' * 3000}" for number in range(10))),
            expected=Outcome(),
            bare=Outcome(status=400, times=0),
            incident="T79",
        ),
        Case(
            name="target-40k",
            title="A target of 40 kB",
            sent=Sent(target="/" + "t" * 40_000),
            expected=Outcome(status=414, times=0),
            bare=Outcome(status=414, times=0),
            ways=("http", "tls"),
            incident="T79",
        ),
        Case(
            name="cookie-40k",
            title="A cookie of 40 kB",
            sent=Sent(headers=("Cookie: session=" + "c" * 40_000,)),
            expected=Outcome(status=400, times=0),
            bare=Outcome(status=400, times=0),
            ways=("http", "tls"),
            incident="T79",
        ),
    ),
)

SILENCE: Final = Group(
    title="Silence",
    text=(
        "An ordinary request may be silent for `timeout` (5 minutes), what is meant to wait for `idle-timeout` "
        "(an hour). Here they are half a second and half a minute, and the instance is silent for a second and a half. "
        "The bare nginx has its timeouts at half a second."
    ),
    cases=(
        Case(
            name="slow",
            title="`GET`",
            sent=Sent(does="slow"),
            tags=_TIMES,
            expected=Outcome(status=504, times=None),
            bare=Outcome(status=504, times=2),
            bare_conf=_BARE_TIMES,
            ways=("http",),
            incident="T76",
        ),
        Case(
            name="silent-socket",
            title="A WebSocket",
            sent=Sent(headers=("Upgrade: websocket", "Connection: Upgrade"), does="websocket"),
            tags=_TIMES,
            expected=Outcome(status=101, says=("late",)),
            bare=Outcome(status=400),
            bare_conf=_BARE_TIMES,
            ways=("http", "tls"),
            incident="T76",
        ),
        Case(
            name="silent-events",
            title="`Accept: text/event-stream`",
            sent=Sent(headers=("Accept: text/event-stream",), does="events"),
            tags=_TIMES,
            expected=Outcome(says=("data: 1", "data: late")),
            bare=Outcome(complete=False),
            bare_conf=_BARE_TIMES,
            incident="T76",
        ),
        Case(
            name="silent-events-post",
            title="`POST` with `Accept: application/json, text/event-stream`",
            sent=Sent(
                method="POST", body=b"x", headers=("Accept: application/json, text/event-stream",), does="events"
            ),
            tags=_TIMES,
            expected=Outcome(body=1, says=("data: 1", "data: late")),
            bare=Outcome(complete=False),
            bare_conf=_BARE_TIMES,
            ways=("http",),
            incident="T76",
        ),
        Case(
            name="slow-post",
            title="`POST`",
            sent=Sent(method="POST", body=b"x", does="slow"),
            tags=_TIMES,
            expected=Outcome(status=504),
            bare=Outcome(status=504),
            bare_conf=_BARE_TIMES,
            ways=("http",),
            incident="T76",
        ),
        Case(
            name="long-poll",
            title="`Prefer: wait=30`",
            sent=Sent(headers=("Prefer: wait=30",), does="slow"),
            tags=_TIMES,
            expected=Outcome(says=("late",)),
            bare=Outcome(status=504, times=2),
            bare_conf=_BARE_TIMES,
            incident="T76",
        ),
    ),
)
