"""Answers that no healthy Consul gives, and that must not reach the catalog."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from aiohttp import web

from proxygen.catalog import Catalog, Health, ServiceName
from proxygen.consul.decode import decode_entries, instances_of
from proxygen.settings import ConsulSettings
from tests.consul.watching import ROUTE, Watching, health, ids, watching
from tests.harness.fake_consul import FakeConsul, entry, fake_consul
from tests.integration.waiting import until

WEB = entry("web", "web-1", 8001, ROUTE)


def settings_for(fake: FakeConsul, **knobs: Any) -> ConsulSettings:
    return ConsulSettings(address=fake.address, **knobs)


async def settled(one: Watching) -> None:
    await one.until(lambda catalog: ids(catalog, "web") == ["web-1"])
    await one.nothing_comes(0.2)


@pytest.mark.incident("T1")
async def test_an_index_that_goes_backwards_is_asked_anew() -> None:
    """T1: the answer under a lower index is not believed; the one asked for from 0 is."""
    async with fake_consul() as fake:
        fake.put("web", WEB)
        async with watching(settings_for(fake)) as one:
            await settled(one)
            fake.services["web"] = [WEB, entry("web", "web-2", 8002, ROUTE)]
            fake.change(by=-90)
            await one.until(lambda catalog: ids(catalog, "web") == ["web-1", "web-2"], within=3.0)


@pytest.mark.incident("T1")
async def test_a_lower_index_over_the_same_services_is_told() -> None:
    """T1: what lost its past is known by it also where it lists every service, as soon as any of them changes."""
    async with fake_consul() as fake:
        fake.put("web", WEB)
        async with watching(settings_for(fake)) as one:
            await settled(one)
            asked = len(fake.requests)
            fake.change(by=-90)
            await until(lambda: _confirmed_listing(fake, asked), "the listing read consistently")
            fake.put("web", WEB, entry("web", "web-2", 8002, ROUTE))
            await one.until(lambda catalog: ids(catalog, "web") == ["web-1", "web-2"] and catalog.index < 100)


def _confirmed_listing(fake: FakeConsul, since: int) -> int:
    asked = fake.requests[since:]
    return sum(one.path == "/v1/catalog/services" and "consistent" in one.query for one in asked)


@pytest.mark.incident("T1")
async def test_what_a_server_says_under_a_lower_index_is_not_believed() -> None:
    """T1: a server that lags answers a standing question with what was; the leader is asked in its place."""
    async with fake_consul() as fake:
        fake.put("web", WEB)
        async with watching(settings_for(fake)) as one:
            await settled(one)
            old = json.dumps([entry("web", "web-0", 8000, ROUTE)])
            lagged = 0

            def lags(request: web.Request) -> web.Response | None:
                nonlocal lagged
                if request.path != "/v1/health/service/web" or "index" not in request.query:
                    return None
                lagged += 1
                return web.Response(text=old, headers={"X-Consul-Index": "50"})

            fake.fault = lags
            fake.change()
            await until(lambda: lagged >= 2, "the question asked again")
            assert await one.nothing_comes(0.5)


@pytest.mark.incident("T1")
async def test_an_answer_without_a_leader_is_not_believed() -> None:
    """T1: KnownLeader false freezes what was known, and says why."""
    async with fake_consul() as fake:
        fake.put("web", WEB)
        async with watching(settings_for(fake)) as one:
            await settled(one)
            fake.known_leader = False
            fake.put("web")
            assert await one.nothing_comes(0.7)
            assert "without a known leader" in (one.watch.problem or "")
            fake.put("web", WEB, entry("web", "web-2", 8002, ROUTE))
            fake.known_leader = True
            await one.until(lambda catalog: ids(catalog, "web") == ["web-1", "web-2"], within=3.0)


@pytest.mark.parametrize("status", [101, 204, 304])
async def test_a_gateway_that_answers_without_a_body_changes_nothing(status: int) -> None:
    """It is waited out like any other outage."""
    async with fake_consul() as fake:
        fake.put("web", WEB)
        async with watching(settings_for(fake, wait=1.0)) as one:
            await settled(one)
            fake.fault = lambda request: web.Response(status=status)
            assert await one.nothing_comes(1.5)
            assert f"answered {status}" in (one.watch.problem or "")
            fake.fault = lambda request: None
            fake.put("web", WEB, entry("web", "web-2", 8002, ROUTE))
            await one.until(lambda catalog: ids(catalog, "web") == ["web-1", "web-2"], within=3.0)


async def test_a_gateways_own_404_removes_no_override(capsys: pytest.CaptureFixture[str]) -> None:
    """Only Consul can say that there are none. The failure is logged once for each question."""
    async with fake_consul() as fake:
        fake.kv["proxygen/canary/web"] = "{}"
        fake.put("web", WEB)
        async with watching(settings_for(fake, wait=1.0)) as one:
            await settled(one)
            fake.fault = lambda request: web.Response(status=404, text="404 page not found")
            fake.change()
            assert await one.nothing_comes(2.0)
            assert one.watch.problem is not None
            fake.fault = lambda request: None
            del fake.kv["proxygen/canary/web"]
            fake.change()
            await one.until(lambda catalog: not catalog.overrides, within=3.0)
    said = [line for line in capsys.readouterr().out.splitlines() if "consul read failed" in line]
    assert len([line for line in said if "a 404 that is not Consul's own" in line]) == 1, said


async def test_an_answer_of_a_lagging_server_is_not_believed() -> None:
    """LastContact above the longest that is believed freezes what was known."""
    async with fake_consul() as fake:
        fake.put("web", WEB)
        async with watching(settings_for(fake)) as one:
            await settled(one)
            fake.last_contact_ms = 31_000
            fake.put("web")
            assert await one.nothing_comes(0.7)
            assert "31.0 s ago" in (one.watch.problem or "")


@pytest.mark.incident("T1")
@pytest.mark.parametrize("nothing", ["/v1/catalog/services", "/v1/health/service/web", "/v1/kv/proxygen/canary/"])
async def test_200_with_nothing_on_a_hiccup_empties_nothing(nothing: str) -> None:
    """T1: an empty answer is confirmed by a consistent read before it is believed."""
    async with fake_consul() as fake:
        fake.kv["proxygen/canary/web"] = "{}"
        fake.put("web", WEB)
        async with watching(settings_for(fake)) as one:
            await settled(one)

            def hiccup(request: web.Request) -> web.Response | None:
                empty: object = {} if nothing.endswith("services") else []
                return fake.reply(empty) if request.path == nothing and "consistent" not in request.query else None

            fake.fault = hiccup
            fake.change()
            assert await one.nothing_comes(1.0)


async def test_a_catalog_without_the_service_consul_is_not_believed() -> None:
    """A token that lost its rights sees an empty catalog, consistently; that is no empty catalog."""
    async with fake_consul() as fake:
        fake.put("web", WEB)
        async with watching(settings_for(fake)) as one:
            await settled(one)
            fake.services.clear()
            fake.change()
            assert await one.nothing_comes(1.0)
            assert "service_prefix" in (one.watch.problem or "")


@pytest.mark.incident("T4")
@pytest.mark.slow
async def test_one_question_keeps_knocking_and_wakes_the_others_that_rest() -> None:
    """T4: however long an outage lasts, its end is seen at once, and nobody sits out a pause of before."""
    async with fake_consul() as fake:
        fake.put("web", WEB)
        async with watching(settings_for(fake)) as one:
            await settled(one)

            def down(request: web.Request) -> web.Response:
                knocks = request.path == "/v1/catalog/services"
                return web.Response(status=500) if knocks else web.Response(status=429, headers={"Retry-After": "60"})

            fake.fault = down
            fake.requests.clear()
            fake.change()
            # Pauses that go on to double would take two minutes.
            await until(lambda: len(_asked(fake, "/v1/catalog/services")) >= 16, "sixteen tries", timeout=45)
            assert len(_asked(fake, "/v1/health/service/web")) == 1
            fake.put("web", WEB, entry("web", "web-2", 8002, ROUTE))
            fake.fault = lambda request: None
            await one.until(lambda catalog: ids(catalog, "web") == ["web-1", "web-2"], within=20.0)


def _asked(fake: FakeConsul, path: str) -> list[web.Request]:
    return [request for request in fake.requests if request.path == path]


@pytest.mark.incident("T12")
async def test_429_is_waited_out_as_long_as_it_says() -> None:
    """T12: no hot loop, and Retry-After is the least pause."""
    async with fake_consul() as fake:
        fake.put("web", WEB)
        async with watching(settings_for(fake)) as one:
            await settled(one)
            fake.fault = lambda request: web.Response(status=429, headers={"Retry-After": "2"})
            fake.requests.clear()
            fake.change()
            assert await one.nothing_comes(1.5)
            # The three standing questions ask once each; a retry comes after two seconds at the earliest.
            assert len(fake.requests) <= 3
            assert one.watch.freshness() > 1.0
            fake.fault = lambda request: None
            fake.put("web", WEB, entry("web", "web-2", 8002, ROUTE))
            await one.until(lambda catalog: ids(catalog, "web") == ["web-1", "web-2"], within=4.0)


async def test_429_at_the_start_is_waited_out_as_long_as_it_says() -> None:
    asked: list[float] = []

    def refuse_once(request: web.Request) -> web.Response | None:
        asked.append(asyncio.get_running_loop().time())
        return web.Response(status=429, headers={"Retry-After": "2"}) if len(asked) == 1 else None

    async with fake_consul() as fake:
        fake.put("web", WEB)
        fake.fault = refuse_once
        async with watching(settings_for(fake)) as one:
            await one.until(lambda catalog: ids(catalog, "web") == ["web-1"])
    assert asked[1] - asked[0] >= 2.0


@pytest.mark.incident("T12")
async def test_half_the_calls_failing_loses_nothing() -> None:
    """T12: every second answer is a 429; what is known stays and changes still arrive."""
    async with fake_consul() as fake:
        fake.put("web", WEB)
        count = 0

        def every_second(request: web.Request) -> web.Response | None:
            nonlocal count
            count += 1
            return web.Response(status=429) if count % 2 else None

        fake.fault = every_second
        async with watching(settings_for(fake)) as one:
            await settled(one)
            fake.put("web", entry("web", "web-1", 8001, ROUTE, status="critical"))
            await one.until(lambda catalog: health(catalog, "web") == [Health.CRITICAL], within=5.0)
            assert count < 60


async def test_a_vanished_service_is_observed_empty() -> None:
    """Gone is (), not missing: only what was observed may empty an upstream."""
    async with fake_consul() as fake:
        fake.put("web", WEB)
        async with watching(settings_for(fake)) as one:
            await settled(one)
            fake.put("web")
            await one.until(lambda catalog: catalog.services.get(ServiceName("web")) == ())


async def test_no_catalog_before_everything_was_observed() -> None:
    """One routed service that does not answer holds back the first catalog, and only the first."""
    async with fake_consul() as fake:
        fake.put("web", WEB)
        fake.put("slow", entry("slow", "slow-1", 8002, ROUTE))
        broken = "/v1/health/service/slow"
        fake.fault = lambda request: web.Response(status=500) if request.path == broken else None
        async with watching(settings_for(fake)) as one:
            assert await one.nothing_comes(0.7)
            fake.fault = lambda request: None
            await one.until(lambda catalog: set(catalog.services) == {"web", "slow"}, within=5.0)
            fake.fault = lambda request: web.Response(status=500) if request.path == broken else None
            fake.put("web", WEB, entry("web", "web-2", 8003, ROUTE))
            await one.until(lambda catalog: ids(catalog, "web") == ["web-1", "web-2"], within=2.0)
            assert ids(one.slot.peek() or pytest.fail("no catalog"), "slow") == ["slow-1"]


@pytest.mark.parametrize(("name", "tags"), [("slow", [ROUTE]), ("stranger", [])])
async def test_a_service_that_is_never_readable_holds_back_the_first_catalog_for_some_time_only(
    monkeypatch: pytest.MonkeyPatch, name: str, tags: list[str]
) -> None:
    """It is missing, which empties nothing, and named; once it can be read it comes."""
    monkeypatch.setattr("proxygen.consul.observation._PATIENCE", 1.5)
    async with fake_consul() as fake:
        fake.put("web", WEB)
        fake.put(name, entry(name, "other-1", 8002, *tags))
        broken = f"/v1/health/service/{name}"
        fake.fault = lambda request: web.Response(status=500, text="EOF") if request.path == broken else None
        async with watching(settings_for(fake)) as one:
            assert await one.nothing_comes(1.0)
            await one.until(lambda catalog: ids(catalog, "web") == ["web-1"] and name not in catalog.services)
            assert [f"service {name!r}" in warning for warning in one.watch.warnings] == [True]
            fake.fault = lambda request: None
            fake.put(name, entry(name, "other-1", 8002, ROUTE))
            await one.until(lambda catalog: ids(catalog, name) == ["other-1"], within=20.0)
            assert one.watch.warnings == ()


@pytest.mark.parametrize("tags", [[ROUTE], []])
async def test_a_service_that_cannot_be_read_keeps_what_an_earlier_run_knew(
    monkeypatch: pytest.MonkeyPatch, tags: list[str]
) -> None:
    """Nothing of it is taken out of nginx at a restart. What it said before tells that it is routed, also by Meta."""
    monkeypatch.setattr("proxygen.consul.observation._PATIENCE", 0.5)
    async with fake_consul() as fake:
        fake.put("web", WEB)
        fake.put("slow", entry("slow", "slow-1", 8002, *tags))
        broken = "/v1/health/service/slow"
        fake.fault = lambda request: web.Response(status=500, text="EOF") if request.path == broken else None
        before = [entry("slow", "slow-0", 8000, ROUTE)]
        instances = instances_of("slow", decode_entries(json.dumps(before).encode()))
        known = Catalog(datacenter="dc1", services={ServiceName("slow"): instances, ServiceName("gone"): instances})
        async with watching(settings_for(fake), known=known) as one:
            await one.until(lambda catalog: ids(catalog, "web") == ["web-1"] and ids(catalog, "slow") == ["slow-0"])
            assert "gone" not in (one.slot.peek() or pytest.fail("no catalog")).services
            assert ["last known instances stay" in warning for warning in one.watch.warnings] == [True]
            fake.fault = lambda request: None
            await one.until(lambda catalog: ids(catalog, "slow") != ["slow-0"], within=20.0)
            assert one.watch.warnings == ()
            # Without a route by now, it is seen so once, and then let go of.
            assert ids(one.slot.peek() or pytest.fail("no catalog"), "slow") == ["slow-1"]


async def test_while_all_of_consul_fails_no_service_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxygen.consul.observation._PATIENCE", 0.5)
    async with fake_consul() as fake:
        fake.put("web", WEB)
        fake.put("slow", entry("slow", "slow-1", 8002, ROUTE))
        begun = False

        def loses_its_leader(request: web.Request) -> web.Response | None:
            nonlocal begun
            begun = begun or request.path == "/v1/health/service/slow"
            return web.Response(status=500, text="No cluster leader") if begun else None

        fake.fault = loses_its_leader
        async with watching(settings_for(fake, wait=1.0)) as one:
            assert await one.nothing_comes(3.0)
            fake.fault = lambda request: None
            await one.until(lambda catalog: catalog.services.keys() == {"web", "slow"})


async def test_a_name_that_no_url_brings_back_harms_nobody() -> None:
    """T6: a service called with an empty part or a newline is left out, is warned of, and holds nothing back."""
    async with fake_consul() as fake:
        fake.put("web", WEB)
        fake.services["a//b"] = [entry("a//b", "x", 1, ROUTE)]
        fake.services["a\nb"] = [entry("a\nb", "y", 1, ROUTE)]
        async with watching(settings_for(fake)) as one:
            await one.until(lambda catalog: set(catalog.services) == {"web"})
            assert ["'a\\nb'" in one.watch.warnings[0], "'a//b'" in one.watch.warnings[1]] == [True, True]


async def test_a_service_whose_instances_are_hidden_holds_back_nobody_else() -> None:
    """Listed but never shown: the others are served, and the problem names the rule."""
    async with fake_consul() as fake:
        fake.put("web", WEB)
        fake.put("secret", entry("secret", "s-1", 8002, ROUTE))
        fake.fault = lambda request: fake.reply([]) if request.path == "/v1/health/service/secret" else None
        async with watching(settings_for(fake)) as one:
            await one.until(lambda catalog: set(catalog.services) == {"web"})
            assert "node_prefix" in (one.watch.problem or "")


@pytest.mark.parametrize("sockets", [4, 64])
async def test_both_ways_of_following_see_the_same(sockets: int) -> None:
    """Health, Meta without a change of any check, and a service without checks arrive within about a second."""
    async with fake_consul() as fake:
        for number in range(12):
            fake.put(f"s{number}", entry(f"s{number}", f"s{number}-1", 8000 + number, ROUTE))
        async with watching(settings_for(fake, max_connections=sockets)) as one:
            await one.until(lambda catalog: len(catalog.services) == 12)
            fake.put("s3", entry("s3", "s3-1", 8003, ROUTE, status="warning"))
            await one.until(lambda catalog: health(catalog, "s3") == [Health.WARNING], within=1.0)
            changed = entry("s7", "s7-1", 9999, ROUTE)
            fake.put("s7", changed)
            await one.until(lambda c: c.services[ServiceName("s7")][0].port == 9999, within=2.0)
            bare = entry("s8", "s8-2", 8108, ROUTE) | {"Checks": []}
            fake.put("s8", entry("s8", "s8-1", 8008, ROUTE), bare)
            await one.until(lambda c: ids(c, "s8") == ["s8-1", "s8-2"], within=2.0)
            await asyncio.sleep(0.2)
            assert one.client.statistics.sockets <= sockets


@pytest.mark.parametrize("sockets", [4, 64])
async def test_a_wiped_store_lowers_the_index_and_a_lagging_server_does_not(sockets: int) -> None:
    """T29: by its index a catalog that is empty because Consul lost everything is told from one that was emptied."""
    async with fake_consul() as fake:
        for number in range(12):
            fake.put(f"s{number}", entry(f"s{number}", f"s{number}-1", 8000 + number, ROUTE))
        async with watching(settings_for(fake, max_connections=sockets)) as one:
            await one.until(lambda catalog: len(catalog.services) == 12 and catalog.index == fake.index)
            whole = fake.index

            def lags(request: web.Request) -> web.Response | None:
                if request.path != "/v1/catalog/services" or "consistent" in request.query:
                    return None
                fake.fault = lambda request: None
                return web.Response(text="{}", headers={"X-Consul-Index": "50"})

            fake.fault = lags
            fake.put("s3", entry("s3", "s3-1", 9003, ROUTE))
            await one.until(lambda catalog: catalog.services[ServiceName("s3")][0].port == 9003)
            await one.until(lambda catalog: catalog.index >= whole)
            fake.services = {"consul": fake.services["consul"]}
            fake.change(by=-90)
            await one.until(lambda catalog: not any(catalog.services.values()))
            emptied = one.slot.peek() or pytest.fail("no catalog")
            assert 0 < emptied.index <= fake.index < whole


@pytest.mark.incident("T29")
@pytest.mark.parametrize("sockets", [4, 64])
async def test_a_store_that_is_restored_shows_no_loss_before_it_is_known(sockets: int) -> None:
    """T29: each service is read by itself. What a snapshot lacks may be missed before the listing is read, and what it
    has is as it was: the service's own index tells, and has the listing read first."""
    async with fake_consul() as fake:
        for number in range(12):
            fake.put(f"s{number}", entry(f"s{number}", f"s{number}-1", 8000 + number, ROUTE))
        snapshot, taken = dict(fake.services), fake.index
        fake.put("s3", *fake.services["s3"], entry("s3", "s3-2", 9003, ROUTE))
        async with watching(settings_for(fake, max_connections=sockets)) as one:
            await one.until(lambda catalog: len(catalog.services) == 12 and catalog.index == fake.index)

            def hides_the_listing(request: web.Request) -> web.Response | None:
                is_asked = request.path == "/v1/catalog/services" and "consistent" not in request.query
                return web.Response(status=500) if is_asked else None

            fake.fault = hides_the_listing
            fake.services = snapshot
            fake.change(by=taken - fake.index)
            await one.until(lambda catalog: ids(catalog, "s3") == ["s3-1"])
            shown = one.slot.peek() or pytest.fail("no catalog")
            assert shown.index == taken


