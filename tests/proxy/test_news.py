"""What of the loop and the watch is news: the reporter fed with steps, beside no real part."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from proxygen.catalog import ServiceName
from proxygen.proxy.apply.outcome import Outcome, WayToNginx
from proxygen.proxy.guard.losses import Held
from proxygen.proxy.news import Reporter
from proxygen.proxy.plan.types import Certificate, GoodTags, Memory, Plan, Policy
from proxygen.proxy.plan.unusable import NAMED
from proxygen.proxy.record.events import MOST, Event, EventLog, Kind
from proxygen.proxy.record.journal import Journal
from proxygen.proxy.record.steps import Step
from tests.proxy.plan.catalogs import catalog, instance, plan

WEB = instance("web", 1, "route=web.example.com")
SHOP = instance("shop", 2, "route=shop.example.com")
THIEF = instance("thief", 9, "route=web.example.com")
TYPO = instance("web", 1, "route=web.example.com", "weight=x")
NEWCOMER = instance("web", 9, "route=web.example.com", "canary=lots")
DAY = 24 * 3600.0


@dataclass
class Parts:
    """What a reporter reads of the loop and of the watch."""

    plan: Plan | None = None
    pinned: int | None = None
    held: Held | None = None
    problem: str | None = None
    files_problem: str = ""
    warnings: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    flapping: frozenset[ServiceName] = frozenset()
    usable: tuple[Certificate, ...] = ()
    remarks: tuple[str, ...] = ()
    copied: tuple[str, ...] = ()
    events: EventLog = field(default_factory=EventLog)
    journal: Journal = field(default_factory=lambda: Journal(Path("/nowhere")))
    reporter: Reporter = field(init=False)

    def __post_init__(self) -> None:
        # Both are read only, and by these names only.
        self.reporter = Reporter(self.events, self.journal, self, self, certificate_warning=DAY)  # type: ignore[arg-type]

    @property
    def state(self) -> Parts:
        return self

    @property
    def pipeline(self) -> Parts:
        return self

    @property
    def ground(self) -> Parts:
        return self

    @property
    def certificates(self) -> Parts:
        return self

    def step(
        self,
        outcome: Outcome,
        *,
        generation: int | None = 1,
        reason: str = "",
        propagation: float | None = None,
        by: WayToNginx = WayToNginx.RELOAD,
    ) -> tuple[Event, ...]:
        """The events of one more pass."""
        before = self.events.since(None)
        step = Step(
            outcome=outcome,
            generation=generation,
            reason=reason,
            at="2026-01-01T00:00:00.000+00:00",
            durations={},
            propagation=propagation,
            by=by,
        )
        self.reporter.heed(step)
        return self.events.since(None)[len(before) :]


def kinds(events: tuple[Event, ...]) -> list[Kind]:
    return [event.kind for event in events]


def test_what_went_live_names_the_services_that_changed() -> None:
    parts = Parts(plan=plan(WEB))
    (first,) = parts.step(Outcome.APPLIED, generation=1, propagation=0.5)
    assert (first.text, first.services) == ("generation 1 is live, 0.50 s after the change", ())
    parts.plan = plan(WEB, SHOP)
    (second,) = parts.step(Outcome.APPLIED, generation=2)
    assert (second.text, second.generation, second.services) == ("generation 2 is live", 2, ("shop",))
    parts.plan = plan(SHOP)
    (third,) = parts.step(Outcome.APPLIED, generation=3)
    assert third.services == ("web",)
    (fourth,) = parts.step(Outcome.APPLIED, generation=4, propagation=0.01, by=WayToNginx.PUSH)
    assert fourth.text == "generation 4 is live by push, 0.01 s after the change"


@pytest.mark.incident("T59")
def test_each_quarantine_is_in_the_log_when_it_begins() -> None:
    parts = Parts(plan=plan(TYPO))
    for plans, begun in ((plan(TYPO), 1), (plan(TYPO), 0), (plan(WEB), 0), (plan(TYPO), 1)):
        parts.plan = plans
        with capture_logs() as log:
            parts.step(Outcome.APPLIED)
        lines = [line for line in log if line["event"] == "service quarantined"]
        assert [(line["service"], line["log_level"]) for line in lines] == [("web", "warning")] * begun
        assert all("'x' is not a whole number" in line["reason"] for line in lines)


@pytest.mark.incident("T59")
def test_files_warnings_and_instances_that_are_left_out_begin_and_end() -> None:
    parts = Parts(plan=plan(WEB, instance("web", 2, "route=web.example.com", port=0)), files_problem="no brace")
    parts.problems, parts.remarks = ("snippet x.conf is left out",), ("nginx: could build optimal hash",)
    parts.copied = ("a copy of the server at nginx.conf:3",)
    begun = parts.step(Outcome.APPLIED)[1:]
    assert kinds(begun) == [Kind.FILES_REFUSED, Kind.INSTANCE_LEFT_OUT, *[Kind.WARNING] * 3]
    for event, said in zip(begun, ("no brace", "web-2", "x.conf", "a copy of", "optimal hash"), strict=True):
        assert said in event.text
    parts.plan, parts.files_problem = plan(WEB), ""
    parts.problems = parts.remarks = parts.copied = ()
    ended = kinds(parts.step(Outcome.UNCHANGED))
    assert ended == [Kind.FILES_TAKEN, Kind.INSTANCE_TAKEN, *[Kind.WARNING_ENDED] * 3]


@pytest.mark.incident("T57")
@pytest.mark.incident("T59")
def test_an_instance_that_cannot_be_used_is_told_with_what_becomes_of_it() -> None:
    parts = Parts(plan=plan(WEB, NEWCOMER))
    (begun,) = parts.step(Outcome.UNCHANGED)
    assert (begun.kind, begun.services) == (Kind.INSTANCE_LEFT_OUT, ("web",))
    assert begun.text.startswith("service web: instance 'web-9' on 'node-9': proxygen.canary: 'lots'")
    assert begun.text.endswith("; it is left out")
    parts.plan = plan(TYPO, memory=Memory(good_tags={WEB.service: GoodTags((WEB,))}))
    kept, ended = sorted(parts.step(Outcome.UNCHANGED), key=lambda event: event.kind is Kind.INSTANCE_TAKEN)
    assert (kept.kind, ended.kind) == (Kind.TAGS_KEPT, Kind.INSTANCE_TAKEN)
    assert kept.text.endswith("; it is served with the tags that it had before")
    parts.plan = plan(WEB)
    assert kinds(parts.step(Outcome.UNCHANGED)) == [Kind.TAGS_TAKEN]


def test_of_many_instances_that_cannot_be_used_some_are_told_and_the_others_counted() -> None:
    def left_out(count: int) -> Plan:
        return plan(WEB, *(instance("web", n, "route=web.example.com", "canary=lots") for n in range(2, count + 2)))

    parts = Parts(plan=left_out(50))
    told = parts.step(Outcome.UNCHANGED)
    assert kinds(told) == [Kind.INSTANCE_LEFT_OUT] * (NAMED + 1)
    assert f"{50 - NAMED} more instances" in told[-1].text
    parts.plan = left_out(51)
    assert parts.step(Outcome.UNCHANGED) == (), "one more is no news"


def test_nothing_to_change_is_no_news() -> None:
    """But what is live is known from then on."""
    parts = Parts(plan=plan(WEB))
    assert parts.step(Outcome.UNCHANGED) == ()
    parts.plan = plan(WEB, SHOP)
    (event,) = parts.step(Outcome.APPLIED)
    assert event.services == ("shop",)


@pytest.mark.parametrize(
    ("outcome", "kind"), [(Outcome.REJECTED, Kind.REJECTED), (Outcome.ROLLED_BACK, Kind.ROLLED_BACK)]
)
def test_a_failure_that_is_tried_again_is_news_once(outcome: Outcome, kind: Kind) -> None:
    parts = Parts(plan=plan(WEB))
    (event,) = parts.step(outcome, generation=7, reason="no proof")
    assert (event.kind, event.text, event.generation) == (kind, "no proof", 7)
    assert parts.step(outcome, generation=7, reason="no proof") == ()
    assert kinds(parts.step(outcome, generation=7, reason="another reason")) == [kind]
    assert kinds(parts.step(Outcome.APPLIED)) == [Kind.APPLIED]
    assert kinds(parts.step(outcome, generation=7, reason="another reason")) == [kind]
    assert kinds(parts.step(Outcome.UNCHANGED)) == []
    assert kinds(parts.step(outcome, generation=7, reason="another reason")) == [kind], "it was over in between"


def test_a_quarantine_begins_and_ends() -> None:
    parts = Parts(plan=plan(TYPO))
    events = parts.step(Outcome.APPLIED)
    assert kinds(events) == [Kind.APPLIED, Kind.QUARANTINED]
    assert "'x' is not a whole number" in events[1].text
    assert events[1].services == ("web",)
    assert parts.step(Outcome.UNCHANGED) == ()
    parts.plan = plan(WEB)
    assert kinds(parts.step(Outcome.APPLIED)) == [Kind.APPLIED, Kind.QUARANTINE_ENDED]


def test_a_conflict_begins_and_ends_and_names_both() -> None:
    parts = Parts(plan=plan(WEB, THIEF))
    _, event = parts.step(Outcome.APPLIED)
    assert (event.kind, event.services) == (Kind.CONFLICT, ("thief", "web"))
    assert event.text == "service thief claims web.example.com/, which service web has"
    parts.plan = plan(WEB)
    assert kinds(parts.step(Outcome.APPLIED)) == [Kind.APPLIED, Kind.CONFLICT_ENDED]


def test_going_back_is_a_hold_until_the_operator_lets_go() -> None:
    parts = Parts(plan=plan(WEB), pinned=1)
    applied, held = parts.step(Outcome.APPLIED, generation=1)
    assert (applied.text, held.kind) == ("nginx went to generation 1", Kind.HELD)
    assert parts.step(Outcome.HELD, reason="why") == ()
    parts.pinned = None
    assert kinds(parts.step(Outcome.APPLIED, generation=3)) == [Kind.APPLIED, Kind.HOLD_ENDED]


def test_held_servers_are_news_when_they_are_those_of_other_services() -> None:
    def held(count: int, *names: str) -> Held:
        services = {ServiceName(name): count for name in names}
        return Held(reason=f"{count} servers are gone", services=services, catalog=catalog())

    parts = Parts(plan=plan(WEB, SHOP), held=held(1, "web"))
    (event,) = parts.step(Outcome.HELD)
    assert (event.kind, event.text, event.services) == (Kind.HELD, "1 servers are gone", ("web",))
    parts.held = held(2, "web")
    assert parts.step(Outcome.HELD) == ()
    parts.held = held(2, "web", "shop")
    assert kinds(parts.step(Outcome.HELD)) == [Kind.HELD]
    parts.held = None
    assert kinds(parts.step(Outcome.UNCHANGED)) == [Kind.HOLD_ENDED]


def test_before_the_first_plan_only_what_the_pass_came_to_is_told() -> None:
    assert kinds(Parts().step(Outcome.APPLIED)) == [Kind.APPLIED]


def test_a_later_reporter_on_the_same_log_repeats_nothing_that_lasts() -> None:
    """Changed settings start a new one; who follows the events has heard it all."""
    parts = Parts(plan=plan(TYPO))
    parts.step(Outcome.APPLIED)
    successor = Parts(plan=plan(TYPO), events=parts.events)
    assert successor.step(Outcome.UNCHANGED) == ()


async def look(parts: Parts, field: str, *values: object) -> None:
    """Let the reporter look once more after each of the values."""

    class Enough(Exception):
        pass

    left = iter(values)

    async def next_look(_seconds: float) -> None:
        try:
            setattr(parts, field, next(left))
        except StopIteration:
            raise Enough from None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("proxygen.proxy.news.asyncio.sleep", next_look)
        with pytest.raises(Enough):
            await parts.reporter.run()


async def test_a_lost_consul_is_told_once_and_its_return_too() -> None:
    parts = Parts()
    await look(parts, "problem", "service web: no", "overrides: no", None, None)
    assert [(event.kind, event.text) for event in parts.events.since(None)] == [
        (Kind.CONSUL_LOST, "service web: no"),
        (Kind.CONSUL_BACK, "Consul answers again"),
    ]


@pytest.mark.incident("T55")
async def test_who_flaps_is_told_once_and_its_end_too_without_another_pass() -> None:
    parts, web, shop = Parts(), ServiceName("web"), ServiceName("shop")
    await look(parts, "flapping", {web}, {web, shop}, {shop}, frozenset())
    assert [(event.kind, *event.services) for event in parts.events.since(None)] == [
        (Kind.FLAPPING, "web"),
        (Kind.FLAPPING, "shop"),
        (Kind.FLAPPING_ENDED, "web"),
        (Kind.FLAPPING_ENDED, "shop"),
    ]


@pytest.mark.incident("T58")
async def test_a_certificate_that_expires_soon_is_told_until_it_is_renewed() -> None:
    def ends_in(days: float) -> tuple[Certificate, ...]:
        expires = time.time() + days * DAY
        return (Certificate(name="web", hosts=(), certificate="", key="", fingerprint="", expires=expires),)

    parts = Parts()
    await look(parts, "usable", ends_in(1.5), ends_in(0.5), ends_in(1.5))
    assert kinds(parts.events.since(None)) == [Kind.CERTIFICATE_EXPIRES, Kind.CERTIFICATE_RENEWED]


def test_another_cause_of_the_same_quarantine_or_conflict_is_news_and_the_end_names_it() -> None:
    parts = Parts(plan=plan(TYPO))
    parts.step(Outcome.APPLIED)
    parts.plan = plan(instance("web", 1, "route=web.example.com", "weight=y"))
    assert kinds(parts.step(Outcome.UNCHANGED)) == [Kind.QUARANTINED]
    parts.plan = plan(WEB, THIEF)
    ended, begun = parts.step(Outcome.UNCHANGED)
    assert (ended.kind, ended.text) == (Kind.QUARANTINE_ENDED, "service web is served again, or gone")
    assert begun.kind is Kind.CONFLICT
    holder = instance("earlier", 0, "route=web.example.com")
    parts.plan = plan(holder, THIEF)
    (event,) = parts.step(Outcome.UNCHANGED)
    assert (event.kind, event.text) == (
        Kind.CONFLICT,
        "service thief claims web.example.com/, which service earlier has",
    )
    parts.plan = plan(holder)
    (event,) = parts.step(Outcome.UNCHANGED)
    assert event.kind is Kind.CONFLICT_ENDED
    assert "thief" in event.text


def test_a_claim_that_nobody_has_is_told_with_why_it_is_refused() -> None:
    policy = Policy(claims={"web.example.com": ("shop",)})
    parts = Parts(plan=plan(WEB, policy=policy))
    (event,) = (one for one in parts.step(Outcome.UNCHANGED) if one.kind is Kind.CONFLICT)
    assert event.services == ("web",)
    assert event.text.startswith("service web claims web.example.com/, ")
    assert "which service" not in event.text


@pytest.mark.incident("T48")
def test_a_warning_is_logged_once_while_it_lasts() -> None:
    path = instance("evil", 9, "route=web.example.com/login")
    parts = Parts(plan=plan(WEB, path))
    with capture_logs() as log:
        for _ in range(3):
            parts.step(Outcome.UNCHANGED)
        warned = [line for line in log if line["event"] == "warning"]
        assert len(warned) == 2
        assert all("proxy.hosts" in str(line) for line in warned)
        parts.plan = plan(WEB)
        parts.step(Outcome.APPLIED)
        parts.plan = plan(WEB, path)
        parts.step(Outcome.APPLIED)
    assert [line["event"] for line in log].count("warning") == 2 * len(warned)


@pytest.mark.parametrize("tags", [("canary=lots-{}",), ("canary=5%", "force=header:{}"), ("weight={}x",)])
def test_a_tag_that_is_unreadable_in_ever_new_ways_leaves_few_lines_and_events(
    tags: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A minute has so many of one kind, and then one line that counts the rest. Others are told as ever."""
    now = 1_000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    parts = Parts()
    with capture_logs() as log:
        for number in range(1_000):
            now += 0.3
            parts.plan = plan(SHOP, instance("web", 1, *(tag.format(number) for tag in ("route=web.test", *tags))))
            parts.step(Outcome.UNCHANGED)
        parts.plan = plan(instance("shop", 2, "route=shop.example.com", "canary=lots"))
        parts.step(Outcome.UNCHANGED)
    of_web = [line for line in log if line.get("service") == "web"]
    kinds_of_web = {line["event"] for line in of_web}
    assert kinds_of_web
    assert len(of_web) <= (MOST + 1) * 6 * len(kinds_of_web)
    assert len(parts.events.since(None)) <= len(of_web) + 10
    assert [line["reason"][:12] for line in log if line.get("service") == "shop"] == ["service shop"]
    counted = [int(line["reason"].split()[0]) for line in of_web if "within a minute" in line["reason"]]
    assert len(counted) >= 4
    begun = len(of_web) - len(counted) + sum(counted)
    assert begun >= 800
