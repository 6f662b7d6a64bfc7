"""What a standing question believes, by the kind of answer; and that no state outlives its incident."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

import pytest
from aiohttp import web

from proxygen.consul import poll
from proxygen.consul.answers import QueryBackend, Reply, read_reply, refuse_unled
from proxygen.consul.client import ConsulClient
from proxygen.consul.decode import decode_entries
from proxygen.consul.ledger import Ledger
from proxygen.consul.poll import Poll, Question
from proxygen.consul.reads import service_path
from proxygen.kit.errors import ConsulUnreachable
from proxygen.settings import ConsulSettings
from tests.consul.watching import ROUTE, ids, watching
from tests.harness.fake_consul import FakeConsul, entry, fake_consul
from tests.integration.waiting import until

CATALOG: Final = Question(source="catalog", path="/v1/catalog/services", pathfinder=True)
WEB: Final = entry("web", "web-1", 8001, ROUTE)
PATH: Final = service_path("web")


class Asking:
    """One standing question about a service, and the ports that it believed, in order."""

    def __init__(self, client: ConsulClient, ledger: Ledger) -> None:
        self.ledger = ledger
        self.ports: list[int] = []
        self.poll = Poll(client, ledger, Question(source="service web", path=PATH), self._heed)

    async def _heed(self, reply: Reply) -> None:
        self.ports += [one.service.port for one in decode_entries(reply.body)]


@asynccontextmanager
async def asking(fake: FakeConsul, *, wait: float = 60.0) -> AsyncIterator[Asking]:
    async with ConsulClient(ConsulSettings(address=fake.address, wait=wait)) as client:
        one = Asking(client, Ledger())
        task = asyncio.create_task(one.poll.run())
        try:
            yield one
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def standing(fake: FakeConsul) -> list[web.Request]:
    """The requests that wait for a change of the service."""
    return [one for one in fake.requests if one.path == PATH and "index" in one.query]


def asked_anew(fake: FakeConsul) -> int:
    return sum(one.path == PATH and "index" not in one.query for one in fake.requests)


def put(fake: FakeConsul, port: int) -> None:
    fake.put("web", entry("web", "web-1", port, ROUTE))


# --- what each kind of answer vouches for -----------------------------------------------------------------------------


@pytest.mark.incident("T31")
@pytest.mark.parametrize(
    ("said", "backend", "is_judged"),
    [
        (None, QueryBackend.UNTOLD, True),
        ("blocking-query", QueryBackend.SERVERS, True),
        ("streaming", QueryBackend.VIEW, False),
        ("Streaming", QueryBackend.VIEW, False),
        ("ticker-tape", QueryBackend.UNKNOWN, True),
    ],
)
def test_only_a_streamed_answer_is_not_judged_by_its_leader(
    said: str | None, backend: QueryBackend, is_judged: bool
) -> None:
    """T31: what a view says of leader and contact means nothing; all others are taken at their word."""
    headers = {"X-Consul-KnownLeader": "false"} | ({} if said is None else {"X-Consul-Query-Backend": said})
    reply = read_reply(200, headers, b"")
    assert reply.backend is backend
    assert reply.tells_contact is is_judged
    if is_judged:
        with pytest.raises(ConsulUnreachable, match="known leader"):
            refuse_unled(reply, address="")
    else:
        refuse_unled(reply, address="")


# --- streamed answers -------------------------------------------------------------------------------------------------


@pytest.mark.incident("T31")
async def test_streamed_answers_are_believed_and_no_question_is_asked_anew() -> None:
    """T31: each change arrives by the standing question itself, and nothing counts as failed."""
    async with fake_consul() as fake:
        fake.streams = True
        put(fake, 1)
        async with asking(fake) as one:
            for port in range(2, 5):
                await until(lambda port=port: len(standing(fake)) == port - 1, "the question waits")  # type: ignore[misc]
                put(fake, port)
                await until(lambda port=port: one.ports[-1:] == [port], "the change")  # type: ignore[misc]
            assert one.ports == [1, 2, 3, 4]
            assert asked_anew(fake) == 1
            assert one.ledger.problem is None
            assert all("near" not in request.query for request in standing(fake))


@pytest.mark.incident("T31")
async def test_a_view_below_the_first_read_is_no_failure_and_not_believed() -> None:
    """T31: what a view had before the leader's word is not newer; it costs one read anew, and nothing else."""
    async with fake_consul() as fake:
        fake.streams = True
        put(fake, 1)
        fake.lag()
        put(fake, 2)
        async with asking(fake, wait=0.2) as one:
            await until(lambda: asked_anew(fake) == 3, "asked anew when the wait was over")
            assert set(one.ports) == {2}
            assert one.ledger.problem is None
            # From then on the servers themselves are asked, which know.
            assert [("near" in request.query) for request in standing(fake)[:2]] == [False, True]


