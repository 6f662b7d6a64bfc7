"""One-shot reads of a real Consul."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from proxygen.catalog import ServiceName
from proxygen.consul.catalog_file import read_catalog_file
from proxygen.consul.client import ConsulClient
from proxygen.consul.snapshot import fetch_catalog, take_snapshot
from proxygen.kit.errors import CatalogUnavailable
from proxygen.settings import ConsulSettings
from tests.consul.watching import ROUTE
from tests.harness.consul import ConsulAgent, start_datacenters


async def test_a_snapshot_reads_back_as_what_was_fetched(consul: ConsulAgent) -> None:
    """Tags, Meta, weights, health and overrides survive; unrouted services stay out."""
    consul.register("web", id="web-1", port=8001, tags=[ROUTE], status="warning", weights=(5, 2))
    consul.register("meta", id="meta-1", port=8002, meta={"proxygen-route": "meta.example.com"})
    consul.register("db", id="db-1", port=5432)
    consul.register("a b%c", id="odd", port=1, tags=[ROUTE])
    consul.kv_put("proxygen/canary/web", '{"canary": "5%"}')
    consul.kv_put("proxygen/other", "x")
    async with ConsulClient(ConsulSettings(address=consul.address)) as client:
        catalog = await fetch_catalog(client, tag_prefix="proxygen")
        text = await take_snapshot(client, tag_prefix="proxygen")
    assert set(catalog.services) == {"web", "meta", "a b%c"}
    assert catalog.overrides == {"web": '{"canary": "5%"}'}
    assert catalog.datacenter == "dc1"
    assert read_catalog_file(text) == catalog
    assert json.loads(text)["services"]["web"] == consul.instances("web")


async def test_an_unknown_datacenter_is_no_empty_catalog(consul: ConsulAgent) -> None:
    async with ConsulClient(ConsulSettings(address=consul.address, datacenter="nowhere")) as client:
        with pytest.raises(CatalogUnavailable, match="No path to datacenter"):
            await fetch_catalog(client, tag_prefix="proxygen")


async def test_a_snapshot_holds_what_stands_behind_in_other_datacenters(
    tmp_path: Path,
) -> None:
    """A datacenter that cannot be asked is left out, which is not the same as empty."""
    started = start_datacenters(tmp_path, {"dc1": 1, "dc2": 1})
    [here], [there] = started.values()
    try:
        here.register("web", id="web-1", port=8001, tags=[ROUTE, "proxygen.failover=dc2,atlantis"])
        here.register("lone", id="lone-1", port=8002, tags=[ROUTE, "proxygen.failover=dc2"])
        there.register("web", id="web-2", port=8003)
        there.register("unnamed", id="unnamed-1", port=8004)
        async with ConsulClient(ConsulSettings(address=here.address)) as client:
            catalog = await fetch_catalog(client, tag_prefix="proxygen")
            assert read_catalog_file(await take_snapshot(client, tag_prefix="proxygen")) == catalog
            [web] = catalog.elsewhere["dc2"][ServiceName("web")]
            assert (web.id, web.datacenter) == ("web-2", "dc2")
            assert catalog.elsewhere.keys() == {"dc2"}
            assert catalog.elsewhere["dc2"].keys() == {"web", "lone"}
            assert catalog.elsewhere["dc2"][ServiceName("lone")] == ()
            there.kill()
            without = await fetch_catalog(client, tag_prefix="proxygen")
            assert without.elsewhere == {}
            assert without.services == catalog.services
    finally:
        for agent in (here, there):
            agent.kill()
