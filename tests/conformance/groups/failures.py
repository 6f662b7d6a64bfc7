"""What a failing instance costs, and whom."""

from __future__ import annotations

from typing import Final

from tests.conformance.case import Case, Group, Outcome, Sent

FAILURES: Final = Group(
    title="An instance fails",
    text=(
        "Both instances of the service do the same. Other clients are answered as before: an instance that failed is "
        "left out only while another can answer."
    ),
    cases=(
        Case(
            name="get-hung-up-on",
            title="`GET`; the instance hangs up without an answer",
            sent=Sent(does="hang-up"),
            expected=Outcome(status=502, times=None, others=200),
            bare=Outcome(status=502, times=2, others=502),
            incident="T73",
        ),
        Case(
            name="posts-hung-up-on",
            title="`POST` for the second time; the instance hangs up",
            sent=Sent(method="POST", body=b"x", does="hang-up"),
            before=1,
            expected=Outcome(status=502, others=200),
            bare=Outcome(status=502, others=502),
            incident="T73",
        ),
        Case(
            name="posts-timed-out",
            title="`POST` for the second time; the instance says nothing within `timeout`",
            sent=Sent(method="POST", body=b"x", does="silent"),
            before=1,
            tags=("timeout=1s",),
            expected=Outcome(status=504, others=200),
            bare=Outcome(status=504, others=502),
            bare_conf="proxy_read_timeout 400ms;",
            ways=("http",),
            incident="T73",
        ),
        Case(
            name="answers-too-large",
            title="`GET` for the second time; the answer has 40 kB of headers",
            sent=Sent(does="headers:40960"),
            before=1,
            expected=Outcome(status=502, times=1, others=200),
            bare=Outcome(status=502, times=1, others=502),
            incident="T73",
        ),
        Case(
            name="broken-off",
            title="`GET` for the second time; the instance breaks off in the middle of its answer",
            sent=Sent(does="half"),
            before=1,
            expected=Outcome(complete=False, others=200),
            bare=Outcome(complete=False, others=200),
            ways=("http",),
            incident="T73",
        ),
    ),
)


def _hung_up_on(method: str, *, bare_times: int) -> Case:
    return Case(
        name=f"{method.lower()}-once",
        title=f"`{method}`; the first instance hangs up",
        sent=Sent(method=method, body=b"x", does="hang-up,ok"),
        expected=Outcome(status=502),
        bare=Outcome(status=200 if bare_times == 2 else 502, times=bare_times),
        incident="T85",
    )


def _timed_out(method: str, *, bare_times: int) -> Case:
    return Case(
        name=f"{method.lower()}-timed-out",
        title=f"`{method}`; the first instance says nothing within `timeout`",
        sent=Sent(method=method, body=b"x", does="silent,ok"),
        tags=("timeout=1s",),
        expected=Outcome(status=504),
        bare=Outcome(status=200 if bare_times == 2 else 504, times=bare_times),
        bare_conf="proxy_read_timeout 400ms;",
        ways=("http",),
        incident="T85",
    )


def _refused(method: str) -> Case:
    return Case(
        name=f"{method.lower()}-refused",
        title=f"`{method}`; nobody listens on the first instance's port",
        sent=Sent(method=method, target="/a%2Fb//c?d=%20", body=b"x"),
        closed=1,
        expected=Outcome(line=f"{method} /a%2Fb//c?d=%20", body=1),
        bare=Outcome(line=f"{method} /a%2Fb//c?d=%20", body=1),
        incident="T85",
    )


def _asked_for(method: str) -> Case:
    return Case(
        name=f"{method.lower()}-retried",
        title=f"`{method}`; the first instance hangs up; `retries-unsafe=true`",
        sent=Sent(method=method, body=b"x", does="hang-up,ok"),
        tags=("retries-unsafe=true",),
        expected=Outcome(times=2, body=1),
        bare=None,
        incident="T85",
    )


SENT_AGAIN: Final = Group(
    title="Sent to a second instance",
    text=(
        "What changes something is sent to a second instance only where the first one saw nothing of it, or where the "
        "service says `retries-unsafe=true`."
    ),
    cases=(
        Case(
            name="get-again",
            title="`GET`; the first instance hangs up",
            sent=Sent(does="hang-up,ok"),
            expected=Outcome(times=2),
            bare=Outcome(times=2),
            incident="T85",
        ),
        Case(
            name="head-again",
            title="`HEAD`; the first instance hangs up",
            sent=Sent(method="HEAD", does="hang-up,ok"),
            expected=Outcome(times=2),
            bare=Outcome(times=2),
            incident="T85",
        ),
        Case(
            name="put-waiting-once",
            title="`PUT` with `Accept: text/event-stream`; the first instance hangs up",
            sent=Sent(method="PUT", body=b"x", headers=("Accept: text/event-stream",), does="hang-up,ok"),
            expected=Outcome(status=502),
            bare=Outcome(times=2),
            incident="T85",
        ),
        Case(
            name="get-timed-out",
            title="`GET`; the first instance says nothing within `timeout`",
            sent=Sent(does="silent,ok"),
            tags=("timeout=1s",),
            expected=Outcome(times=2),
            bare=Outcome(times=2),
            bare_conf="proxy_read_timeout 400ms;",
            ways=("http",),
            incident="T85",
        ),
        _hung_up_on("POST", bare_times=1),
        _hung_up_on("PATCH", bare_times=1),
        _hung_up_on("PUT", bare_times=2),
        _hung_up_on("DELETE", bare_times=2),
        _hung_up_on("MKCOL", bare_times=2),
        _timed_out("POST", bare_times=1),
        _timed_out("PUT", bare_times=2),
        _timed_out("DELETE", bare_times=2),
        *map(_refused, ("POST", "PUT", "PATCH", "DELETE")),
        *map(_asked_for, ("POST", "PUT", "PATCH", "DELETE")),
    ),
)