@pytest.mark.incident("T32")
async def test_an_empty_view_of_an_agent_that_is_cut_off_is_not_believed() -> None:
    """T32: 200 with nothing under index 1 is what a view answers that never had anything."""
    async with fake_consul() as fake:
        fake.streams = True
        fake.put("web", WEB)
        async with watching(ConsulSettings(address=fake.address, wait=0.3)) as one:
            await one.until(lambda catalog: ids(catalog, "web") == ["web-1"])
            fake.fault = _cut_off
            await until(lambda: "500" in (one.watch.problem or ""), "said")
            assert await one.nothing_comes(1.0)
            fake.fault = lambda request: None
            fake.put("web", WEB, entry("web", "web-2", 8002, ROUTE))
            await one.until(lambda catalog: ids(catalog, "web") == ["web-1", "web-2"], within=4.0)
            await until(lambda: one.watch.problem is None, "no problem any more")


def _cut_off(request: web.Request) -> web.Response:
    """As an agent of 1.14 whose servers are gone answers: streamed questions with nothing, all others with 500."""
    if request.path.startswith("/v1/health/service/") and "index" in request.query and "near" not in request.query:
        headers = {"X-Consul-Index": "1", "X-Consul-KnownLeader": "false", "X-Consul-Query-Backend": "streaming"}
        return web.Response(text="[]", headers=headers)
    return web.Response(status=500, text="No known Consul servers")


@pytest.mark.incident("T32")
async def test_a_waiting_question_is_asked_anew_once_the_servers_are_back() -> None:
    """T32: nobody else ends its wait, for a view that lost the servers does not hear what they know. The second time
    as the first."""
    async with fake_consul() as fake:
        fake.streams = True
        put(fake, 1)
        fake.lag()
        async with asking(fake) as one:
            for number, port in enumerate((2, 3), start=1):
                await until(lambda number=number: len(standing(fake)) == number, "the question waits")  # type: ignore[misc]
                put(fake, port)
                assert one.ports[-1] == port - 1
                one.ledger.recover()
                await until(lambda port=port: one.ports[-1] == port, "the change")  # type: ignore[misc]
                fake.lag()
            assert one.ledger.problem is None


