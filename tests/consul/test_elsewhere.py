"""Other datacenters: what is seen there, and that their trouble stays theirs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web

from proxygen.catalog import Catalog, Instance, ServiceName
from proxygen.consul import remote
from proxygen.consul.client import ConsulClient
from proxygen.consul.elsewhere import datacenters_named, share_of
from proxygen.consul.watch import CatalogWatch
from proxygen.kit.aio import Latest
from proxygen.settings import ConsulSettings
from tests.consul.watching import ROUTE, Watching, ids, watching
from tests.harness.fake_consul import FakeConsul, entry, fake_consul
from tests.integration.waiting import until

FAILOVER = "proxygen.failover=dc2,dc3"
WEB = entry("web", "web-1", 8001, ROUTE, FAILOVER)
OTHER = entry("web", "web-2", 8002)


def settings_for(fake: FakeConsul, **knobs: Any) -> ConsulSettings:
    return ConsulSettings(address=fake.address, **knobs)


def there(catalog: Catalog, datacenter: str, name: str = "web") -> list[str] | None:
    """The ids of a service's instances in another datacenter; None where they were never observed."""
    found = catalog.elsewhere.get(datacenter, {}).get(ServiceName(name))
    return None if found is None else [instance.id for instance in found]


def with_others(fake: FakeConsul) -> tuple[FakeConsul, FakeConsul]:
    """Give the fake two more datacenters; the second has an instance of web."""
    others = FakeConsul(), FakeConsul()
    fake.elsewhere = dict(zip(("dc2", "dc3"), others, strict=True))
    others[0].put("web", OTHER)
    return others


def asked(fake: FakeConsul) -> Iterator[str]:
    """The datacenters that were asked for something."""
    return (request.query["dc"] for request in fake.requests if "dc" in request.query)


def unreachable(request: web.Request) -> web.Response:
    return web.Response(status=500, text="No path to datacenter")


def instance(name: str, *tags: str, failover: str | None = None) -> Instance:
    """An instance with these tags, and the Meta key where it is given."""
    meta = () if failover is None else (("proxygen-failover", failover),)
    return Instance(
        service=ServiceName("web"),
        id=name,
        node="n1",
        datacenter="dc2",
        address="10.0.0.1",
        port=80,
        tags=tags,
        meta=meta,
    )


async def until_warned(one: Watching, *words: str) -> str:
    for _ in range(200):
        for warning in one.watch.warnings:
            if all(word in warning for word in words):
                return warning
        await asyncio.sleep(0.05)
    raise AssertionError(f"{words} not in {one.watch.warnings}")


async def test_what_other_datacenters_have_comes_with_the_first_catalog_and_follows_changes() -> None:
    async with fake_consul() as fake:
        dc2, _ = with_others(fake)
        fake.put("web", WEB)
        async with watching(settings_for(fake)) as one:
            first = await one.slot.take()
            assert there(first, "dc2") == ["web-2"]
            assert there(first, "dc3") == [], "observed, and nothing is there"
            assert ids(first, "web") == ["web-1"]
            dc2.put("web", OTHER, entry("web", "web-3", 8003))
            await one.until(lambda catalog: there(catalog, "dc2") == ["web-2", "web-3"])
            dc2.put("web")
            await one.until(lambda catalog: there(catalog, "dc2") == [])
            assert one.watch.warnings == ()


async def test_nobody_is_asked_without_the_tag() -> None:
    async with fake_consul() as fake:
        with_others(fake)
        fake.put("web", entry("web", "web-1", 8001, ROUTE))
        async with watching(settings_for(fake)) as one:
            await one.slot.take()
            await one.nothing_comes(0.3)
            assert not list(asked(fake))
            assert all(request.path != "/v1/catalog/datacenters" for request in fake.requests[1:])


