"""What happened, as a bounded log: for those who follow it live, and for those who come back after a pause.

What passes is told once. What lasts (a hold, a quarantine, a lost Consul) is told when it begins, when its cause
becomes another one, and when it ends: whoever knows what lasts now gives that to `EventLog.note` and needs to know
nothing of before.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from itertools import islice
from types import MappingProxyType
from typing import Final

KEPT: Final = 500

FLOOD: Final = 20
"""More than this many of a kind at once become one event: they have one cause, and would push out all others."""


class Kind(StrEnum):
    """What an event tells."""

    APPLIED = "applied"
    REJECTED = "rejected"
    ROLLED_BACK = "rolled back"
    HELD = "held"
    HOLD_ENDED = "hold ended"
    QUARANTINED = "quarantined"
    QUARANTINE_ENDED = "quarantine ended"
    CONFLICT = "conflict"
    CONFLICT_ENDED = "conflict ended"
    CONSUL_LOST = "consul lost"
    CONSUL_BACK = "consul back"
    STEERED = "steered"
    """An operator changed something over the admin API."""
    MISSED = "missed"
    """Events before this one are not kept any more: what is so now must be read anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened."""

    id: int
    """Only grows, across restarts too."""
    at: str
    """ISO 8601, UTC."""
    kind: Kind
    text: str
    """What happened, in a sentence."""
    generation: int | None = None
    services: tuple[str, ...] = ()
    """The services that it is about; of many, the first."""


class Topic(StrEnum):
    """A kind of condition that begins, lasts and ends."""

    HOLD = "hold"
    QUARANTINE = "quarantine"
    CONFLICT = "conflict"
    CONSUL = "consul"


_BEGINS: Final = {
    Topic.HOLD: Kind.HELD,
    Topic.QUARANTINE: Kind.QUARANTINED,
    Topic.CONFLICT: Kind.CONFLICT,
    Topic.CONSUL: Kind.CONSUL_LOST,
}
_ENDS: Final = {
    Topic.HOLD: Kind.HOLD_ENDED,
    Topic.QUARANTINE: Kind.QUARANTINE_ENDED,
    Topic.CONFLICT: Kind.CONFLICT_ENDED,
    Topic.CONSUL: Kind.CONSUL_BACK,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """Something that is so for a while."""

    text: str
    """Why, in a sentence."""
    end: str
    """What is said when it is over."""
    services: tuple[str, ...] = ()
    cause: str
    """Another cause is news; the text may move while it lasts."""


NOTHING: Final[Mapping[str, Condition]] = MappingProxyType({})


class EventLog:
    """The newest events, and who waits for the next. Belongs to one loop."""

    def __init__(self, *, keep: int = KEPT) -> None:
        self._events: deque[Event] = deque(maxlen=keep)
        # Milliseconds: a later run begins above all that an earlier one can have counted.
        self._next = round(time.time() * 1000)
        self._standing: dict[Topic, dict[str, Condition]] = {topic: {} for topic in Topic}
        self._appended = asyncio.Event()
        self._totals: Counter[Kind] = Counter()

    @property
    def totals(self) -> Mapping[Kind, int]:
        """How many events of each kind there were, kept or not."""
        return self._totals

    def append(self, kind: Kind, text: str, *, generation: int | None = None, services: Iterable[str] = ()) -> Event:
        event = Event(
            id=self._next,
            at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            kind=kind,
            text=text,
            generation=generation,
            services=tuple(islice(services, FLOOD)),
        )
        self._next += 1
        self._events.append(event)
        self._totals[kind] += 1
        self._appended.set()
        self._appended = asyncio.Event()
        return event

    def note(self, topic: Topic, now: Mapping[str, Condition]) -> None:
        """Take in what of a topic is so now, each under a name that stays the same while it lasts."""
        before = self._standing[topic]
        self._standing[topic] = dict(now)
        ended = [condition for name, condition in before.items() if name not in now]
        begun = [
            condition for name, condition in now.items() if name not in before or before[name].cause != condition.cause
        ]
        self._append_all(_ENDS[topic], [(condition.end, condition.services) for condition in ended])
        self._append_all(_BEGINS[topic], [(condition.text, condition.services) for condition in begun])

    def _append_all(self, kind: Kind, news: list[tuple[str, tuple[str, ...]]]) -> None:
        if len(news) > FLOOD:
            services = dict.fromkeys(name for _, names in news for name in names)
            self.append(kind, f"{len(news)} times {kind}; first: {news[0][0]}", services=services)
            return
        for text, services_of_one in news:
            self.append(kind, text, services=services_of_one)

    def since(self, last: int | None) -> tuple[Event, ...]:
        """Return the events after the one with the id ``last``; all that are kept for None.

        Where some in between are not kept any more, the first is one of kind `Kind.MISSED`.
        """
        if last is None:
            return tuple(self._events)
        oldest = self._events[0].id if self._events else self._next
        if oldest - 1 <= last < self._next:
            return tuple(event for event in self._events if event.id > last)
        return (_missed(oldest - 1), *self._events)

    async def newer(self, last: int | None) -> tuple[Event, ...]:
        """Like `since`, but wait until there is one."""
        while not (found := self.since(last)):
            await self._appended.wait()
        return found


def _missed(number: int) -> Event:
    return Event(
        id=number,
        at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        kind=Kind.MISSED,
        text="events before this one are not kept any more; read what is so now",
    )
