"""From what an engine tells to who stands in Consul: beside an engine and an agent of plain data, in simulated time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import IPv4Network
from typing import Any, Self, cast

import pytest
from structlog.testing import capture_logs

from proxygen.catalog import Health
from proxygen.kit.errors import ConsulUnreachable, EngineUnavailable
from proxygen.registration.agent import Agent
from proxygen.registration.containers import Container
from proxygen.registration.described import OWNER
from proxygen.registration.docker import ContainerEvent
from proxygen.registration.registrator import Registrator
from proxygen.registration.service import HeldByAgent
from tests.model.clock import simulated_time
from tests.registration.containers import POLICY, container

RESYNC = 50.0


class PlainEngine:
    """Containers by id, and events as a test puts them."""

    def __init__(self) -> None:
        self.containers: dict[str, Container] = {}
        self.queue: asyncio.Queue[ContainerEvent] = asyncio.Queue()
        self.is_away = False
        self.inspected: list[str] = []

    @asynccontextmanager
    async def at(self, _url: str) -> AsyncIterator[Self]:
        self._answer()
        yield self

    def _answer(self) -> None:
        if self.is_away:
            raise EngineUnavailable("no engine")

    async def host(self) -> str:
        return "host-of-the-engine"

    async def running(self) -> list[str]:
        self._answer()
        return [id for id, one in self.containers.items() if one.running]

    async def inspect(self, container_id: str) -> Container | None:
        self._answer()
        self.inspected.append(container_id)
        return self.containers.get(container_id)

    async def tells_of_signals(self) -> bool:
        return True

    async def events(self) -> AsyncIterator[ContainerEvent]:
        while True:
            event = await self.queue.get()
            self._answer()
            yield event


class PlainAgent:
    """Services by id, and which of them are in maintenance."""

    address = "agent:8500"
    token_mark = ""

    def __init__(self) -> None:
        self.held: dict[str, Mapping[str, Any]] = {}
        self.withdrawn: set[str] = set()
        self.statuses: dict[str, str] = {}
        self.is_away = False
        self.critical: set[str] = set()
        """Ids whose checks fail."""
        self.gone: list[str] = []
        """Ids that were deregistered, in order."""

    def _answer(self) -> None:
        if self.is_away:
            raise ConsulUnreachable("no agent")

    async def look(self, service_id: str) -> HeldByAgent | None:
        self._answer()
        body = self.held.get(service_id)
        if body is None:
            return None
        status = "critical" if service_id in self.critical else "passing"
        checks = {one["CheckID"]: {"Notes": one["Notes"], "Status": status} for one in body["Checks"]}
        if service_id in self.withdrawn:
            checks[f"_service_maintenance:{service_id}"] = {"Notes": "proxygen: leaving", "Status": "critical"}
        return HeldByAgent(service={**body, "Service": body["Name"]}, checks=checks)

    async def register(self, body: Mapping[str, Any]) -> None:
        self._answer()
        before = self.held.get(body["ID"], {"Checks": []})
        self.held[body["ID"]] = {**body, "Checks": body["Checks"] or before["Checks"]}

    async def beat(self, check_id: str, status: str, note: str) -> None:
        self.statuses[check_id] = status

    async def remove_check(self, check_id: str) -> None:
        return

    async def set_maintenance(self, service_id: str, *, enable: bool, reason: str = "") -> None:
        self._answer()
        (self.withdrawn.add if enable else self.withdrawn.discard)(service_id)

    async def deregister_anyones(self, service_id: str, service: Mapping[str, Any]) -> None:
        await self.deregister(service_id)

    async def deregister(self, service_id: str) -> None:
        self._answer()
        self.gone.append(service_id)
        self.held.pop(service_id, None)
        self.withdrawn.discard(service_id)

    async def services(self) -> Mapping[str, Mapping[str, Any]]:
        self._answer()
        return dict(self.held)


class Host:
    def __init__(self, loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loop = loop
        self.engine, self.agent = PlainEngine(), PlainAgent()
        monkeypatch.setattr("proxygen.registration.registrator.Engine", self.engine)
        self.leased: IPv4Network | None = None
        self.task: asyncio.Task[Any] | None = None
        self.start_anew()

    def start_anew(self) -> None:
        self.registrator = Registrator(
            cast("Agent", self.agent),
            engine="unix:///nowhere",
            policy=POLICY,
            leased=lambda: self.leased,
            resync=RESYNC,
        )

    def begin(self) -> None:
        self.task = self.loop.create_task(self.registrator.run())
        self.wait(1)

    def wait(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))
        assert self.task is not None
        assert not self.task.done()

    def run(self, id: str, *, port: int = 8000, event: bool = True, **facts: Any) -> None:
        """Have a container of this id and name run, with its port 80 published."""
        labels = {"proxygen.route": f"{id}.test", **facts.pop("labels", {})}
        made = container(labels, published={"80/tcp": ("0.0.0.0", str(port))})
        self.engine.containers[id] = replace(made, id=id, name=id, **facts)
        if event:
            self.tell(id, "start")

    def end(self, id: str, *, event: bool = True) -> None:
        del self.engine.containers[id]
        if event:
            self.tell(id, "die")

    def tell(self, id: str, action: str, signal: str = "") -> None:
        self.engine.queue.put_nowait(ContainerEvent(container=id, action=action, signal=signal))
        if self.task is not None:
            self.wait(0.5)

    @property
    def serving(self) -> dict[str, int]:
        """Host ports of the containers that are registered and not withdrawn, by the container's name."""
        return {
            id.split(":")[1]: body["Port"] for id, body in self.agent.held.items() if id not in self.agent.withdrawn
        }


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    with simulated_time() as loop:
        host = Host(loop, monkeypatch)
        yield host
        if host.task is not None:
            host.task.cancel()
            loop.run_until_complete(asyncio.wait({host.task}))


