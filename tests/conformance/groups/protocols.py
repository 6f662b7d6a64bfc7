"""Which protocols a client may speak."""

from __future__ import annotations

from typing import Final

from tests.conformance.case import Case, Group, Outcome, Sent

PROTOCOLS: Final = Group(
    title="Protocols",
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