async def test_a_tag_that_comes_and_goes_is_followed() -> None:
    async with fake_consul() as fake:
        with_others(fake)
        fake.put("web", entry("web", "web-1", 8001, ROUTE))
        async with watching(settings_for(fake)) as one:
            assert there(await one.slot.take(), "dc2") is None
            fake.put("web", WEB)
            await one.until(lambda catalog: there(catalog, "dc2") == ["web-2"])
            fake.put("web", entry("web", "web-1", 8001, ROUTE))
            await one.until(lambda catalog: FAILOVER not in catalog.services[ServiceName("web")][0].tags)
            for port in range(8010, 8030):
                # It is let go of a moment later, and shown with the next change.
                fake.put("web", entry("web", "web-1", port, ROUTE))
                if there(await one.slot.take(), "dc2") is None:
                    return
            raise AssertionError("dc2 stays")


@pytest.mark.parametrize("trouble", ["unreachable", "leaderless", "lagging", "hiding", "nothing"])
async def test_a_datacenter_in_trouble_keeps_its_instances_and_stops_nobody(trouble: str) -> None:
    """T16: what cannot be read or believed stays as it was last seen, and the others go on."""
    async with fake_consul() as fake:
        dc2, dc3 = with_others(fake)
        fake.put("web", WEB)
        async with watching(settings_for(fake)) as one:
            await one.until(lambda catalog: there(catalog, "dc2") == ["web-2"])
            if trouble == "unreachable":
                dc2.fault = unreachable
            elif trouble == "leaderless":
                dc2.known_leader = False
            elif trouble == "lagging":
                dc2.last_contact_ms = 60_000
            elif trouble == "hiding":
                del dc2.services["consul"]
            else:
                dc2.fault = lambda request: None if "consistent" in request.query else dc2.reply([])
            if trouble == "nothing":
                dc2.change()
            else:
                dc2.put("web")
                await until_warned(one, "datacenter dc2", "service web", "the last known instances in dc2 stay")
            dc3.put("web", entry("web", "web-4", 8004))
            await one.until(lambda catalog: there(catalog, "dc3") == ["web-4"])
            fake.put("web", WEB, entry("web", "web-5", 8005, ROUTE, FAILOVER))
            await one.until(lambda catalog: ids(catalog, "web") == ["web-1", "web-5"])
            catalog = one.slot.peek()
            assert catalog is not None
            assert there(catalog, "dc2") == ["web-2"]
            assert one.watch.problem is None
            assert one.watch.freshness() < 60


@pytest.mark.incident("T32")
async def test_a_datacenter_whose_views_look_well_is_told_of_by_its_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """T32: standing questions are answered by views of our agent, which never say that the servers there lost their
    leader. The second time it is told as the first, and what changed meanwhile is seen once they are back."""
    monkeypatch.setattr(remote, "_ROUND", 0.2)
    async with fake_consul() as fake:
        dc2, _ = with_others(fake)
        fake.streams = dc2.streams = True
        fake.put("web", WEB)
        async with watching(settings_for(fake, wait=0.5)) as one:
            await one.until(lambda catalog: there(catalog, "dc2") == ["web-2"])
            for number in (6, 7):
                await until(lambda: one.watch.warnings == (), "no trouble")
                dc2.lag(views_alone=True)
                dc2.fault = _leaderless
                await until_warned(one, "datacenter dc2", "No cluster leader", "the last known instances in dc2 stay")
                dc2.put("web", entry("web", f"web-{number}", 8000 + number))
                assert one.watch.problem is None
                dc2.fault = lambda request: None
                await one.until(lambda catalog, number=number: there(catalog, "dc2") == [f"web-{number}"])  # type: ignore[misc]


def _leaderless(request: web.Request) -> web.Response | None:
    """As servers without a leader answer, while the views of our agent go on."""
    is_streamed = "index" in request.query and "near" not in request.query
    return None if is_streamed else web.Response(status=500, text="No cluster leader")


