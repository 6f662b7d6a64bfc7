"""The page "What a request gets", written from the cases: ``python -m tests.conformance``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.conformance.case import Case, Group, Outcome
from tests.conformance.cases import GROUPS

PAGE: Final = Path(__file__).parents[2] / "docs" / "reference" / "requests.md"

_NOTE: Final = "<!-- Written by `python -m tests.conformance`. Change tests/conformance/groups, then run it. -->"
_VALUES: Final = {
    "host": "app.example.com",
    "HOST": "APP.example.com",
    "port": "80",
    "scheme": "http",
    "upstream": "upstream",
    "request_id": "ID",
}
_LONGEST: Final = 120
_COLUMNS: Final = ("Sent", "Reaches the instance as", "Answered as", "A bare nginx")
_TIMES: Final = {0: "not at all", 2: "twice"}


def text() -> str:
    """The whole page."""
    return "\n".join([_NOTE, "", *_lines()]) + "\n"


def _lines() -> Iterator[str]:
    yield "# What a request gets"
    yield ""
    yield "Each row is a test (tests/conformance): sent by raw sockets through what proxygen renders, on nginx 1.22 and"
    yield "on the newest, over HTTP/1.1, TLS and HTTP/2 where it applies. The last column is seen too: an nginx whose"
    yield "configuration says `proxy_pass` to two servers and nothing else, over HTTP/1.1."
    yield ""
    yield "The values are for `app.example.com` over plain HTTP on port 80; over TLS, scheme and port are TLS's."
    yield "Headers that a row does not name are passed on as they are; `…` stands for anything, `ID` for the request's"
    yield "id, which the instance sees as `X-Request-ID`."
    for group in GROUPS:
        yield from ("", f"## {group.title}", "", group.text, "")
        yield from _table(group)


def _table(group: Group) -> Iterator[str]:
    yield "| " + " | ".join(_COLUMNS) + " |"
    yield "|" + "---|" * len(_COLUMNS)
    for case in group.cases:
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in _cells(case)) + " |"


def _cells(case: Case) -> tuple[str, str, str, str]:
    reaches, answered = _reaches(case.expected), _answered(case.expected)
    if case.old is not None:
        reaches = _both(reaches, _reaches(case.old))
        answered = _both(answered, _answered(case.old))
    return case.title, reaches, answered, _bare(case)


def _bare(case: Case) -> str:
    if case.bare is None:
        return "–"
    newest = _whole(case.bare)
    return newest if case.bare_old is None else _both(newest, _whole(case.bare_old))


def _both(newest: str, old: str) -> str:
    return newest if newest == old else f"{newest}<br>nginx 1.22: {old}"


def _whole(outcome: Outcome) -> str:
    """Both columns in one, without what says nothing."""
    parts = [_answered(outcome), _reaches(outcome)]
    return "; ".join(part for part in parts if part not in {"as sent", "once", "not at all"})


def _reaches(outcome: Outcome) -> str:
    parts = []
    if outcome.times in _TIMES:
        parts.append(_TIMES[outcome.times])
    if outcome.times is None:
        parts.append("once for each attempt")
    if outcome.times == 1 and outcome.status in {502, 504}:
        parts.append("once")
    if outcome.line:
        parts.append(_code(outcome.line))
    if outcome.body is not None and outcome.body > 1000:
        parts.append(f"all {outcome.body:,} bytes")
    parts += map(_code, outcome.reaches)
    parts += (f"no {_code(name)}" for name in outcome.without)
    return ", ".join(parts) or "as sent"


def _answered(outcome: Outcome) -> str:
    parts = ["closed without an answer" if outcome.status is None else _code(str(outcome.status))]
    if not outcome.complete:
        parts.append("broken off")
    parts += map(_code, outcome.answer)
    parts += (f"no {_code(name)}" for name in outcome.bare_of)
    if outcome.says:
        parts.append(f"the body has {' and '.join(map(_code, outcome.says))}")
    if outcome.others is not None:
        parts.append(f"the next client gets {_code(str(outcome.others))}")
    return ", ".join(parts)


def _code(text: str) -> str:
    filled = re.sub(r"\{(\w+)\}", lambda match: _VALUES[match[1]], text)
    # Each case has a host of its own.
    filled = re.sub(r"[a-z0-9-]+\.req\.example\.com", _VALUES["host"], filled)
    if len(filled) > _LONGEST:
        filled = f"{filled[: _LONGEST // 2]}*{filled[-_LONGEST // 2 :]}"
    return f"`{filled.replace('*', '…')}`"