def test_who_runs_is_registered_and_who_ends_is_not(host: Host) -> None:
    host.run("a", port=8001, event=False)
    host.begin()
    assert host.serving == {"a": 8001}
    host.run("b", port=8002)
    assert host.serving == {"a": 8001, "b": 8002}
    host.end("a")
    assert host.serving == {"b": 8002}
    host.run("b", port=8003)
    assert host.serving == {"b": 8003}


def test_the_hosts_new_address_is_announced_at_once_and_where_it_counts(host: Host) -> None:
    host.run("a", port=8001, event=False)
    own = container({"proxygen.announce": "container"}, exposed=("80/tcp",), networks={"net": "10.88.0.2"})
    host.engine.containers["b"] = replace(own, id="b", name="b")
    host.begin()
    asked = len(host.engine.inspected)
    host.registrator.move("10.0.0.2")
    host.wait(1)
    assert {id: body["Address"] for id, body in host.agent.held.items()} == {
        "here:a:80": "10.0.0.2",
        "here:b:80": "10.88.0.2",
    }
    assert len(host.engine.inspected) == asked


def test_a_lost_event_is_made_good_by_the_next_look_at_everything(host: Host) -> None:
    host.run("a", port=8001, event=False)
    host.begin()
    host.run("b", port=8002, event=False)
    host.end("a", event=False)
    host.wait(RESYNC - 2)
    assert host.serving == {"a": 8001}
    host.wait(3)
    assert host.serving == {"b": 8002}


def test_a_container_that_is_told_to_stop_is_withdrawn_while_it_still_answers(host: Host) -> None:
    host.run("a", port=8001, stop_timeout=20.0)
    host.begin()
    host.tell("a", "kill", "1")
    assert host.serving == {"a": 8001}, "a reload"
    host.tell("a", "kill", "15")
    assert host.serving == {}
    assert len(host.agent.held) == 1
    host.wait(28)
    host.tell("a", "health_status")
    assert host.serving == {}
    host.wait(2)
    host.tell("a", "health_status")
    assert host.serving == {"a": 8001}, "it was not stopped after all"


@pytest.mark.parametrize("action", ["start", "restart"])
def test_one_that_starts_again_is_not_about_to_end_any_more(host: Host, action: str) -> None:
    host.run("a", port=8001)
    host.begin()
    host.tell("a", "kill", "SIGTERM")
    assert host.serving == {}
    host.tell("a", action)
    assert host.serving == {"a": 8001}


def test_a_paused_container_is_withdrawn_until_it_goes_on(host: Host) -> None:
    host.run("a", port=8001)
    host.begin()
    host.run("a", port=8001, paused=True)
    assert host.serving == {}
    host.run("a", port=8001)
    assert host.serving == {"a": 8001}


def test_of_two_with_one_id_the_first_keeps_it_until_it_ends(host: Host) -> None:
    same = {"proxygen.id": "x:same:1"}
    host.run("a", port=8001, labels=same)
    host.begin()
    with capture_logs() as log:
        host.run("b", port=8002, labels=same)
        host.run("b", port=8002, labels=same)
    assert host.serving == {"same": 8001}
    (line,) = (line for line in log if line["event"] == "container skipped")
    assert (line["container"], line["reason"]) == ("b (b)", "a (a) has the id x:same:1 already")
    figures = host.registrator.figures()
    assert (figures.registered, figures.skipped, figures.ignored) == (1, 1, 0)
    host.end("a")
    assert host.serving == {"same": 8002}, "at once, whatever the engine tells of it"
    assert host.registrator.figures().skipped == 0


def rename(host: Host, **names: str) -> None:
    """Give containers other names, by their ids, all at once."""
    host.engine.containers |= {id: replace(host.engine.containers[id], name=name) for id, name in names.items()}


