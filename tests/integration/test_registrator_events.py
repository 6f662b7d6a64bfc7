"""What Docker tells and Podman does not, on a real Consul: signals and health; restarts in a loop, strange answers."""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from proxygen.consul.client import ConsulClient
from proxygen.kit.errors import EngineUnavailable
from proxygen.registration import registrator, seat
from proxygen.registration.agent import Agent
from proxygen.registration.docker import Engine
from proxygen.registration.registrator import Registrator
from proxygen.settings import ConsulSettings
from tests.harness.consul import ConsulAgent
from tests.harness.fake_engine import FakeEngine
from tests.harness.registrator import Registrator as Command
from tests.integration.waiting import until
from tests.registration.containers import POLICY, inspected

WEB = {"proxygen.name": "web", "proxygen.route": "web.example.com"}
ID = "docker-host:w1:8080"
MAINTENANCE = f"_service_maintenance:{ID}"


@pytest.fixture
async def engine(short_directory: Path) -> AsyncIterator[FakeEngine]:
    async with FakeEngine(short_directory) as engine:
        yield engine


@asynccontextmanager
async def at_work(settings: ConsulSettings, url: str) -> AsyncIterator[asyncio.Task[Any]]:
    """A registrator at work on that engine, whose host it asks for its name."""
    async with ConsulClient(settings) as client:
        policy = replace(POLICY, owner="", address="127.0.0.1")
        registrator = Registrator(Agent(client.http), engine=url, policy=policy, leased=lambda: None, resync=1)
        work = asyncio.create_task(registrator.run())
        try:
            yield work
        finally:
            work.cancel()
            with suppress(asyncio.CancelledError):
                await work


@pytest.fixture
async def work(consul: ConsulAgent, engine: FakeEngine) -> AsyncIterator[asyncio.Task[Any]]:
    async with at_work(ConsulSettings(address=consul.address), engine.url) as work:
        yield work


def web(name: str = "w1", **state: Any) -> dict[str, Any]:
    """A container that runs, with a label for it and the id that its name has."""
    answer = inspected(dict(WEB), published={"8080/tcp": ("0.0.0.0", "32768")}, state=state)
    return {**answer, "Id": name, "Name": f"/{name}"}


def checks(consul: ConsulAgent) -> dict[str, str]:
    return {id: check["Status"] for id, check in consul.get("/v1/agent/checks").items()}


def ids(consul: ConsulAgent) -> set[str]:
    return set(consul.get("/v1/agent/services"))


async def listening(engine: FakeEngine) -> None:
    await until(lambda: engine.streams, "somebody who listens")


async def test_a_signal_to_stop_withdraws_a_container_while_it_still_answers(
    consul: ConsulAgent, engine: FakeEngine, work: asyncio.Task[Any]
) -> None:
    engine.containers["w1"] = web()
    await until(lambda: ids(consul) == {ID}, "registered")
    await listening(engine)
    await engine.tell("w1", "kill", signal="10")
    await engine.tell("w1", "kill", signal="15")
    await until(lambda: MAINTENANCE in checks(consul), "withdrawn")
    assert ids(consul) == {ID}
    engine.containers["w1"]["State"]["Running"] = False
    await engine.tell("w1", "die")
    await until(lambda: not ids(consul), "gone")


@pytest.mark.incident("T66")
@pytest.mark.parametrize(
    ("stated", "told"),
    [
        ("SIGWINCH", "28"),
        ("USR1", "SIGUSR1"),
        ("SIGRTMIN+3", "37"),
        ("RTMIN+3", "SIGRTMIN+3"),
        (37, "37"),
        ("SIGQUIT", "3"),
    ],
)
async def test_a_container_is_withdrawn_by_the_signal_that_its_image_names(
    consul: ConsulAgent, engine: FakeEngine, work: asyncio.Task[Any], stated: object, told: str
) -> None:
    """As the engine tells it of the container, in each way of writing; to others the same signal says nothing."""
    engine.containers["w1"], engine.containers["w2"] = web(), web("w2")
    engine.containers["w1"]["Config"]["StopSignal"] = stated
    other = ID.replace("w1", "w2")
    await until(lambda: ids(consul) == {ID, other}, "registered")
    await listening(engine)
    if stated != "SIGQUIT":
        await engine.tell("w2", "kill", signal=told)
    await engine.tell("w1", "kill", signal=told)
    await until(lambda: MAINTENANCE in checks(consul), "withdrawn")
    assert f"_service_maintenance:{other}" not in checks(consul)


