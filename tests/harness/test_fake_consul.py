"""The fake answers as the real one does, where it is not told to misbehave."""

from __future__ import annotations

import asyncio
from typing import Final

import aiohttp

from proxygen.consul.client import ConsulClient
from proxygen.consul.snapshot import fetch_catalog
from proxygen.settings import ConsulSettings
from tests.harness.consul import ConsulAgent
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


_QUESTIONS: Final = (
    ("/v1/health/service/consul", ""),
    ("/v1/health/service/consul", "stale"),
    ("/v1/health/service/consul", "index"),
    ("/v1/health/service/consul", "index stale"),
    ("/v1/health/service/consul", "index consistent"),
    ("/v1/health/service/consul", "index near"),
    ("/v1/catalog/services", "index stale"),
    ("/v1/health/state/any", "index"),
    ("/v1/kv/nothing/", "index recurse"),
)


async def test_its_headers_are_those_of_the_real_one(consul: ConsulAgent) -> None:
    """Backend, leader and contact of each kind of question, by the version that it stands for."""
    async with fake_consul() as fake:
        fake.streams = consul.streams
        for path, words in _QUESTIONS:
            assert await _headers(fake.address, path, words) == await _headers(consul.address, path, words), words


async def _headers(address: str, path: str, words: str) -> list[str | None]:
    """What an answer says of itself."""
    params = dict.fromkeys(words.split(), "")
    if "near" in params:
        params["near"] = "_agent"
    async with aiohttp.ClientSession() as session:
        if "index" in params:
            async with session.get(f"http://{address}{path}", params={"recurse": ""}) as first:
                params |= {"index": first.headers["X-Consul-Index"], "wait": "100ms"}
        async with session.get(f"http://{address}{path}", params=params) as answer:
            names = ("X-Consul-Query-Backend", "X-Consul-KnownLeader", "X-Consul-LastContact")
            return [answer.headers.get(name) for name in names]


async def test_who_lags_answers_with_what_was_and_the_leader_does_not() -> None:
    path = "/v1/catalog/services"
    async with fake_consul() as fake, ConsulClient(ConsulSettings(address=fake.address, wait=0.1)) as client:
        fake.lag()
        before = fake.index
        fake.put("web", entry("web", "web-1", 8001))
        assert b"web" not in (behind := await client.read(path, consistency="any")).body
        assert b"web" not in (await client.read(path, index=before, consistency="any")).body
        assert b"web" in (ahead := await client.read(path)).body
        assert (behind.index, ahead.index) == (before, fake.index)
        waiting = asyncio.create_task(client.read(path, index=before, consistency="any"))
        await asyncio.sleep(0.02)
        fake.catch_up()
        assert b"web" in (await waiting).body