@pytest.mark.incident("T67")
@pytest.mark.parametrize("heard", [True, False], ids=["by an event", "by the next look at everything"])
def test_a_container_that_is_renamed_stands_under_both_names_until_the_new_one_serves(
    host: Host, *, heard: bool
) -> None:
    host.run("a", port=8001)
    host.begin()
    host.wait(RESYNC)
    host.agent.critical = {"here:new:80"}
    rename(host, a="new")
    if heard:
        host.tell("a", "rename")
    host.wait(RESYNC + 2)
    assert host.serving == {"a": 8001, "new": 8001}
    host.agent.critical = set()
    host.wait(1)
    assert host.serving == {"new": 8001}


@pytest.mark.incident("T67")
def test_health_is_known_under_another_name_too(host: Host) -> None:
    host.run("a", port=8001)
    host.begin()
    host.wait(RESYNC)
    rename(host, a="new")
    host.tell("a", "rename")
    host.wait(1)
    (body,) = host.agent.held.values()
    assert (body["ID"], [check["Status"] for check in body["Checks"]]) == ("here:new:80", ["passing"])


@pytest.mark.incident("T67")
@pytest.mark.parametrize("told", [("a", "b"), ("a",), ("b",), ()], ids=str)
def test_names_that_are_swapped_end_on_the_right_containers_and_none_is_ever_gone(
    host: Host, told: tuple[str, ...]
) -> None:
    """Whether the engine told of both, of one, or of none."""
    host.run("a", port=8001)
    host.run("b", port=8002)
    host.begin()
    host.wait(RESYNC)
    host.agent.gone.clear()
    rename(host, a="b", b="a")
    for id in told:
        host.engine.queue.put_nowait(ContainerEvent(container=id, action="rename", signal=""))
    host.wait(RESYNC + 2)
    assert host.serving == {"a": 8002, "b": 8001}
    assert host.agent.gone == []


@pytest.mark.incident("T67")
def test_an_id_that_is_given_up_is_taken_at_once_and_never_gone(host: Host) -> None:
    same = {"proxygen.id": "x:same:1"}
    host.run("a", port=8001, labels=same)
    host.run("b", port=8002, labels=same)
    host.begin()
    assert host.serving == {"same": 8001}
    host.agent.gone.clear()
    host.end("a")
    assert host.serving == {"same": 8002}
    host.run("c", port=8003, labels=same)
    host.run("b", port=8002)
    assert host.serving == {"same": 8003, "b": 8002}
    assert host.agent.gone == []


@pytest.mark.incident("T67")
def test_a_container_renamed_while_nobody_looked_keeps_its_old_entry_until_the_new_one_serves(host: Host) -> None:
    host.run("a", port=8001)
    host.begin()
    assert host.task is not None
    host.task.cancel()
    host.loop.run_until_complete(asyncio.wait({host.task}))
    rename(host, a="new")
    host.agent.critical = {"here:new:80"}
    host.start_anew()
    host.begin()
    host.wait(RESYNC)
    assert host.serving == {"a": 8001, "new": 8001}
    host.agent.critical = set()
    host.wait(RESYNC + 1)
    assert host.serving == {"new": 8001}


@pytest.mark.incident("T54")
@pytest.mark.parametrize("meta", [None, {OWNER: "there"}], ids=["an application's", "another registrator's"])
def test_an_id_that_another_owner_holds_is_left_alone_until_it_is_free(host: Host, meta: dict[str, str] | None) -> None:
    others = {"ID": "here:a:80", "Name": "other", "Address": "10.9.9.9", "Port": 1, "Meta": meta, "Checks": []}
    host.agent.held["here:a:80"] = others
    with capture_logs() as log:
        host.run("a", port=8001)
        host.begin()
        host.wait(RESYNC)
    assert host.agent.held["here:a:80"] is others
    assert host.agent.withdrawn == set()
    (line,) = [line for line in log if "the id is held by another" in line["event"]]
    assert "other at 10.9.9.9:1" in line["holder"]
    del host.agent.held["here:a:80"]
    host.wait(5)
    assert host.serving == {"a": 8001}
    host.agent.held["here:a:80"] = others
    host.end("a")
    assert host.agent.held["here:a:80"] is others


def test_a_bad_label_costs_its_container_alone_and_is_told_once(host: Host) -> None:
    host.run("a", port=8001)
    with capture_logs() as log:
        host.run("bad", port=8002, labels={"proxygen.weight": "many"}, event=False)
        host.begin()
        host.wait(3 * RESYNC)
    assert host.serving == {"a": 8001}
    assert [line["container"] for line in log if line["event"] == "container skipped"] == ["bad (bad)"]
    host.run("bad", port=8002)
    assert host.serving == {"a": 8001, "bad": 8002}


