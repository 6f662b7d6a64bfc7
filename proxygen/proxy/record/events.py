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
from typing import Final, Literal

from proxygen.kit.log import get_logger
from proxygen.kit.quota import Quota

KEPT: Final = 500

FLOOD: Final = 20
"""More than this many of a kind at once become one event: they have one cause, and would push out all others."""

LOGGED: Final = 200
"""Lines in the log for as many of a kind at once."""

MOST: Final = 20
"""Events of one kind about one service within `PERIOD`; how many more there were is one event after it. Else a tag that
is mistyped in ever new ways would fill the log, and push out what others are told."""

PERIOD: Final = 60.0

_log = get_logger(__name__)


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
    FILES_REFUSED = "files refused"
    FILES_TAKEN = "files taken"
    SETTINGS_REFUSED = "settings refused"
    SETTINGS_TAKEN = "settings taken"
    INSTANCE_LEFT_OUT = "instance left out"
    INSTANCE_TAKEN = "instance taken"
    TAGS_KEPT = "previous tags kept"
    TAGS_TAKEN = "new tags taken"
    FLAPPING = "flapping"
    FLAPPING_ENDED = "flapping ended"
    CERTIFICATE_EXPIRES = "certificate expires"
    CERTIFICATE_RENEWED = "certificate renewed"
    WARNING = "warning"
    WARNING_ENDED = "warning ended"
    STEERED = "steered"
    """An operator changed something over the admin API."""
    MISSED = "missed"
    """Events before this one are not kept any more: what is so now must be read anew."""


class Mark(StrEnum):
    """How much an event matters to who looks at a page."""

    GOOD = "good"
    INFO = "info"
    WARN = "warn"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Telling:
    """How one kind is told beside the stream of events and `proxygen_events_total`, which tell of all."""

    mark: Mark
    meaning: str
    """What it tells, for the reference page."""
    log: str
    """The constant event in the log; "" for one that is no line there."""
    level: Literal["info", "warning", "error"] = "info"
    logs_itself: bool = False
    """Whether whoever causes it writes that line, with figures that no event has."""


# fmt: off

TELLINGS: Final[Mapping[Kind, Telling]] = MappingProxyType(
    {
        Kind.APPLIED: Telling(Mark.GOOD, "a generation is live, and which services it changed", "generation applied", "info", logs_itself=True),
        Kind.REJECTED: Telling(Mark.BAD, "nginx, or the check before it, refused a candidate, and why; told once, though it is tried again", "candidate rejected", "error", logs_itself=True),
        Kind.ROLLED_BACK: Telling(Mark.BAD, "a reload was not proven, and nginx serves the generation before; told once, though it is tried again", "reload rolled back", "error", logs_itself=True),
        Kind.HELD: Telling(Mark.WARN, "servers are kept though Consul lost them, or the operator went back", "hold begun", "warning"),
        Kind.HOLD_ENDED: Telling(Mark.GOOD, "nothing is kept back any more", "hold ended"),
        Kind.QUARANTINED: Telling(Mark.BAD, "a service is left out, and why", "service quarantined", "warning"),
        Kind.QUARANTINE_ENDED: Telling(Mark.GOOD, "it is served again, or gone", "quarantine ended"),
        Kind.CONFLICT: Telling(Mark.WARN, "two services claim one route", "route conflict", "warning"),
        Kind.CONFLICT_ENDED: Telling(Mark.GOOD, "the conflict is over", "route conflict ended"),
        Kind.CONSUL_LOST: Telling(Mark.BAD, "a question to Consul stays without an answer", "Consul lost", "warning"),
        Kind.CONSUL_BACK: Telling(Mark.GOOD, "Consul answers again", "Consul back"),
        Kind.FILES_REFUSED: Telling(Mark.BAD, "changed files of the operator are not in force, and why", "files refused, the ones before stay", "error", logs_itself=True),
        Kind.FILES_TAKEN: Telling(Mark.GOOD, "changed files are in force", "files taken"),
        Kind.SETTINGS_REFUSED: Telling(Mark.BAD, "changed settings are not in force, and why", "settings refused, the old ones stay", "error", logs_itself=True),
        Kind.SETTINGS_TAKEN: Telling(Mark.GOOD, "changed settings are in force", "settings taken"),
        Kind.INSTANCE_LEFT_OUT: Telling(Mark.WARN, "an instance cannot be used as it is registered, and why", "instance left out", "warning"),
        Kind.INSTANCE_TAKEN: Telling(Mark.GOOD, "it can be used, or is gone", "instance no longer left out"),
        Kind.TAGS_KEPT: Telling(Mark.WARN, "an instance is served with the tags that it had before, and what is wrong with its new ones", "instance served with its previous tags", "warning"),
        Kind.TAGS_TAKEN: Telling(Mark.GOOD, "its new tags are in force, or it is gone", "instance no longer served with its previous tags"),
        Kind.FLAPPING: Telling(Mark.WARN, "a service changes too often, so that its newest state has to wait", "service changes too often, waiting"),
        Kind.FLAPPING_ENDED: Telling(Mark.GOOD, "its changes no longer have to wait", "service no longer changes too often"),
        Kind.CERTIFICATE_EXPIRES: Telling(Mark.WARN, "a certificate expires soon: once a day", "certificate expires", "warning"),
        Kind.CERTIFICATE_RENEWED: Telling(Mark.GOOD, "it no longer expires soon, or is gone", "certificate no longer expires soon"),
        Kind.WARNING: Telling(Mark.WARN, "a warning of `proxygen status` that concerns a service, a file or Consul", "warning", "warning"),
        Kind.WARNING_ENDED: Telling(Mark.GOOD, "its cause is gone", "warning ended"),
        Kind.STEERED: Telling(Mark.INFO, "who changed what over the page or the API: [steer traffic](../how-to/steer.md)", "write", "info", logs_itself=True),
        Kind.MISSED: Telling(Mark.WARN, "some events are not kept any more: read the status anew", "", logs_itself=True),
    }
)
"""All kinds; one that lacks a place to be told in fails the tests."""

