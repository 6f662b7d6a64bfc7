"""What is news is told everywhere: a kind of event, or a topic, that lacks a place fails here."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest
from structlog.testing import capture_logs

import proxygen
from proxygen.proxy.admin.exposition import Scrape
from proxygen.proxy.admin.page.problems import problems
from proxygen.proxy.admin.page.views import event_views
from proxygen.proxy.admin.report import ConditionReport, StatusReport
from proxygen.proxy.record import events as events_module
from proxygen.proxy.record.events import LASTING, LOGGED, TELLINGS, Condition, EventLog, Kind, Mark, Topic
from proxygen.top.rows import headline
from tests.proxy.admin.sidecar import STATUS, RememberingSidecar

pytestmark = pytest.mark.incident("T59")

EVENTS: Final = Path(events_module.__file__).read_text()
SOURCES: Final = [path.read_text() for path in Path(proxygen.__file__).parent.rglob("*.py") if path.stem != "events"]
NOW: Final = datetime.now(UTC)


def condition(text: str = "why", service: str = "web") -> Condition:
    return Condition(text=text, end="over", services=(service,), cause=text)


def test_every_kind_and_every_topic_stands_in_its_table() -> None:
    assert TELLINGS.keys() == set(Kind)
    assert LASTING.keys() == set(Topic)
    ends = [kind for lasting in LASTING.values() for kind in (lasting.begins, lasting.ends)]
    assert len(set(ends)) == len(ends)


def _told(sources: Iterable[str]) -> Iterator[Kind]:
    """The kinds that a function names, and those of a topic that is noted; a table alone tells of nothing."""
    for source in sources:
        for function in ast.walk(ast.parse(source)):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                for node in ast.walk(function):
                    match node:
                        case ast.Attribute(value=ast.Name(id="Kind"), attr=name):
                            yield Kind[name]
                        case ast.Call(func=ast.Attribute(attr="note"), args=[ast.Attribute(attr=name), _]):
                            yield LASTING[Topic[name]].begins
                            yield LASTING[Topic[name]].ends


def test_every_kind_is_told_by_some_code() -> None:
    assert set(_told([*SOURCES, EVENTS])) == set(Kind)


def test_a_kind_that_no_code_tells_is_seen() -> None:
    """Without the module that knows what is news, the kinds of its topics are told by nothing."""
    news = next(source for source in SOURCES if "Topic.QUARANTINE, {" in source)
    untold = set(Kind) - set(_told([EVENTS, *(source for source in SOURCES if source is not news)]))
    assert untold > {Kind.APPLIED, Kind.QUARANTINED, Kind.QUARANTINE_ENDED}
    assert Kind.STEERED not in untold


@pytest.mark.parametrize("topic", Topic)
def test_what_begins_and_ends_is_in_the_log_by_its_constant_event(topic: Topic) -> None:
    events = EventLog()
    with capture_logs() as log:
        events.note(topic, {"one": condition()})
        events.note(topic, {"one": condition()})
        events.note(topic, {})
    written = [(line["event"], line["log_level"], line["service"]) for line in log]
    tellings = [TELLINGS[kind] for kind in (LASTING[topic].begins, LASTING[topic].ends)]
    assert written == [(each.log, each.level, "web") for each in tellings if not each.logs_itself]


@pytest.mark.parametrize("kind", [kind for kind in Kind if TELLINGS[kind].logs_itself and kind is not Kind.MISSED])
def test_what_is_logged_by_its_cause_is_logged_there(kind: Kind) -> None:
    line = f'.{TELLINGS[kind].level}("{TELLINGS[kind].log}"'
    assert any(line in source for source in SOURCES), line


def test_a_flood_leaves_a_bounded_number_of_lines() -> None:
    events = EventLog()
    with capture_logs() as log:
        events.note(Topic.QUARANTINE, {f"s{number}": condition(service=f"s{number}") for number in range(3 * LOGGED)})
    assert len(log) == LOGGED + 1
    assert f"and {2 * LOGGED} more" in log[-1]["reason"]


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.MISSED])
def test_every_kind_is_counted_and_shown(kind: Kind) -> None:
    sidecar = RememberingSidecar()
    sidecar.events.append(kind, "what happened")
    assert f'proxygen_events_total{{kind="{kind.value}"}} 1.0' in Scrape(sidecar, streams=0).text("")[0].decode()
    (view,) = event_views(sidecar.events.since(None), NOW, most=10)
    assert (view.kind, view.level) == (kind.value, TELLINGS[kind].mark)
    assert view.level in Mark


@pytest.mark.parametrize("topic", Topic)
def test_every_topic_has_a_gauge_and_a_field_of_the_status(topic: Topic) -> None:
    sidecar = RememberingSidecar()
    sidecar.events.note(topic, {"one": condition(), "two": condition()})
    assert f'proxygen_conditions{{topic="{topic.value}"}} 2.0' in Scrape(sidecar, streams=0).text("")[0].decode()
    assert LASTING[topic].field in {field.name for field in fields(StatusReport)}


def _shown(status: StatusReport) -> Iterator[str]:
    yield " ".join(problem.text for problem in problems(status, (), NOW))
    yield " ".join(headline(status).problems)


def test_what_has_no_field_of_its_own_is_told_by_page_and_top() -> None:
    told = ConditionReport(topic="settings", text="the newest settings are refused", services=("web",))
    for text in _shown(replace(STATUS, conditions=(told,))):
        assert told.text in text