@pytest.mark.incident("T32")
async def test_views_are_asked_again_once_they_must_have_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The servers bear the cost of our caution for a while, not for ever."""
    monkeypatch.setattr(poll, "_BLIND", 0.5)
    async with fake_consul() as fake:
        fake.streams = True
        put(fake, 1)
        async with asking(fake, wait=0.2) as one:
            for _ in range(2):
                await until(lambda: standing(fake), "the question waits")
                fake.requests.clear()
                fake.fault = lambda request: web.Response(status=500)
                await until(lambda: one.ledger.problem, "a failure")
                fake.fault = lambda request: None
                await until(lambda: any("near" in request.query for request in standing(fake)), "the servers asked")
                await until(lambda: standing(fake) and "near" not in standing(fake)[-1].query, "the view asked")


# --- indexes that go backwards ----------------------------------------------------------------------------------------


@pytest.mark.incident("T1")
@pytest.mark.parametrize("streams", [False, True])
async def test_a_store_that_began_anew_is_read_anew_by_all(streams: bool) -> None:
    """T1: the listing hears of it, and whoever waits for a view with it."""
    async with fake_consul() as fake:
        fake.streams = streams
        fake.put("web", WEB)
        async with watching(ConsulSettings(address=fake.address)) as one:
            await one.until(lambda catalog: ids(catalog, "web") == ["web-1"])
            await until(lambda: standing(fake), "the question waits")
            # A view that waits for what is above its index hears nothing of a lower one.
            fake.lag(views_alone=True)
            fake.services["web"] = [WEB, entry("web", "web-2", 8002, ROUTE)]
            fake.change(by=-90)
            await one.until(lambda catalog: ids(catalog, "web") == ["web-1", "web-2"], within=3.0)
            assert one.watch.problem is None


# --- what must be as before after an incident -------------------------------------------------------------------------


@pytest.mark.incident("T4")
async def test_the_one_that_knocks_tells_the_others_of_every_return() -> None:
    """T4: the second outage ends as soon for them as the first."""
    async with fake_consul() as fake, ConsulClient(ConsulSettings(address=fake.address)) as client:
        ledger, returns = Ledger(), 0

        async def heed(reply: Reply) -> None:
            """The content does not matter."""

        knocking = Poll(client, ledger, CATALOG, heed)
        task = asyncio.create_task(knocking.run())
        for _ in range(2):
            fake.fault = lambda request: web.Response(status=500)
            fake.change()
            await until(lambda: ledger.problem, "an outage")
            resting = asyncio.create_task(ledger.pause(3600))
            await asyncio.sleep(0)
            fake.fault = lambda request: None
            await asyncio.wait_for(resting, 5)
            returns += 1
            assert ledger.problem is None
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert returns == 2


@pytest.mark.incident("T32")
async def test_what_hangs_does_not_outlast_what_it_hangs_on() -> None:
    """T32: an agent that waits for its servers keeps a read hanging, and answers the next one at once when they are
    back. Both the one that knocks and those that rest on it ask again."""
    async with fake_consul() as fake, ConsulClient(ConsulSettings(address=fake.address)) as client:
        fake.put("web", WEB)
        fake.silent = True
        ledger, answers = Ledger(), 0

        async def heed(reply: Reply) -> None:
            nonlocal answers
            answers += 1

        knocking = Poll(client, ledger, CATALOG, heed)
        others = [Poll(client, ledger, Question(source=f"service {one}", path=PATH), heed) for one in "ab"]
        tasks = [asyncio.create_task(one.run()) for one in (knocking, *others)]
        # A read is given up after 15 s.
        await until(lambda: len(fake.requests) >= 5, "it knocks on", timeout=12)
        fake.silent = False
        # Who has not asked for long hears nothing of the return, unless it ends what hangs.
        knocking._down = True
        await until(lambda: answers >= 3, "all answered", timeout=5)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("streams", [False, True])
async def test_a_failure_is_told_each_time_and_healed_each_time(streams: bool) -> None:
    async with fake_consul() as fake:
        fake.streams = streams
        put(fake, 1)
        async with asking(fake) as one:
            for port in (2, 3):
                await until(lambda: standing(fake), "the question waits")
                fake.fault = lambda request: web.Response(status=500)
                put(fake, port)
                await until(lambda: one.ledger.problem, "told")
                fake.requests.clear()
                fake.fault = lambda request: None
                await until(lambda: one.ledger.problem is None, "healed")
                assert one.ports[-1] == port


# --- what no Consul answers -------------------------------------------------------------------------------------------


async def test_without_an_index_it_is_asked_again_and_again_and_nothing_is_emptied(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Said once for all questions; a change still arrives, and no loss of data is taken from it."""
    async with fake_consul() as fake:
        fake.put("web", WEB)
        async with watching(ConsulSettings(address=fake.address)) as one:
            await one.until(lambda catalog: ids(catalog, "web") == ["web-1"] and catalog.index > 0)
            fake.says_index = False
            fake.put("web", WEB, entry("web", "web-2", 8002, ROUTE))
            await one.until(lambda catalog: ids(catalog, "web") == ["web-1", "web-2"] and catalog.index > 0)
            fake.requests.clear()
            await asyncio.sleep(2)
            # Three questions, each twice a second in the long run, after a burst of five.
            assert len(fake.requests) < 3 * (5 + 2 * 3)
            assert one.watch.problem is None
            [warning] = one.watch.warnings
            assert "without X-Consul-Index" in warning
            fake.says_index = True
            await until(lambda: not one.watch.warnings, "nothing odd any more")
    assert capsys.readouterr().out.count("consul is odd") == 1