# fmt: on


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
    FILES = "files"
    SETTINGS = "settings"
    INSTANCE = "instance"
    PREVIOUS_TAGS = "previous tags"
    FLAPPING = "flapping"
    CERTIFICATE = "certificate"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Lasting:
    """How a topic is told while its conditions last; all are counted in `proxygen_conditions`."""

    begins: Kind
    ends: Kind
    field: str
    """Of the status, and by that of page, `top` and `proxygen status`."""


LASTING: Final[Mapping[Topic, Lasting]] = MappingProxyType(
    {
        Topic.HOLD: Lasting(Kind.HELD, Kind.HOLD_ENDED, "hold"),
        Topic.QUARANTINE: Lasting(Kind.QUARANTINED, Kind.QUARANTINE_ENDED, "quarantined"),
        Topic.CONFLICT: Lasting(Kind.CONFLICT, Kind.CONFLICT_ENDED, "conflicts"),
        Topic.CONSUL: Lasting(Kind.CONSUL_LOST, Kind.CONSUL_BACK, "consul"),
        Topic.FILES: Lasting(Kind.FILES_REFUSED, Kind.FILES_TAKEN, "warnings"),
        Topic.SETTINGS: Lasting(Kind.SETTINGS_REFUSED, Kind.SETTINGS_TAKEN, "conditions"),
        Topic.INSTANCE: Lasting(Kind.INSTANCE_LEFT_OUT, Kind.INSTANCE_TAKEN, "conditions"),
        Topic.PREVIOUS_TAGS: Lasting(Kind.TAGS_KEPT, Kind.TAGS_TAKEN, "conditions"),
        Topic.FLAPPING: Lasting(Kind.FLAPPING, Kind.FLAPPING_ENDED, "conditions"),
        Topic.CERTIFICATE: Lasting(Kind.CERTIFICATE_EXPIRES, Kind.CERTIFICATE_RENEWED, "conditions"),
        Topic.WARNING: Lasting(Kind.WARNING, Kind.WARNING_ENDED, "warnings"),
    }
)


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
        self._quota: Final = Quota[tuple[Kind, str]](most=MOST, seconds=PERIOD)

    @property
    def standing(self) -> Mapping[Topic, Mapping[str, Condition]]:
        """What lasts now, each under its name."""
        return self._standing

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
        self._tell_left_out()
        before = self._standing[topic]
        self._standing[topic] = dict(now)
        ended = [condition for name, condition in before.items() if name not in now]
        begun = [
            condition for name, condition in now.items() if name not in before or before[name].cause != condition.cause
        ]
        self._append_all(LASTING[topic].ends, [(condition.end, condition.services) for condition in ended])
        self._append_all(LASTING[topic].begins, [(condition.text, condition.services) for condition in begun])

    def _tell_left_out(self) -> None:
        for (kind, service), count in self._quota.end(time.monotonic()).items():
            text = f"{count} more times {kind} of service {service} within a minute; the status says what is so now"
            _write(kind, [(text, (service,))])
            self.append(kind, text, services=(service,))
            # It stands for all of them.
            self._totals[kind] += count - 1

    def _append_all(self, kind: Kind, news: list[tuple[str, tuple[str, ...]]]) -> None:
        now = time.monotonic()
        news = [one for one in news if not one[1] or self._quota.admit((kind, one[1][0]), now)]
        _write(kind, news)
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


def _write(kind: Kind, news: list[tuple[str, tuple[str, ...]]]) -> None:
    """Write to the log what began or ended, each in a line, as far as that is of use to anybody."""
    telling = TELLINGS[kind]
    if telling.logs_itself:
        return
    write = getattr(_log, telling.level)
    for text, services in news[:LOGGED]:
        write(telling.log, reason=text, **({"service": services[0]} if services else {}))
    if len(news) > LOGGED:
        write(telling.log, reason=f"and {len(news) - LOGGED} more at once")


def _missed(number: int) -> Event:
    return Event(
        id=number,
        at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        kind=Kind.MISSED,
        text="events before this one are not kept any more; read what is so now",
    )
