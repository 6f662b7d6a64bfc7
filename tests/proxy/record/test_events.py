"""The log of events: ids only grow, nothing is told twice, and a reader knows when it missed something."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxygen.proxy.record.events import FLOOD, MOST, NOTHING, Condition, EventLog, Kind, Topic


def why(text: str, *services: str) -> Condition:
    return Condition(text=text, end=f"no more {text}", cause=text, services=services)


def kinds(log: EventLog) -> list[Kind]:
    return [event.kind for event in log.since(None)]


def test_ids_only_grow_also_from_one_run_to_the_next() -> None:
    first = EventLog()
    ids = [first.append(Kind.APPLIED, "live").id for _ in range(3)]
    assert ids == [ids[0], ids[0] + 1, ids[0] + 2]
    assert EventLog().append(Kind.APPLIED, "live").id >= ids[0]


def test_a_reader_goes_on_where_it_was() -> None:
    log = EventLog()
    events = [log.append(Kind.APPLIED, str(number)) for number in range(5)]
    assert log.since(events[2].id) == tuple(events[3:])
    assert log.since(events[-1].id) == ()
    assert log.since(None) == tuple(events)


@given(keep=st.integers(1, 8), count=st.integers(0, 20), last=st.integers(-30, 30))
def test_a_reader_gets_everything_after_its_last_event_or_is_told_that_it_cannot(
    keep: int, count: int, last: int
) -> None:
    log = EventLog(keep=keep)
    first = log.append(Kind.APPLIED, "first").id
    for _ in range(count):
        log.append(Kind.APPLIED, "more")
    newest = first + count
    given = first + last
    found = log.since(given)
    if found and found[0].kind is Kind.MISSED:
        kept = log.since(None)
        assert given < kept[0].id - 1 or given > newest
        assert found[1:] == kept
        assert log.since(found[0].id) == kept
    else:
        assert [event.id for event in found] == list(range(given + 1, newest + 1))


def test_an_id_of_an_earlier_run_is_answered_with_what_is_kept() -> None:
    log = EventLog()
    assert [event.kind for event in log.since(7)] == [Kind.MISSED]
    log.append(Kind.APPLIED, "live")
    assert [event.kind for event in log.since(7)] == [Kind.MISSED, Kind.APPLIED]


def test_no_more_is_kept_than_asked_and_all_are_counted() -> None:
    log = EventLog(keep=3)
    for _ in range(10):
        log.append(Kind.REJECTED, "no")
    assert len(log.since(None)) == 3
    assert log.totals == {Kind.REJECTED: 10}


def test_what_lasts_is_told_when_it_begins_and_when_it_ends_only() -> None:
    log = EventLog()
    for _ in range(3):
        log.note(Topic.QUARANTINE, {"web": why("a typo", "web")})
    for _ in range(3):
        log.note(Topic.QUARANTINE, NOTHING)
    assert [(event.kind, event.text, event.services) for event in log.since(None)] == [
        (Kind.QUARANTINED, "a typo", ("web",)),
        (Kind.QUARANTINE_ENDED, "no more a typo", ("web",)),
    ]


def test_another_cause_is_news_and_another_wording_is_not() -> None:
    log = EventLog()
    log.note(Topic.HOLD, {"guard": Condition(text="3 of 9 gone", end="over", cause="losses")})
    log.note(Topic.HOLD, {"guard": Condition(text="4 of 9 gone", end="over", cause="losses")})
    assert kinds(log) == [Kind.HELD]
    log.note(Topic.HOLD, {"guard": Condition(text="the store is wiped", end="over", cause="wipe")})
    assert kinds(log) == [Kind.HELD, Kind.HELD]


states = st.dictionaries(st.sampled_from(["web", "shop", "api"]), st.sampled_from(["a typo", "a loop"]))


@given(st.lists(states, max_size=10))
def test_whoever_read_all_events_of_a_topic_knows_what_lasts(history: list[Mapping[str, str]]) -> None:
    log = EventLog()
    for now in history:
        log.note(Topic.CONFLICT, {name: why(text, name) for name, text in now.items()})
    known: dict[str, str] = {}
    for event in log.since(None):
        if event.kind is Kind.CONFLICT:
            known[event.services[0]] = event.text
        else:
            del known[event.services[0]]
    assert known == (history[-1] if history else {})


def test_topics_do_not_mix() -> None:
    log = EventLog()
    log.note(Topic.QUARANTINE, {"web": why("a typo")})
    log.note(Topic.CONFLICT, NOTHING)
    assert kinds(log) == [Kind.QUARANTINED]


def test_a_flood_is_one_event_with_a_bounded_list() -> None:
    log = EventLog()
    log.note(Topic.QUARANTINE, {str(n): why(f"typo {n}", f"service-{n}") for n in range(1000)})
    (event,) = log.since(None)
    assert event.text.startswith("1000 times quarantined; first: typo 0")
    assert len(event.services) == FLOOD


async def test_who_waits_is_woken_by_the_next_event() -> None:
    log = EventLog()
    last = log.append(Kind.APPLIED, "1").id
    waiting = [asyncio.create_task(log.newer(last)) for _ in range(2)]
    await asyncio.sleep(0)
    event = log.append(Kind.APPLIED, "2")
    async with asyncio.timeout(10):
        assert [await task for task in waiting] == [(event,), (event,)]
        assert await log.newer(last) == (event,)


# --- one service with news again and again


def told_of(log: EventLog, service: str) -> list[str]:
    return [event.text for event in log.since(None) if event.services == (service,)]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic time, in one place."""
    now = [1_000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def test_of_one_service_and_kind_a_minute_has_so_many_events_and_then_how_many_more(clock: list[float]) -> None:
    log = EventLog()
    for number in range(MOST + 7):
        log.note(Topic.INSTANCE, {"one": why(f"typo {number}", "web")})
        clock[0] += 0.1
    log.note(Topic.QUARANTINE, {"web": why("a loop", "web")})
    log.note(Topic.INSTANCE, {"one": why("typo", "web"), "other": why("typo", "shop")})
    assert told_of(log, "web") == [*(f"typo {number}" for number in range(MOST)), "a loop"]
    assert told_of(log, "shop") == ["typo"], "no other service and no other kind is left out"
    clock[0] += 60
    log.note(Topic.CONSUL, NOTHING)
    assert told_of(log, "web")[-1].startswith("8 more times instance left out of service web within a minute")
    assert log.totals[Kind.INSTANCE_LEFT_OUT] == MOST + 7 + 2
    log.note(Topic.CONSUL, NOTHING)
    log.note(Topic.INSTANCE, {"one": why("another typo", "web")})
    assert told_of(log, "web")[-1] == "another typo"


def test_a_minute_in_which_nothing_was_left_out_ends_without_a_word(clock: list[float]) -> None:
    log = EventLog()
    for number in range(MOST):
        log.note(Topic.INSTANCE, {"one": why(f"typo {number}", "web")})
    clock[0] += 61
    for number in range(MOST):
        log.note(Topic.INSTANCE, {"one": why(f"other typo {number}", "web")})
    assert len(log.since(None)) == 2 * MOST


def test_what_concerns_no_service_is_always_told(clock: list[float]) -> None:
    log = EventLog()
    for number in range(3 * MOST):
        log.note(Topic.FILES, {"files": why(f"typo {number}")})
    assert len(log.since(None)) == 3 * MOST
