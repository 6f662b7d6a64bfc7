"""The fake answers as the real one does, where it is not told to misbehave."""

from __future__ import annotations

import asyncio

from proxygen.consul.client import ConsulClient
from proxygen.consul.snapshot import fetch_catalog
from proxygen.settings import ConsulSettings
from tests.harness.fake_consul import entry, fake_consul


async def test_a_blocking_query_returns_when_the_index_moves() -> None:
    """It blocks while nothing moves, and carries the new index when something did."""
    async with fake_consul() as fake, ConsulClient(ConsulSettings(address=fake.address)) as client:
        first = await client.read("/v1/catalog/services")
        waiting = asyncio.create_task(client.read("/v1/catalog/services", index=first.index))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        fake.put("web", entry("web", "web-1", 8001, "proxygen.route=a.example.com"))
        assert (await waiting).index == first.index + 1


async def test_its_catalog_reads_like_a_real_one() -> None:
    async with fake_consul() as fake, ConsulClient(ConsulSettings(address=fake.address)) as client:
        fake.put("web", entry("web", "web-1", 8001, "proxygen.route=a.example.com"))
        fake.kv["proxygen/canary/web"] = "{}"
        catalog = await fetch_catalog(client, tag_prefix="proxygen")
    assert catalog.datacenter == "dc1"
    assert [instance.port for instance in catalog.services["web"]] == [8001]  # type: ignore[index]
    assert catalog.overrides == {"web": "{}"}