async def test_the_command_registers_what_runs_and_leaves_nothing(
    consul: ConsulAgent, engine: FakeEngine, tmp_path: Path
) -> None:
    engine.containers["w1"] = web()
    command = Command(consul, engine, tmp_path / "registrator.log")
    command.start()
    try:
        await until(lambda: len(ids(consul)) == 1, "registered")
        await listening(engine)
        engine.containers["w1"]["State"]["Running"] = False
        await engine.tell("w1", "die")
        await until(lambda: not ids(consul), "gone")
        assert await asyncio.to_thread(command.stop) == 0
    finally:
        command.kill()


@pytest.mark.parametrize("amiss", [1, 4, 5])
async def test_a_container_that_goes_while_all_are_listed_is_no_loss_of_the_engine(
    engine: FakeEngine, amiss: int
) -> None:
    """Podman fails the whole list then. It is made anew, and not for ever."""
    engine.containers["w1"] = web()
    engine.lists_amiss = amiss
    async with Engine.at(engine.url) as asked:
        if amiss < 5:
            assert await asked.running() == ("w1",)
        else:
            with pytest.raises(EngineUnavailable, match="no such container"):
                await asked.running()


async def test_one_that_runs_on_after_a_signal_is_in_service_again(
    consul: ConsulAgent, engine: FakeEngine, work: asyncio.Task[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registrator, "_AFTER_STOP", 2.0)
    engine.containers["w1"] = web()
    engine.containers["w1"]["Config"]["StopTimeout"] = 0
    await until(lambda: ids(consul) == {ID}, "registered")
    await listening(engine)
    await engine.tell("w1", "kill", signal="15")
    await until(lambda: MAINTENANCE in checks(consul), "withdrawn")
    await until(lambda: MAINTENANCE not in checks(consul), "in service again", timeout=30)
    assert ids(consul) == {ID}


async def test_health_is_told_when_it_changes(consul: ConsulAgent, engine: FakeEngine, work: asyncio.Task[Any]) -> None:
    """By the event, long before the lease would have asked by itself."""
    engine.containers["w1"] = web(Health={"Status": "starting"})
    await until(lambda: checks(consul).get(f"{ID}:ttl") == "critical", "told that it starts")
    await listening(engine)
    for said, status in (("healthy", "passing"), ("unhealthy", "critical"), ("healthy", "passing")):
        engine.containers["w1"]["State"]["Health"]["Status"] = said
        await engine.tell("w1", f"health_status: {said}")
        await until(lambda status=status: checks(consul)[f"{ID}:ttl"] == status, said)  # type: ignore[misc]


async def test_a_container_that_restarts_in_a_loop_is_not_registered_each_time(
    consul: ConsulAgent, engine: FakeEngine, work: asyncio.Task[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three times at once, then by the clock; and in the end what is so counts."""
    monkeypatch.setattr(seat, "_RATE", 0.5)
    engine.containers["w1"] = web()
    await listening(engine)
    before, begin = writes(consul), time.monotonic()
    for _ in range(20):
        for running, action in ((True, "start"), (False, "die")):
            engine.containers["w1"]["State"]["Running"] = running
            await engine.tell("w1", action)
            await asyncio.sleep(0.1)
    # Three at once, one each two seconds, and one under way.
    assert 1 <= writes(consul) - before <= 3 + 0.5 * (time.monotonic() - begin) + 1
    engine.containers["w1"]["State"]["Running"] = True
    await engine.tell("w1", "start")
    await until(lambda: ids(consul) == {ID}, "registered in the end", timeout=30)


def writes(consul: ConsulAgent) -> int:
    """How often anything was registered; the agent logs each request."""
    return consul.log.read_text(errors="replace").count("/v1/agent/service/register")


@pytest.mark.parametrize("nonsense", ["[", "[{}]", '{"message": "hello"}', "null", "<html>"])
async def test_an_answer_that_is_none_takes_nothing_away(
    consul: ConsulAgent, engine: FakeEngine, work: asyncio.Task[Any], nonsense: str
) -> None:
    """No container can be seen, and all that were stay registered; what changed meanwhile is seen afterwards."""
    engine.containers |= {"w1": web(), "w2": web("w2")}
    both = {ID, ID.replace("w1", "w2")}
    await until(lambda: ids(consul) == both, "registered")
    engine.answers, before = nonsense, engine.questions
    await engine.tell("w1", "die")
    # Whoever asks once more has dealt with the answer before.
    await until(lambda: engine.questions >= before + 2, "two answers", timeout=60)
    assert ids(consul) == both
    assert not work.done()
    del engine.containers["w1"]
    engine.answers = None
    await until(lambda: ids(consul) == {ID.replace("w1", "w2")}, "what is left", timeout=30)


async def test_two_containers_with_one_id_are_one_after_the_other(
    consul: ConsulAgent, engine: FakeEngine, work: asyncio.Task[Any]
) -> None:
    """The first keeps it; the second is named, and has its turn when the first is gone."""
    for name in ("w1", "w2"):
        engine.containers[name] = web(name)
        engine.containers[name]["Config"]["Labels"] = {**WEB, "proxygen.id": "web-1", "proxygen.tag": name}
    await until(lambda: tags(consul) == {"web-1": "w1"}, "the first")
    del engine.containers["w1"]
    await until(lambda: tags(consul) == {"web-1": "w2"}, "the second", timeout=30)


def tags(consul: ConsulAgent) -> dict[str, str]:
    return {id: service["Tags"][-1] for id, service in consul.get("/v1/agent/services").items()}


async def test_what_shares_anothers_network_is_reached_there(
    consul: ConsulAgent, engine: FakeEngine, work: asyncio.Task[Any]
) -> None:
    engine.containers["w1"] = web()
    engine.containers["w1"]["Config"]["Labels"] = {}
    beside = web("w2")
    beside |= {"HostConfig": {"NetworkMode": "container:w1"}, "NetworkSettings": {"Ports": {}, "Networks": {}}}
    engine.containers["w2"] = copy.deepcopy(beside)
    await until(lambda: ids(consul) == {"docker-host:w2:8080"}, "the one beside it")
    assert consul.get("/v1/agent/service/docker-host:w2:8080")["Port"] == 32768


@pytest.mark.incident("T72")
async def test_what_shares_the_hosts_network_by_way_of_others_is_reached_on_the_host(
    consul: ConsulAgent, engine: FakeEngine, work: asyncio.Task[Any]
) -> None:
    """A container of a container, and one of that again."""
    nothing = {"Ports": {}, "Networks": {}}
    for name, mode in (("w1", "host"), ("w2", "container:w1"), ("w3", "container:w2")):
        engine.containers[name] = copy.deepcopy(web(name))
        engine.containers[name] |= {"HostConfig": {"NetworkMode": mode}, "NetworkSettings": nothing}
        engine.containers[name]["Config"]["ExposedPorts"] = {"8080/tcp": {}}
    engine.containers["w1"]["Config"]["Labels"] = {}
    wanted = {"docker-host:w2:8080", "docker-host:w3:8080"}
    await until(lambda: ids(consul) == wanted, "both")
    assert {consul.get(f"/v1/agent/service/{id}")["Port"] for id in wanted} == {8080}


async def test_the_right_to_write_services_is_all_that_it_needs(
    make_consul: Callable[..., ConsulAgent], engine: FakeEngine
) -> None:
    """Its sweep included: an entry of ours that nobody stands behind goes, others' stay."""
    consul = make_consul(config={"acl": {"enabled": True, "default_policy": "deny"}})
    await asyncio.to_thread(consul.start)
    consul.token = consul.put("/v1/acl/bootstrap")["SecretID"]
    consul.put("/v1/acl/policy", {"Name": "all", "Rules": 'service_prefix "" { policy = "write" }'})
    token = consul.put("/v1/acl/token", {"Policies": [{"Name": "all"}]})["SecretID"]
    for id, meta in (("orphan", {"registrator-host": "docker-host"}), ("somebodys", {})):
        consul.put("/v1/agent/service/register", {"ID": id, "Name": "web", "Meta": meta})
    engine.containers["w1"] = web()
    async with at_work(ConsulSettings(address=consul.address, token=SecretStr(token)), engine.url):
        await until(lambda: ids(consul) == {ID, "somebodys"}, "registered, and the orphan gone", timeout=30)


async def test_an_engine_that_is_not_there_yet_is_waited_for(consul: ConsulAgent, short_directory: Path) -> None:
    """Nothing that an earlier life registered is taken away meanwhile."""
    meta = {"registrator-host": "docker-host"}
    consul.put("/v1/agent/service/register", {"ID": "orphan", "Name": "web", "Meta": meta})
    async with at_work(ConsulSettings(address=consul.address), f"unix://{short_directory}/fake.sock") as work:
        await asyncio.sleep(1)
        assert ids(consul) == {"orphan"}
        assert not work.done()
        async with FakeEngine(short_directory) as engine:
            engine.containers["w1"] = web()
            await until(lambda: ids(consul) == {ID}, "registered, and the orphan gone", timeout=30)