@pytest.mark.incident("T29")
async def test_a_listing_that_waits_at_a_wiped_store_is_asked_for_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """T29: an agent carries a question over to new servers, which answer it only when they count as far as the old."""
    async with fake_consul() as fake:
        fake.put("web", WEB)
        async with watching(settings_for(fake)) as one:
            await settled(one)
            wait_for_move = fake._wait_for_move

            async def wait_for_index(request: web.Request, wait: float) -> None:
                await wait_for_move(request, wait)
                if request.path == "/v1/catalog/services" and int(request.query["index"]) > fake.index:
                    await asyncio.Event().wait()

            monkeypatch.setattr(fake, "_wait_for_move", wait_for_index)
            # From now on each question waits in this way.
            fake.put("web", WEB, entry("web", "web-2", 8002, ROUTE))
            await one.until(lambda catalog: ids(catalog, "web") == ["web-1", "web-2"])
            await one.nothing_comes(1.0)
            fake.services["new"] = [entry("new", "new-1", 8003, ROUTE)]
            fake.change(by=-80)
            await one.until(lambda catalog: ids(catalog, "new") == ["new-1"])


@pytest.mark.incident("T29")
async def test_a_wiped_store_is_confirmed_once_and_not_for_each_service() -> None:
    """T29: every service has a lower index then; more of them than sockets are read one after the other."""
    async with fake_consul() as fake:
        names = [f"s{number}" for number in range(12)]
        fake.index = 1000
        for name in names:
            fake.put(name, entry(name, f"{name}-1", 8000, ROUTE))
        async with watching(settings_for(fake, max_connections=4)) as one:
            await one.until(lambda catalog: len(catalog.services) == 12 and catalog.index == fake.index)
            asked = len(fake.requests)
            fake.index = 0
            for name in names:
                fake.put(name, entry(name, f"{name}-1", 9000, ROUTE))
            await one.until(lambda catalog: all(catalog.services[ServiceName(name)][0].port == 9000 for name in names))
            assert 1 <= _confirmed_listing(fake, asked) <= 3