def test_figures_count_each_container_and_each_service_once(host: Host) -> None:
    host.run("a", port=8001)
    host.run("paused", port=8002, paused=True)
    host.run("bad", port=8003, labels={"proxygen.weight": "many"})
    host.engine.containers["plain"] = replace(container(), id="plain", name="plain")
    host.begin()
    found = host.registrator.figures()
    assert (found.connected, found.registered, found.skipped, found.ignored) == (True, 2, 1, 1)
    assert (found.serving, found.withdrawn, found.events) == (1, 1, 3)
    assert found.synced is not None


def test_what_an_earlier_life_left_is_taken_away_and_nobody_elses(host: Host) -> None:
    for id, meta in {"here:old:80": {OWNER: "here"}, "there:old:80": {OWNER: "there"}, "somebody": {}}.items():
        host.agent.held[id] = {"ID": id, "Name": "old", "Port": 1, "Meta": meta or None, "Checks": []}
    host.run("a", port=8001)
    host.begin()
    assert set(host.agent.held) == {"here:a:80", "there:old:80", "somebody"}


def test_where_no_owner_is_named_it_is_the_engines_host(host: Host) -> None:
    host.registrator._policy = replace(POLICY, owner="")
    host.run("a", port=8001)
    host.begin()
    ((id, body),) = host.agent.held.items()
    assert (id, body["Meta"][OWNER]) == ("host-of-the-engine:a:80", "host-of-the-engine")


def test_an_engine_that_is_away_takes_nothing_away_and_is_told_once(host: Host) -> None:
    host.run("a", port=8001)
    host.begin()
    with capture_logs() as log:
        host.engine.is_away = True
        host.tell("a", "anything")
        host.wait(60)
        assert host.serving == {"a": 8001}
        assert host.registrator.trouble == "no engine"
        assert not host.registrator.figures().connected
        host.engine.is_away = False
        host.run("b", port=8002, event=False)
        host.wait(10)
    assert host.serving == {"a": 8001, "b": 8002}
    assert host.registrator.trouble == ""
    told = [line["event"] for line in log if "engine" in line["event"]]
    assert told == ["engine lost, registrations stay, trying again", "engine is back"]


def test_an_agent_that_is_away_is_told_once_and_gets_everything_when_it_is_back(host: Host) -> None:
    host.agent.is_away = True
    host.run("a", port=8001)
    with capture_logs() as log:
        host.begin()
        host.wait(2 * RESYNC)
        assert host.registrator.trouble == "no agent"
        host.agent.is_away = False
        host.wait(RESYNC + 1)
    assert host.serving == {"a": 8001}
    assert host.registrator.trouble == ""
    assert [line["event"] for line in log if "orphans" in line["event"]] == [
        "orphans cannot be looked for, trying again"
    ]


def test_a_containers_own_health_is_told_at_once_and_stands_while_the_engine_is_silent(host: Host) -> None:
    host.run("a", port=8001, health=Health.PASSING)
    host.begin()
    (check,) = (id for id in host.agent.statuses if id.endswith(":ttl"))
    assert host.agent.statuses[check] == "passing"
    host.run("a", port=8001, health=Health.CRITICAL)
    assert host.agent.statuses[check] == "critical"
    host.engine.is_away = True
    host.wait(120)
    assert host.agent.statuses[check] == "critical"
    host.engine.is_away = False
    host.run("a", port=8001, health=Health.PASSING)
    host.wait(10)
    assert host.agent.statuses[check] == "passing"


def test_steps_of_the_engine_itself_are_no_reason_to_look(host: Host) -> None:
    host.run("a", port=8001)
    host.begin()
    host.engine.inspected.clear()
    for action in ("exec_start: check", "top", "cleanup", "init", "create"):
        host.tell("a", action)
    assert host.engine.inspected == []
    host.tell("a", "pause")
    assert host.engine.inspected == ["a"]


def test_its_end_leaves_every_registration_as_it_is(host: Host) -> None:
    host.run("a", port=8001)
    host.begin()
    assert host.task is not None
    host.task.cancel()
    host.loop.run_until_complete(asyncio.wait({host.task}))
    assert host.serving == {"a": 8001}


def test_a_subnet_that_the_host_gets_later_counts_from_then_on(host: Host) -> None:
    host.run("a", port=8001, networks={"net": "10.9.1.5"}, ports=())
    host.engine.containers["a"] = replace(
        container({"proxygen.route": "a.test", "proxygen.port": "80"}, networks={"net": "10.9.1.5"}), id="a", name="a"
    )
    host.begin()
    assert host.serving == {}
    host.leased = IPv4Network("10.9.1.0/24")
    host.wait(RESYNC + 1)
    assert host.serving == {"a": 80}
    (body,) = host.agent.held.values()
    assert body["Address"] == "10.9.1.5"