async def test_what_is_odd_here_is_not_over_with_a_question_about_another_datacenter() -> None:
    async with fake_consul() as fake, ConsulClient(ConsulSettings(address=fake.address)) as client:
        put(fake, 8001)
        fake.says_index = False
        here, there = Asking(client, Ledger()), Asking(client.at("dc2"), Ledger())
        tasks = [asyncio.create_task(one.poll.run()) for one in (here, there)]
        await until(lambda: here.ports and there.ports, "both answered")
        for task in reversed(tasks):
            assert PATH in client.oddities.warnings[0]
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        assert client.oddities.warnings == ()


@pytest.mark.parametrize("leads", [True, False])
async def test_an_unknown_backend_is_said_and_its_leader_taken_at_its_word(
    leads: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    async with fake_consul() as fake:
        fake.put("web", WEB)
        async with watching(ConsulSettings(address=fake.address)) as one:
            await one.until(lambda catalog: ids(catalog, "web") == ["web-1"])
            fake.backend, fake.known_leader = "ticker-tape", leads
            fake.put("web", entry("web", "web-2", 8002, ROUTE))
            if leads:
                await one.until(lambda catalog: ids(catalog, "web") == ["web-2"])
                [warning] = one.watch.warnings
                assert "'ticker-tape'" in warning
            else:
                assert await one.nothing_comes(0.7)
                assert "known leader" in (one.watch.problem or "")
    assert capsys.readouterr().out.count("consul is odd") == int(leads)


@pytest.mark.parametrize(
    ("version", "is_old"), [("1.7.14", True), ("0.9.3", True), ("1.8.0", False), ("1.22.1+ent", False), ("?", False)]
)
async def test_a_consul_older_than_the_oldest_is_said(version: str, is_old: bool) -> None:
    """By the Meta of the servers' own service; a version that cannot be read says nothing."""
    async with fake_consul() as fake:
        fake.services["consul"][0]["Service"]["Meta"] = {"version": version}
        fake.put("web", WEB)
        async with watching(ConsulSettings(address=fake.address)) as one:
            await one.until(lambda catalog: ids(catalog, "web") == ["web-1"])
            assert [version in warning for warning in one.watch.warnings] == [True] * is_old


# --- answers that lag -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sockets", [4, 64])
async def test_what_a_lagging_server_says_never_replaces_what_the_leader_said(sockets: int) -> None:
    """However the services are followed: each catalog is as new as the one before it."""
    async with fake_consul() as fake:
        for number in range(12):
            fake.put(f"s{number}", entry(f"s{number}", f"s{number}-1", 8000, ROUTE))
        settings = ConsulSettings(address=fake.address, max_connections=sockets, wait=0.5)
        async with watching(settings) as one:
            await one.until(lambda catalog: len(catalog.services) == 12)
            fake.lag()
            for port in (8001, 8002):
                fake.put("s3", entry("s3", "s3-1", port, ROUTE, status="warning" if port % 2 else "passing"))
            seen = _ports_seen(one.slot.peek, "s3")
            await asyncio.sleep(2)
            fake.catch_up()
            await one.until(lambda catalog: catalog.services["s3"][0].port == 8002)  # type: ignore[index]
            assert seen() == sorted(seen())


def _ports_seen(peek: Callable[[], object], name: str) -> Callable[[], list[int]]:
    """Look at the slot now and then, from a task that ends with the loop."""
    ports: list[int] = []

    async def look() -> None:
        while True:
            catalog = peek()
            ports.append(catalog.services[name][0].port)  # type: ignore[attr-defined]
            await asyncio.sleep(0.01)

    task = asyncio.create_task(look())

    def seen() -> list[int]:
        task.cancel()
        return ports

    return seen
