"""Services without proxy tags, whose Meta may carry a route."""

from __future__ import annotations

import asyncio
from typing import Any

from proxygen.settings import ConsulSettings
from tests.consul.watching import ROUTE, ids, watching
from tests.harness.fake_consul import FakeConsul, entry, fake_consul

SERVICE_PATH = "/v1/health/service/"


def with_meta(one: dict[str, Any], **meta: str) -> dict[str, Any]:
    keys = {key.replace("_", "-"): value for key, value in meta.items()}
    return one | {"Service": one["Service"] | {"Meta": keys}}


def read_services(fake: FakeConsul) -> list[str]:
    return sorted(one.path.removeprefix(SERVICE_PATH) for one in fake.requests if one.path.startswith(SERVICE_PATH))


def fill(fake: FakeConsul) -> None:
    fake.put("web", entry("web", "web-1", 8001, ROUTE))
    for number in range(50):
        fake.put(f"db{number}", entry(f"db{number}", f"db{number}-1", 5432))


async def test_a_change_of_one_makes_no_other_be_read_again() -> None:
    """A catalog may hold thousands of services that nobody routes, and they change all the time."""
    async with fake_consul() as fake:
        fill(fake)
        async with watching(ConsulSettings(address=fake.address, meta_sweep=0.2)) as one:
            await one.until(lambda catalog: set(catalog.services) == {"web"})
            assert len(read_services(fake)) >= 51
            await asyncio.sleep(0.5)
            fake.requests.clear()
            for number in range(10):
                fake.put("db7", with_meta(entry("db7", "db7-1", 5432), run=str(number)))
                await asyncio.sleep(0.1)
            fake.put("db8", with_meta(entry("db8", "db8-1", 5432), proxygen_route="db.example.com"))
            await one.until(lambda catalog: ids(catalog, "db8") == ["db8-1"])
            assert set(read_services(fake)) <= {"web", "db7", "db8"}


async def test_one_that_is_new_is_asked_at_once() -> None:
    """Not only when the sweep's time has come."""
    async with fake_consul() as fake:
        fill(fake)
        async with watching(ConsulSettings(address=fake.address, meta_sweep=3600)) as one:
            await one.until(lambda catalog: set(catalog.services) == {"web"})
            fake.put("late", with_meta(entry("late", "late-1", 5432), proxygen_route="late.example.com"))
            await one.until(lambda catalog: ids(catalog, "late") == ["late-1"])
