"""What the running sidecar says of itself: of a loop in simulated time, and of a watch that says what a test wants."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from proxygen.consul.client import Statistics
from proxygen.kit.errors import CatalogUnavailable
from proxygen.proxy.admin.meter import Meter
from proxygen.proxy.admin.report import State
from proxygen.proxy.admin.service_report import InstanceState
from proxygen.proxy.admin.sidecar import Recorders, RunningSidecar, TrafficTargets
from proxygen.proxy.apply.outcome import Outcome
from proxygen.proxy.news import Reporter
from proxygen.proxy.plan.types import Policy
from proxygen.proxy.record.events import LASTING, Condition, EventLog, Topic
from proxygen.proxy.record.journal import Journal
from proxygen.proxy.record.steps import Step
from proxygen.proxy.rollout.steering import Lever, Steering
from proxygen.proxy.traffic.tally import Tally
from tests.integration.certificates import Authority
from tests.model.world import World
from tests.proxy.plan.catalogs import catalog, instance, plan

WEB = instance("web", 1, "route=web.test")
CANARY = instance("web", 2, "route=web.test", "canary=10%")
FLEET = tuple(instance(name, 20 + number, f"route={name}.test") for number, name in enumerate(("shop", "mail", "chat")))
TYPO = instance("typo", 5, "route=typo.test", "weight=x")
THIEF = instance("thief", 9, "route=web.test")
STATISTICS = Statistics(requests=11, failures=5, refused=2, received=777, sockets=3, waiting=1)


@dataclass
class Watch:
    """What of the real one is read."""

    age: float = 0.25
    problem: str | None = None
    warnings: tuple[str, ...] = ()

    def freshness(self) -> float:
        return self.age


@dataclass
class Parts:
    world: World
    watch: Watch = field(default_factory=Watch)
    sidecar: RunningSidecar = field(init=False)
    journal: Journal = field(init=False)

    def __post_init__(self) -> None:
        assert self.world.nginx.start()
        self.world.start()
        self.journal = Journal(self.world.output)
        client: Any = SimpleNamespace(statistics=STATISTICS)
        watch: Any = self.watch
        self.sidecar = RunningSidecar(
            self.world.settings,
            self.world.reconciler,
            watch,
            client,
            Recorders(events=EventLog(), journal=self.journal, meter=Meter(), tally=Tally(dict), listener=None),
        )
        reporter = Reporter(self.sidecar.events, self.journal, self.world.reconciler, watch, certificate_warning=0.0)
        self.world.reconciler.subscribe(reporter.heed)

    def tell(self, *instances: Any) -> None:
        self.world.tell(catalog(*instances))
        self.world.wait(5)

    def restarted(self, watch: Watch) -> Parts:
        """Return the next life, in which Consul has told nothing yet."""
        self.world.stop()
        self.world.nginx.kill()
        self.world.catalog = None
        return Parts(self.world, watch)

    @property
    def reasons(self) -> tuple[str, ...]:
        return self.sidecar.readiness().reasons


@pytest.fixture
def parts() -> Iterator[Parts]:
    world = World(
        **{
            "output.keep": "9",
            "admin.fresh": "7s",
            "consul.wait": "5s",
            "consul.max_connections": "44",
            "reload.max_draining": "6",
        }
    )
    try:
        yield Parts(world)
    finally:
        world.close()


def test_it_is_ready_once_a_generation_is_live_and_consul_answers(parts: Parts) -> None:
    assert parts.reasons == ("no generation is live yet",)
    assert parts.sidecar.status().state is State.STARTING
    parts.tell(WEB)
    assert (parts.reasons, parts.sidecar.readiness().ready) == ((), True)
    assert parts.sidecar.status().state is State.READY


def test_certificates_of_one_name_are_told_each_by_its_file(tmp_path: Path) -> None:
    Authority().issue(tmp_path, "web", "web.test")
    (tmp_path / "web.pem").write_bytes((tmp_path / "web.crt").read_bytes())
    Authority().issue(tmp_path, "api", "api.test")
    world = World(**{"proxy.certificates": str(tmp_path)})
    try:
        told = Parts(world).sidecar.overview().certificates
    finally:
        world.close()
    assert [one.name for one in told] == ["api", "web.crt", "web.pem"]


@pytest.mark.parametrize(
    ("age", "problem", "reasons"),
    [
        (7.0, None, ()),
        (7.0, "no leader", ()),
        (8.4, None, ("Consul's data is 8s old",)),
        (8.4, "no leader", ("Consul's data is 8s old: no leader",)),
        (math.inf, "no leader", ("Consul has not been read in whole since the start: no leader",)),
        (math.inf, None, ("Consul has not been read in whole since the start",)),
    ],
)
def test_it_is_not_ready_while_consul_has_not_answered_for_too_long(
    parts: Parts, age: float, problem: str | None, reasons: tuple[str, ...]
) -> None:
    parts.tell(WEB)
    parts.watch.age, parts.watch.problem = age, problem
    assert parts.reasons == reasons
    assert parts.sidecar.status().state is (State.DEGRADED if reasons else State.READY)
    report = parts.sidecar.status().consul
    assert (report.freshness, report.problem) == (None if math.isinf(age) else age, problem or "")


def test_shares_are_judged_as_the_plan_judges_instances(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    policies: list[Policy] = []

    async def read(_self: Steering, service: str, policy: Policy) -> Lever:
        policies.append(policy)
        return Lever(service=service, key="", index=0)

    monkeypatch.setattr(Steering, "read", read)
    parts.world.ask(parts.sidecar.read_lever("web"))
    assert policies == [parts.world.reconciler.pipeline.ground.policy]
    assert policies[0].seed == "model"


def test_a_catalog_from_the_disk_is_told_with_its_age(parts: Parts) -> None:
    parts.tell(WEB)
    again = parts.restarted(Watch(age=math.inf, problem="no route"))
    again.world.wait(10)
    (reason,) = again.reasons
    since = again.world.reconciler.state.stale_since
    assert since is not None
    told = since.isoformat(timespec="milliseconds")
    assert reason == f"Consul has not been read since the start; the catalog is of {told}: no route"


def test_until_there_is_a_plan_a_service_is_unknown_and_not_gone(parts: Parts) -> None:
    """A generation of an earlier run is live and Consul may answer, before this run has a plan."""
    parts.tell(WEB)
    again = parts.restarted(Watch())
    again.world.wait(1)
    assert again.world.reconciler.state.live == 1
    assert again.reasons == ("no catalog has been planned since the start",)
    assert again.sidecar.service("web") is not None, "it is told from what the generation stands for"
    with pytest.raises(CatalogUnavailable, match="no catalog has been planned since the start"):
        again.sidecar.service("nothing")
    again.tell(WEB)
    assert again.reasons == ()
    assert again.sidecar.service("web") is not None
    assert again.sidecar.service("nothing") is None


def test_what_keeps_a_plan_from_going_live_is_why_it_is_not_ready(parts: Parts) -> None:
    parts.tell(WEB, *FLEET)
    parts.tell(WEB)
    (reason,) = parts.reasons
    assert reason.startswith("held: 3 of 4 servers went")
    hold = parts.sidecar.status().hold
    assert hold is not None
    assert (hold.reason, hold.pinned, dict(hold.services)) == (reason, None, {"shop": 1, "mail": 1, "chat": 1})
    kept = sorted(FLEET, key=lambda one: one.service)
    assert [(one.service, one.node, one.id, one.address) for one in hold.instances] == [
        (one.service, one.node, one.id, f"{one.address}:{one.port}") for one in kept
    ]
    since = parts.world.reconciler.state.held_since
    assert since is not None
    assert hold.since == since.isoformat(timespec="milliseconds")
    assert {one.name: one.kept for name in ("web", "shop") if (one := parts.sidecar.service(name))} == {
        "web": 0,
        "shop": 1,
    }


def test_going_back_and_letting_go_are_told_as_they_end(parts: Parts) -> None:
    parts.tell(WEB)
    parts.tell(WEB, *FLEET)
    back = parts.world.ask(parts.sidecar.rollback(None, confirm=lambda: None))
    assert (back.outcome, back.generation) == ("applied", 1)
    hold = parts.sidecar.status().hold
    assert hold is not None
    assert (hold.pinned, dict(hold.services), bool(hold.since)) == (1, {}, True)
    assert any("the operator went back to generation 1" in reason for reason in parts.reasons)
    on = parts.world.ask(parts.sidecar.release_hold(confirm=lambda: None))
    assert (on.outcome, on.generation) == ("applied", 3)
    assert parts.sidecar.status().hold is None
    assert parts.reasons == ()


def test_of_many_instances_that_a_hold_keeps_some_are_told_by_name(parts: Parts) -> None:
    many = tuple(instance("shop", 100 + number, "route=shop.test") for number in range(150))
    parts.tell(WEB, *many)
    parts.tell(WEB)
    hold = parts.sidecar.status().hold
    assert hold is not None
    assert (dict(hold.services), len(hold.instances)) == ({"shop": 150}, 100)


def test_a_failed_apply_is_told_until_one_succeeds(parts: Parts) -> None:
    parts.tell(WEB)
    parts.world.nginx.faults.is_signal_refused = True
    parts.tell(WEB, *FLEET)
    status = parts.sidecar.status()
    assert status.state is State.DEGRADED
    assert status.reasons[0].startswith("the last apply was rolled back: uid 1 may not signal")
    assert status.last_apply is not None
    assert (status.last_apply.outcome, status.last_apply.generation) == ("rolled back", 1)
    parts.world.nginx.faults.is_signal_refused = False
    parts.world.wait(60)
    assert parts.reasons == ()


def test_nginx_that_is_away_is_told(parts: Parts) -> None:
    parts.tell(WEB)
    nginx = parts.sidecar.status().nginx
    assert (nginx.version, nginx.visible, nginx.max_draining) == ("1.22.1", True, 6)
    assert (nginx.master is not None, nginx.accepting, nginx.draining) == (True, 2, 0)
    parts.world.nginx.drain = 100
    parts.tell(WEB, *FLEET)
    nginx = parts.sidecar.status().nginx
    assert (nginx.accepting, nginx.draining) == (2, 2)
    parts.world.nginx.kill()
    assert parts.reasons == ("no nginx master process is seen",)
    nginx = parts.sidecar.status().nginx
    assert (nginx.master, nginx.accepting, nginx.draining, nginx.version) == (None, None, None, "1.22.1")


def test_what_is_live_is_told_with_its_digest_and_since_when(parts: Parts) -> None:
    assert parts.sidecar.status().live is None
    parts.tell(WEB)
    parts.tell(WEB, *FLEET)
    live = parts.sidecar.status().live
    since = parts.world.reconciler.state.live_since
    assert live is not None
    assert since is not None
    assert (live.number, live.outcome) == (2, "applied")
    assert live.since == since.isoformat(timespec="milliseconds")
    reports = parts.sidecar.generations()
    assert [(one.number, one.live, one.outcome) for one in reports] == [(2, True, "live"), (1, False, "proven")]
    assert live.digest == reports[0].digest != reports[1].digest
    assert [one.generation for one in parts.sidecar.applies()] == [2, 1]
    assert reports[0].cause == parts.sidecar.applies()[0].cause != ""
    assert parts.sidecar.difference(2, None).against == 1
    last = parts.sidecar.status().last_apply
    assert last is not None
    assert (last.outcome, last.generation, last.cause) == ("applied", 2, reports[0].cause)
    assert last.propagation is not None
    assert set(last.durations) >= {"plan", "render", "check", "stage", "test", "prove"}


def test_the_cause_of_another_attempt_is_not_the_last_ones(parts: Parts) -> None:
    parts.tell(WEB)
    parts.journal.add(Step(at="2020-01-01T00:00:00.000+00:00", outcome=Outcome("held"), cause="something else"))
    last = parts.sidecar.status().last_apply
    assert last is not None
    assert last.cause == ""


def test_what_consul_costs_is_told_figure_by_figure(parts: Parts) -> None:
    report = parts.sidecar.status().consul
    assert (report.requests, report.failures, report.limited, report.received, report.sockets) == (11, 5, 2, 777, 3)
    assert (report.fresh, report.max_sockets, report.address) == (7.0, 44, "127.0.0.1:8500")


def test_services_with_what_is_wrong_of_them(parts: Parts) -> None:
    parts.watch.warnings = ("dc2 has no leader",)
    parts.tell(WEB, CANARY, TYPO, THIEF)
    status = parts.sidecar.status()
    assert [service.name for service in status.services] == ["thief", "typo", "web"]
    assert [item.service for item in status.quarantined] == ["typo"]
    assert [(item.loser, item.holder) for item in status.conflicts] == [("thief", "web")]
    assert "dc2 has no leader" in status.warnings
    assert "nginx.conf sets no worker_shutdown_timeout: an old worker with an open WebSocket stays for ever" in (
        status.warnings
    )
    assert parts.sidecar.overview().services == ()
    thief, typo, web = parts.sidecar.services()
    assert [each.name for each in (thief, typo, web)] == ["thief", "typo", "web"]
    # What is left out is registered all the same, and who lost its route serves nobody by it.
    assert (typo.instances, thief.lost, web.lost) == ({InstanceState.QUARANTINED: 1}, ("web.test/",), ())
    assert any("typo" in note for note in parts.sidecar.readiness().notes)
    assert parts.sidecar.service("nobody") is None


@pytest.mark.incident("T59")
@pytest.mark.parametrize("topic", [topic for topic in Topic if LASTING[topic].field == "conditions"])
def test_what_has_no_field_of_its_own_is_a_condition_and_a_note(parts: Parts, topic: Topic) -> None:
    parts.sidecar.events.note(topic, {"one": Condition(text="it is so", end="over", services=("web",), cause="")})
    (told,) = parts.sidecar.status().conditions
    assert (told.topic, told.text, told.services) == (topic.value, "it is so", ("web",))
    assert "it is so" in parts.sidecar.readiness().notes


def test_before_the_first_plan_there_is_nothing_to_tell(parts: Parts) -> None:
    assert (parts.sidecar.services(), parts.sidecar.applies()) == ((), ())
    assert parts.sidecar.status().last_apply is None
    parts.world.wait(1)
    assert parts.sidecar.status().last_apply is not None, "a pass without a catalog is one too"
    assert parts.world.reconciler.state.last is not None
    assert parts.world.reconciler.state.last.outcome is Outcome.UNCHANGED


def test_files_that_are_not_taken_are_a_reason_and_a_warning(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    parts.tell(WEB)
    passage = parts.world.reconciler._passage
    monkeypatch.setattr(passage, "files_problem", "server.conf: nonsense")
    told = "a changed file is not taken, and the files before stay in force: server.conf: nonsense"
    assert parts.reasons == (told,)
    assert told in parts.sidecar.status().warnings


def test_targets_of_traffic_are_those_of_the_newest_plan() -> None:
    plans = [None, plan(WEB, CANARY), plan(WEB)]
    targets = TrafficTargets(lambda: plans[0])
    assert targets() == {}
    plans.pop(0)
    first = targets()
    assert {target.name for target in first.values()} == {("web", ""), ("web", "stable"), ("web", "canary")}
    assert targets() is first
    plans.pop(0)
    assert {target.name for target in targets().values()} == {("web", ""), ("web", "stable")}
