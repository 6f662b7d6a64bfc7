"""One scan of what nodes have registered, for all that want to know."""

from __future__ import annotations

from collections import Counter
from typing import Any

from proxygen.catalog import ServiceName
from proxygen.settings import ConsulSettings
from tests.consul.watching import ROUTE, Watching, ids, watching
from tests.harness.fake_consul import FakeConsul, entry, fake_consul
from tests.integration.waiting import until

ROUTED = 80
NODES = 5
NODES_PATH = "/v1/catalog/nodes"
NODE_PATH = "/v1/catalog/node/"


def on_node(number: int, one: dict[str, Any]) -> dict[str, Any]:
    return one | {"Node": one["Node"] | {"Node": f"n{number % NODES}"}}


def with_meta(one: dict[str, Any], **meta: str) -> dict[str, Any]:
    return one | {"Service": one["Service"] | {"Meta": {key.replace("_", "-"): value for key, value in meta.items()}}}


def fill(fake: FakeConsul) -> None:
    """More routed services than sockets, and others without proxy tags."""
    for number in range(ROUTED):
        fake.put(f"s{number}", on_node(number, entry(f"s{number}", f"s{number}-1", 8000 + number, ROUTE)))
    for number in range(10):
        fake.put(f"db{number}", on_node(number, entry(f"db{number}", f"db{number}-1", 5432)))


async def complete(one: Watching) -> None:
    await one.until(lambda catalog: len(catalog.services) == ROUTED)
    # The services are read once more after the first list of checks.
    assert await one.nothing_comes(0.5)


def scans(fake: FakeConsul) -> Counter[str]:
    return Counter(one.path for one in fake.requests if one.path.startswith((NODES_PATH, NODE_PATH)))


def reads(fake: FakeConsul, name: str) -> int:
    return sum(one.path == f"/v1/health/service/{name}" for one in fake.requests)


async def test_one_scan_serves_routed_services_and_those_without_proxy_tags() -> None:
    """A move of the index costs one list of nodes and one answer for each node, for all readers together."""
    async with fake_consul() as fake:
        fill(fake)
        async with watching(ConsulSettings(address=fake.address, meta_sweep=10)) as one:
            await complete(one)
            fake.requests.clear()
            fake.put("s7", on_node(7, entry("s7", "s7-1", 9999, ROUTE)))
            await one.until(lambda catalog: catalog.services[ServiceName("s7")][0].port == 9999)
            assert await one.nothing_comes(1.0)
            assert scans(fake) == {NODES_PATH: 1} | {f"{NODE_PATH}n{number}": 1 for number in range(NODES)}


async def test_a_service_without_proxy_tags_is_read_again_no_more_often_than_it_was_asked_for() -> None:
    """Routed services are looked at five times a second; ``meta_sweep`` still holds for each of the others."""
    async with fake_consul() as fake:
        fill(fake)
        async with watching(ConsulSettings(address=fake.address, meta_sweep=3600)) as one:
            await complete(one)
            fake.requests.clear()
            for number in range(5):
                before = scans(fake)
                fake.put("db7", with_meta(on_node(7, entry("db7", "db7-1", 5432)), run=str(number)))
                await until(lambda before=before: len(scans(fake) - before) > NODES, "the next scan")  # type: ignore[misc]
            assert reads(fake, "db7") == 1
            fake.put("db8", with_meta(on_node(8, entry("db8", "db8-1", 5432)), proxygen_route="db.example.com"))
            await one.until(lambda catalog: ids(catalog, "db8") == ["db8-1"])


async def test_the_last_change_of_a_service_without_proxy_tags_is_read_in_its_turn() -> None:
    async with fake_consul() as fake:
        fill(fake)
        async with watching(ConsulSettings(address=fake.address, meta_sweep=1.5)) as one:
            await complete(one)
            fake.requests.clear()
            fake.put("db7", with_meta(on_node(7, entry("db7", "db7-1", 5432)), run="1"))
            await until(lambda: reads(fake, "db7"), "the first change")
            fake.put("db7", with_meta(on_node(7, entry("db7", "db7-1", 5432)), proxygen_route="db.example.com"))
            await one.until(lambda catalog: ids(catalog, "db7") == ["db7-1"], within=10.0)


async def test_when_routed_services_get_questions_of_their_own_the_scan_goes_on_for_the_others() -> None:
    """And when there are too many of them again, it finds what changed of them."""
    async with fake_consul() as fake:
        fill(fake)
        async with watching(ConsulSettings(address=fake.address, meta_sweep=0.2)) as one:
            await complete(one)
            fake.put("s7", on_node(7, entry("s7", "s7-1", 9001, ROUTE)))
            await one.until(lambda catalog: catalog.services[ServiceName("s7")][0].port == 9001)
            for number in range(20, ROUTED):
                fake.put(f"s{number}")
            await one.until(lambda catalog: not ids(catalog, f"s{ROUTED - 1}"))
            fake.put("db8", with_meta(on_node(8, entry("db8", "db8-1", 5432)), proxygen_route="db.example.com"))
            await one.until(lambda catalog: ids(catalog, "db8") == ["db8-1"])
            fill(fake)
            await one.until(lambda catalog: all(ids(catalog, f"s{number}") for number in range(ROUTED)))
            assert await one.nothing_comes(0.5)
            fake.put("s9", on_node(9, entry("s9", "s9-1", 9002, ROUTE)))
            await one.until(lambda catalog: catalog.services[ServiceName("s9")][0].port == 9002)
            assert one.watch.problem is None
