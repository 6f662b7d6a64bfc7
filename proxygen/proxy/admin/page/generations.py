"""The time line: which generations there were, why, and what became of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from proxygen.proxy.admin.page import words
from proxygen.proxy.admin.page.views import Form, Level
from proxygen.proxy.admin.report import GenerationReport
from proxygen.proxy.admin.summary import by_push
from proxygen.proxy.apply.outcome import Outcome

_LEVELS: Mapping[str, Level] = {
    Outcome.APPLIED: Level.GOOD,
    "live": Level.GOOD,
    "proven": Level.INFO,
    Outcome.UNCHANGED: Level.INFO,
    Outcome.HELD: Level.WARN,
    "not proven": Level.WARN,
    Outcome.REJECTED: Level.BAD,
    Outcome.ROLLED_BACK: Level.BAD,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StepView:
    """One stage of an apply, as a part of a bar of 100."""

    name: str
    text: str
    x: float
    width: float
    series: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One generation on the time line."""

    id: str
    title: str
    number: int
    live: bool
    outcome: str
    by: str
    """How it reached nginx, where that was no reload."""
    level: Level
    at: str
    iso: str
    age: str
    digest: str
    cause: str = ""
    said: tuple[str, ...] = ()
    """Why it was refused, with nginx's own words."""
    steps: tuple[StepView, ...] = ()
    took: str = ""
    propagation: str = ""
    """From the change in Consul until nginx was seen to serve it."""
    diff: str = ""
    """The page that shows what it changed."""
    rollback: Form | None = None


def time_line(generations: Iterable[GenerationReport], now: datetime, *, etag: str) -> tuple[Moment, ...]:
    return tuple(_moment(generation, now, etag) for generation in generations)


def _moment(generation: GenerationReport, now: datetime, etag: str) -> Moment:
    outcome = generation.outcome or ("live" if generation.live else "")
    return Moment(
        id=f"generation-{generation.number}",
        title=f"Generation {generation.number}",
        rollback=None if generation.live else _rollback(generation.number, etag),
        number=generation.number,
        live=generation.live,
        outcome=outcome,
        by=by_push(generation.by).strip(),
        level=_LEVELS.get(outcome, Level.INFO),
        at=words.clock(generation.created, now),
        iso=generation.created,
        age=words.age(generation.created, now),
        digest=generation.digest[:12],
        cause=generation.cause,
        said=tuple(generation.reason.split(" | ")) if generation.reason else (),
        steps=steps(generation.durations),
        took=words.milliseconds(sum(generation.durations.values())) if generation.durations else "",
        propagation=words.milliseconds(generation.propagation) if generation.propagation is not None else "",
        diff=f"/generations/{generation.number}",
    )


def _rollback(number: int, etag: str) -> Form:
    return Form(
        method="POST",
        action="/api/v1/rollback",
        etag=etag,
        button=f"Roll back to generation {number}",
        body=json.dumps({"generation": number}),
        confirm=f"Roll back to generation {number}? New plans are held until you release them.",
        done=f"nginx serves generation {number} again.",
    )


def steps(durations: Mapping[str, float]) -> tuple[StepView, ...]:
    total = sum(durations.values())
    found, start = [], 0.0
    for place, (name, seconds) in enumerate(durations.items()):
        width = 100 * seconds / total if total else 0.0
        text = words.milliseconds(seconds)
        found.append(StepView(name=name, text=text, x=round(start, 2), width=round(width, 2), series=place % 4))
        start += width
    return tuple(found)
