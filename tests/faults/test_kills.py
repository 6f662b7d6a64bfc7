"""kill -9 at random: of applications, of containers, of the agent that they are registered with, of the registrator."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest

from tests.harness import process
from tests.harness.consul import ConsulAgent
from tests.harness.containers import PORT, Containers
from tests.harness.engine import Engine
from tests.harness.registrator import Registrator

pytestmark = [pytest.mark.faults, pytest.mark.slow]

APPLICATION: Final = """
import asyncio, sys
from proxygen.registration import Registration, TtlCheck

async def main():
    check = TtlCheck(6)
    async with Registration(name="app", id=sys.argv[2], port=1, address="127.0.0.1", check=check, consul=sys.argv[1]):
        await asyncio.Event().wait()

asyncio.run(main())
"""


class Application:
    """A process that registers itself."""

    def __init__(self, consul: ConsulAgent, id: str, directory: Path) -> None:
        self.id = id
        self._command = [sys.executable, "-c", APPLICATION, consul.address, id]
        self._log = directory / f"{id}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def kill(self) -> None:
        if self._process is not None:
            process.stop(self._process, signal.SIGKILL)

    def start(self) -> None:
        self.kill()
        self._process = process.start(self._command, log=self._log)


class Container:
    """A container with a label for the registrator."""

    def __init__(self, containers: Containers, name: str) -> None:
        self.id = f"here:{name}:{PORT}"
        self._containers = containers
        self._name = name
        containers.run(name, labels={"proxygen.name": "app"})

    def kill(self) -> None:
        # It may be dead already.
        with suppress(RuntimeError):
            self._containers.call("kill", "--signal=KILL", self._name)

    def start(self) -> None:
        self._containers.call("start", self._name)


@pytest.fixture
def consul(make_consul: Callable[..., ConsulAgent]) -> ConsulAgent:
    """An agent that remembers, the dead too."""
    agent = make_consul(persistent=True)
    agent.start()
    return agent


@pytest.fixture
def registrator(consul: ConsulAgent, engine: Engine, tmp_path: Path) -> Iterator[Registrator]:
    flags = ("--registrator-host", "here", "--registrator-resync", "2s")
    registrator = Registrator(consul, engine, tmp_path / "registrator.log", *flags)
    registrator.start()
    yield registrator
    registrator.kill()


@pytest.fixture
def applications(consul: ConsulAgent, tmp_path: Path) -> Iterator[list[Application]]:
    applications = [Application(consul, f"app-{number}", tmp_path) for number in range(3)]
    for application in applications:
        application.start()
    yield applications
    for application in applications:
        application.kill()


@pytest.mark.timeout(900)
def test_consul_tells_the_truth_after_kills_of_everything(
    consul: ConsulAgent,
    registrator: Registrator,
    applications: list[Application],
    containers: Containers,
    times: Callable[[int, int], int],
    request: pytest.FixtureRequest,
    saw: Callable[[str], None],
) -> None:
    """Injects kill -9 of an application, a container, the agent or the registrator, 24 times without a rest (100 in
    the long form); what was killed comes back after a while, but for one application and one container. In the end
    Consul has who lives, passing, and nobody else: the dead container at once, the dead application when Consul has
    had enough of it."""
    chance = random.Random(int(request.config.getoption("--soak-seed")))
    instances: list[Application | Container] = [*applications, *(Container(containers, f"w{n}") for n in range(3))]
    mortal = {instances[0].id, instances[-1].id}
    kills: Counter[str] = Counter()
    for _ in range(times(24, 100)):
        victim = chance.choice([consul, registrator, *instances])
        victim.kill()
        kills[type(victim).__name__] += 1
        time.sleep(chance.uniform(0, 0.8))
        victim.start()
    for instance in instances:
        if instance.id in mortal:
            instance.kill()
    living = {instance.id for instance in instances} - mortal
    try:
        # A TTL, a minute that is Consul's least, and its look at who has been critical for that long.
        process.wait_until(lambda: passing(consul) == living, what="Consul to tell the truth", timeout=240)
    except TimeoutError as error:
        raise TimeoutError(f"{error}; it tells of {passing(consul)}, alive are {living}\n{registrator.said}") from error
    assert registrator.running
    saw(f"kills: {dict(kills)}")


def passing(consul: ConsulAgent) -> set[str] | dict[str, Any]:
    """The ids of all instances, where all of them pass in the catalog and the agent has the same; else what differs."""
    statuses = {
        one["Service"]["ID"]: sorted({check["Status"] for check in one["Checks"]}) for one in consul.instances("app")
    }
    is_well = all(status == ["passing"] for status in statuses.values())
    is_same = consul.get("/v1/agent/services").keys() == statuses.keys()
    return set(statuses) if is_well and is_same else statuses
