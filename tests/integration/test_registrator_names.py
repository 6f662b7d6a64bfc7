"""Containers whose names and ids change hands under load, with a real engine: an instance is always there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.consul import ConsulAgent
from tests.harness.containers import PORT, Containers
from tests.harness.engine import Engine
from tests.harness.registrator import Registrator
from tests.harness.watching_passing import watching_passing
from tests.integration.waiting import until

pytestmark = [pytest.mark.incident("T67"), pytest.mark.slow]

LABELS = {"proxygen.name": "web", "proxygen.check-http": "/", "proxygen.check-interval": "1s"}

MakeRegistrator = Callable[[], Registrator]


@pytest.fixture
def registrator(consul: ConsulAgent, engine: Engine, tmp_path: Path) -> Iterator[MakeRegistrator]:
    started: list[Registrator] = []

    def start() -> Registrator:
        log = tmp_path / f"registrator{len(started)}.log"
        started.append(Registrator(consul, engine, log, "--registrator-host", "here", "--registrator-resync", "2s"))
        started[-1].start()
        return started[-1]

    yield start
    for one in started:
        one.kill()


def passing(consul: ConsulAgent) -> dict[str, int]:
    """Ports of the passing instances by id."""
    found = consul.get("/v1/health/service/web?passing")
    return {one["Service"]["ID"]: one["Service"]["Port"] for one in found}


async def run(containers: Containers, name: str, **labels: str) -> int:
    await asyncio.to_thread(containers.run, name, labels={**LABELS, **labels})
    return containers.published(name)


async def call(containers: Containers, *arguments: str) -> None:
    await asyncio.to_thread(containers.call, *arguments)


def own(name: str) -> str:
    return f"here:{name}:{PORT}"


async def until_passing(consul: ConsulAgent, running: Registrator, wanted: dict[str, int]) -> None:
    try:
        await until(lambda: passing(consul) == wanted, f"{wanted}", timeout=60)
    except TimeoutError as error:
        raise TimeoutError(f"{error}: {passing(consul)}\n{running.said}") from error


async def test_a_renamed_container_is_never_without_an_entry(
    consul: ConsulAgent, containers: Containers, registrator: MakeRegistrator
) -> None:
    """Whether the registrator runs meanwhile, or is started anew after it."""
    port = await run(containers, "w1")
    running = registrator()
    await until_passing(consul, running, {own("w1"): port})
    async with watching_passing(consul, "web") as seen:
        await call(containers, "rename", "w1", "w2")
        await until_passing(consul, running, {own("w2"): port})
        assert await asyncio.to_thread(running.stop) == 0
        await call(containers, "rename", "w2", "w3")
        running = registrator()
        await until_passing(consul, running, {own("w3"): port})
    seen.require_no_gap()


async def test_two_that_swap_their_names_each_keep_serving(
    consul: ConsulAgent, containers: Containers, registrator: MakeRegistrator
) -> None:
    one, two = await run(containers, "w1"), await run(containers, "w2")
    running = registrator()
    await until_passing(consul, running, {own("w1"): one, own("w2"): two})
    async with watching_passing(consul, "web") as seen:
        for before, after in (("w1", "aside"), ("w2", "w1"), ("aside", "w2")):
            await call(containers, "rename", before, after)
        await until_passing(consul, running, {own("w1"): two, own("w2"): one})
    seen.require_no_gap()


async def test_an_id_goes_from_one_to_the_next_at_once(
    consul: ConsulAgent, containers: Containers, registrator: MakeRegistrator
) -> None:
    """The second waits for it, and has it once the first is gone."""
    label: dict[str, Any] = {"proxygen.id": "web-1"}
    one = await run(containers, "w1", **label)
    running = registrator()
    await until_passing(consul, running, {"web-1": one})
    two = await run(containers, "w2", **label)
    await until(lambda: "has the id web-1 already" in running.said, "the second waits", timeout=60)
    await call(containers, "rm", "--force", "--time=0", "w1")
    await until_passing(consul, running, {"web-1": two})
