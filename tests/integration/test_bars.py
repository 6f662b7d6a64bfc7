"""Shares and dying instances, counted over 20,000 requests through the whole system."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.bench.upstreams import Upstreams
from tests.harness.consul import ConsulAgent
from tests.harness.load import Load
from tests.harness.sidecar import Sidecar
from tests.integration.waiting import until

REQUESTS: Final = 20_000
ROUTE: Final = "proxygen.route=web.example.com"


@contextmanager
def instances(directory: Path, names: list[str]) -> Iterator[dict[str, Upstreams]]:
    """Start a process for each instance."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(Upstreams(directory / name, [name])) for name in names}


def register(consul: ConsulAgent, upstreams: dict[str, Upstreams], share: str) -> None:
    for name, upstream in upstreams.items():
        tags = [ROUTE, f"proxygen.canary={share}"] if name == "canary" else [ROUTE]
        consul.register("web", port=upstream.ports[name], tags=tags)


def load_of(sidecar: Sidecar, *, keepalive: bool) -> Load:
    host = {"Host": "web.example.com"}
    return Load("127.0.0.1", sidecar.http, headers=host, clients=16, keepalive=keepalive)


async def assert_share(sidecar: Sidecar, share: float) -> None:
    """The canary's share is within three standard deviations of the binomial, and nothing failed.

    One honest split in 370 is outside; so a first miss is measured anew, and two in a row (one in 137,000) fail.
    """
    deviation = (share * (1 - share) / REQUESTS) ** 0.5
    seen = []
    for _ in range(2):
        tally = await load_of(sidecar, keepalive=True).send(REQUESTS)
        assert tally.failed == 0, tally.failures
        assert tally.total == REQUESTS
        seen.append(tally.share(lambda name: name == "canary"))
        if abs(seen[-1] - share) <= 3 * deviation:
            return
    raise AssertionError(f"asked for {share}, saw {seen}; a standard deviation is {deviation:.5f}")


@pytest.mark.parametrize("stopped", [False, True], ids=["all", "one-stopped"])
@pytest.mark.parametrize("stable", [2, 5, 20])
async def test_a_canary_gets_ten_percent_whatever_the_number_of_instances(
    consul: ConsulAgent, any_sidecar: Sidecar, tmp_path: Path, stable: int, stopped: bool
) -> None:
    """Also when a stable instance has died and Consul does not know yet; its requests go to the others unharmed."""
    with instances(tmp_path, ["canary", *(f"stable-{number}" for number in range(stable))]) as upstreams:
        register(consul, upstreams, "10%")
        any_sidecar.start()
        if stopped:
            upstreams["stable-0"].kill()
        await assert_share(any_sidecar, 0.10)


@pytest.mark.incident("T25")
@pytest.mark.parametrize("stable", [2, 7, 20])
async def test_a_canary_gets_five_percent_at_every_size(
    consul: ConsulAgent, any_sidecar: Sidecar, tmp_path: Path, stable: int
) -> None:
    """T25: a canary of 5 % beside 2 to 20 stable instances."""
    with instances(tmp_path, ["canary", *(f"stable-{number}" for number in range(stable))]) as upstreams:
        register(consul, upstreams, "5%")
        any_sidecar.start()
        await assert_share(any_sidecar, 0.05)


@pytest.mark.parametrize("keepalive", [False, True], ids=["close", "keepalive"])
async def test_a_canary_that_dies_costs_no_request(
    consul: ConsulAgent, any_sidecar: Sidecar, tmp_path: Path, keepalive: bool
) -> None:
    """The stable instances stand behind the canary, before Consul knows that it is dead."""
    with instances(tmp_path, ["canary", "stable-0", "stable-1"]) as upstreams:
        register(consul, upstreams, "50%")
        any_sidecar.start()
        load = load_of(any_sidecar, keepalive=keepalive)
        sending = asyncio.create_task(load.send(1_000_000), name="load")
        try:
            await until(lambda: load.tally.by_instance["canary"] > 500, "the canary's part")
            await asyncio.to_thread(upstreams["canary"].kill)
            answered = load.tally.ok
            await until(lambda: load.tally.total > answered + 2_000, "requests after its death")
        finally:
            load.stop()
            await sending
        assert load.tally.failed == 0, load.tally.failures