class Swallower:
    """A way to Consul that can drop what runs over it without a word: no FIN, no answer. New connections pass."""

    def __init__(self, target: str) -> None:
        self._host, _, port = target.partition(":")
        self._port = int(port)
        self._drops: set[asyncio.Event] = set()

    def swallow(self) -> None:
        for one in self._drops:
            one.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection(self._host, self._port)
        drop = asyncio.Event()
        self._drops.add(drop)

        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                if not drop.is_set():
                    sink.write(data)
            if not drop.is_set():
                sink.close()

        try:
            await asyncio.gather(copy(reader, to_writer), copy(to_reader, writer))
        finally:
            writer.close()
            to_writer.close()


@pytest.mark.incident("T15")
@pytest.mark.slow
@pytest.mark.parametrize("sockets", [4, 64])
async def test_connections_that_are_dropped_without_a_word_are_replaced(
    sockets: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T15: every standing question is asked again within its wait, a sixteenth of it, and a margin."""
    monkeypatch.setattr("proxygen.consul.client._MARGIN", 1.0)
    async with fake_consul() as fake:
        for number in range(12):
            fake.put(f"s{number}", entry(f"s{number}", f"s{number}-1", 8000 + number, ROUTE))
        swallower = Swallower(fake.address)
        server = await asyncio.start_server(swallower.serve, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        settings = ConsulSettings(address=f"{host}:{port}", wait=1.0, max_connections=sockets)
        async with server, watching(settings) as one:
            await one.until(lambda catalog: len(catalog.services) == 12)
            await one.nothing_comes(0.3)
            swallower.swallow()
            fake.put("s3", entry("s3", "s3-1", 9003, ROUTE))
            fake.put("s4", entry("s4", "s4-1", 8004, ROUTE, status="critical"))
            await one.until(
                lambda c: c.services[ServiceName("s3")][0].port == 9003 and health(c, "s4") == [Health.CRITICAL],
                within=60.0,
            )
            await until(lambda: one.watch.problem is None, "no problem any more", timeout=60)
