"""A service whose tags make the listing long, in a real Consul: from 1.14.0 on it is left out of the question."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import pytest

from proxygen.catalog import ServiceName
from proxygen.consul.decode import decode_summaries
from proxygen.consul.oversized import filter_without
from proxygen.settings import ConsulSettings
from tests.consul.watching import ROUTE, Watching, ids, watching
from tests.harness.consul import ConsulAgent
from tests.harness.harms import unknown_tags
from tests.integration.waiting import call

JUNK = ServiceName("junk")

pytestmark = pytest.mark.incident("T53")


async def test_a_newcomer_is_seen_at_once_and_the_oversized_one_stays(consul: ConsulAgent) -> None:
    """Where Consul can leave it out, nothing that is read for a newcomer has the oversized one's tags in it."""
    async with _beside_junk(consul) as one:
        await _newcomer(consul, one, "first")
        before = one.client.statistics.received
        await _newcomer(consul, one, "second")
        assert not _takes_filters(consul) or one.client.statistics.received - before < 10_000
        assert one.watch.problem is None


async def test_one_that_shrinks_is_served_and_listed_again(consul: ConsulAgent) -> None:
    async with _beside_junk(consul, wait=1.0) as one:
        await _newcomer(consul, one, "new")
        for n in range(2):
            await call(consul.register, "junk", id=f"junk-{n}", port=8003, tags=[ROUTE])
        await one.until(lambda catalog: {one.tags for one in catalog.services[JUNK]} == {(ROUTE,)})
        assert one.watch.problem is None


async def test_one_that_is_deregistered_goes(consul: ConsulAgent) -> None:
    async with _beside_junk(consul) as one:
        await _newcomer(consul, one, "new")
        for n in range(2):
            await call(consul.deregister, f"junk-{n}")
        await one.until(lambda catalog: catalog.services[JUNK] == ())
        assert one.watch.problem is None


@pytest.mark.parametrize("name", ['j"k', "j\\k", "j`k", "j k", "jünk", "j/k", "j?k=&#%", "j\nk", 'j\\"k'])
async def test_any_name_can_be_left_out(consul: ConsulAgent, name: str) -> None:
    """No name breaks the filter, or leaves out another service."""
    consul.register(name, id="odd", port=8001)
    consul.register("web", port=8001, tags=[ROUTE])
    listed = await call(consul.get, f"/v1/catalog/services?{urlencode({'filter': filter_without([name])})}")
    assert listed.keys() == {"consul", "web"} | (set() if _takes_filters(consul) else {name})
    only_web = urlencode({"filter": filter_without([name], selector="Service.Service")})
    summaries = decode_summaries(json.dumps(await call(consul.get, f"/v1/internal/ui/services?{only_web}")).encode())
    assert summaries == {"consul": (), "web": (ROUTE,)}


def _takes_filters(consul: ConsulAgent) -> bool:
    return consul.version >= (1, 14, 0)


async def _newcomer(consul: ConsulAgent, one: Watching, name: str) -> None:
    await call(consul.register, name, id=name, port=8002, tags=[ROUTE])
    await one.until(lambda catalog: ids(catalog, name) == [name] and len(catalog.services[JUNK]) == 2)


@asynccontextmanager
async def _beside_junk(consul: ConsulAgent, **knobs: Any) -> AsyncIterator[Watching]:
    unknown_tags(consul, 8001, instances=2, count=10_000)
    async with watching(ConsulSettings(address=consul.address, **knobs)) as one:
        await one.until(lambda catalog: len(ids(catalog, "junk")) == 2)
        yield one