async def test_a_datacenter_that_is_back_is_believed_again() -> None:
    async with fake_consul() as fake:
        dc2, _ = with_others(fake)
        fake.put("web", WEB)
        async with watching(settings_for(fake)) as one:
            await one.until(lambda catalog: there(catalog, "dc2") == ["web-2"])
            dc2.fault = unreachable
            dc2.change()
            await until_warned(one, "No path to datacenter")
            dc2.fault = lambda request: None
            dc2.put("web", entry("web", "web-6", 8006))
            await one.until(lambda catalog: there(catalog, "dc2") == ["web-6"])
            assert one.watch.warnings == ()


async def test_a_datacenter_that_fails_does_not_hold_up_the_first_catalog(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxygen.consul.elsewhere.PATIENCE", 600.0)
    async with fake_consul() as fake:
        dc2, dc3 = with_others(fake)
        dc2.fault = unreachable
        dc3.known_leader = False
        fake.put("web", WEB)
        async with watching(settings_for(fake)) as one:
            await one.until(lambda catalog: ids(catalog, "web") == ["web-1"], within=60.0)
            catalog = one.slot.peek()
            assert catalog is not None
            assert there(catalog, "dc2") is None, "a failure is not absence"


async def test_what_an_earlier_run_knew_stands_until_the_datacenter_answers() -> None:
    """A restart while another datacenter is down takes nothing away; what has answered is believed."""
    known = {name: {ServiceName("web"): (instance("web-8"),)} for name in ("dc2", "dc3", "unlisted", "unnamed")}
    async with fake_consul() as fake:
        dc2, _ = with_others(fake)
        dc2.fault = unreachable
        fake.put("web", entry("web", "web-1", 8001, ROUTE, "proxygen.failover=dc2,dc3,unlisted"))
        slot: Latest[Catalog] = Latest()
        async with ConsulClient(settings_for(fake)) as client:
            watch = CatalogWatch(
                client, tag_prefix="proxygen", into=slot, known=Catalog(datacenter="dc1", services={}, elsewhere=known)
            )
            task = asyncio.create_task(watch.run())
            try:
                async with asyncio.timeout(60):
                    first = await slot.take()
                assert there(first, "dc2") == ["web-8"]
                assert there(first, "unlisted") == ["web-8"]
                assert there(first, "dc3") == []
                assert there(first, "unnamed") is None
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


async def test_a_datacenter_that_is_silent_holds_up_the_first_catalog_for_some_time_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("proxygen.consul.elsewhere.PATIENCE", 1.0)
    async with fake_consul() as fake:
        dc2, dc3 = with_others(fake)
        dc2.silent = True
        dc3.put("web", entry("web", "web-4", 8004))
        fake.put("web", WEB)
        async with watching(settings_for(fake)) as one:
            await one.until(lambda catalog: there(catalog, "dc3") == ["web-4"])


async def test_a_name_that_consul_does_not_list_is_never_asked_for() -> None:
    """A tag is hostile; nor does it hold up anything."""
    async with fake_consul() as fake:
        with_others(fake)
        fake.put("web", entry("web", "web-1", 8001, ROUTE, "proxygen.failover=nowhere,dc2"))
        async with watching(settings_for(fake)) as one:
            await one.until(lambda catalog: there(catalog, "dc2") == ["web-2"])
            await until_warned(one, "datacenter nowhere", "'web'")
            assert set(asked(fake)) == {"dc2"}


async def test_a_datacenter_that_joins_later_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxygen.consul.elsewhere._LOOK_AGAIN", 0.2)
    async with fake_consul() as fake:
        fake.put("web", WEB)
        async with watching(settings_for(fake)) as one:
            await until_warned(one, "datacenter dc2")
            with_others(fake)
            await one.until(lambda catalog: there(catalog, "dc2") == ["web-2"], within=20.0)
            assert one.watch.warnings == ()


async def test_more_services_than_sockets_are_read_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most a quarter of the sockets waits for other datacenters, and every service there is followed."""
    monkeypatch.setattr("proxygen.consul.remote._ROUND", 0.2)
    count = 40
    async with fake_consul() as fake:
        dc2, _ = with_others(fake)
        for number in range(count):
            dc2.services[f"s{number}"] = [entry(f"s{number}", "a", 8000)]
            fake.services[f"s{number}"] = [entry(f"s{number}", "local", 9000, ROUTE, FAILOVER)]
        fake.change()
        async with watching(settings_for(fake, max_connections=16)) as one:
            await one.until(lambda catalog: all(there(catalog, "dc2", f"s{number}") for number in range(count)))
            await one.until(lambda catalog: all(there(catalog, "dc3", f"s{number}") == [] for number in range(count)))
            for number in (0, 17, count - 1):
                dc2.put(f"s{number}", entry(f"s{number}", "b", 8000))
                await one.until(lambda catalog, name=f"s{number}": there(catalog, "dc2", name) == ["b"])  # type: ignore[misc]
            waiting = {
                (request.query["dc"], request.path)
                for request in fake.requests
                if "dc" in request.query and "index" in request.query
            }
            assert len(waiting) <= share_of(16)
            assert one.client.statistics.waiting == 0
            assert one.watch.problem is None


@pytest.mark.parametrize("takes", [0.0, 1.0])
async def test_a_service_that_cannot_be_read_there_holds_up_no_other(
    monkeypatch: pytest.MonkeyPatch, takes: float
) -> None:
    """Those that are read in turn are read on, and the one that fails is named and not asked for without end."""
    monkeypatch.setattr("proxygen.consul.remote._ROUND", 0.2)
    async with fake_consul() as fake:
        dc2, _ = with_others(fake)
        for number in range(20):
            dc2.services[f"s{number}"] = [entry(f"s{number}", "a", 8000)]
            fake.services[f"s{number}"] = [entry(f"s{number}", "local", 9000, ROUTE, "proxygen.failover=dc2")]
        answer, tries = dc2._answer, 0

        async def fail(request: web.Request) -> web.Response:
            nonlocal tries
            if request.path != "/v1/health/service/s9":
                return await answer(request)
            tries += 1
            await asyncio.sleep(takes)
            return web.Response(status=500, text="rpc error: msgpack decode error")

        monkeypatch.setattr(dc2, "_answer", fail)
        fake.change()
        async with watching(settings_for(fake, max_connections=16)) as one:
            await one.until(lambda catalog: len(catalog.elsewhere.get("dc2", {})) == 19, within=60.0)
            await until_warned(one, "dc2", "s9")
            for ident in ("b", "c"):
                dc2.put("s8", entry("s8", ident, 8000))
                # Beside other tests a round takes long.
                await one.until(
                    lambda catalog, ident=ident: there(catalog, "dc2", "s8") == [ident],  # type: ignore[misc]
                    within=60.0,
                )
            assert tries < 15


async def test_a_datacenter_that_is_silent_takes_no_turn_from_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxygen.consul.elsewhere.PATIENCE", 1.0)
    monkeypatch.setattr("proxygen.consul.remote._ROUND", 0.2)
    async with fake_consul() as fake:
        dc2, dc3 = with_others(fake)
        for number in range(20):
            dc3.services[f"s{number}"] = [entry(f"s{number}", "a", 8000)]
            fake.services[f"s{number}"] = [entry(f"s{number}", "local", 9000, ROUTE, FAILOVER)]
        dc2.silent = True
        fake.change()
        async with watching(settings_for(fake, max_connections=16)) as one:
            await one.until(
                lambda catalog: all(there(catalog, "dc3", f"s{number}") == ["a"] for number in range(20)), within=20.0
            )


def test_datacenters_are_read_from_tags_and_meta_and_what_does_not_parse_names_none() -> None:
    some = [instance("a", "proxygen.failover=dc2,dc3"), instance("b", failover="dc4"), instance("c", FAILOVER)]
    assert datacenters_named(some, "proxygen") == ("dc2", "dc3", "dc4")
    assert datacenters_named(some, "edge") == ()
    wrong = [instance("d", "proxygen.failover=../x?dc=1", "proxygen.failover=", failover="dc2,")]
    assert datacenters_named(wrong, "proxygen") == ()
