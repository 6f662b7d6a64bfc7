"""Steering from end to end: over the API of a real sidecar into a real Consul, and by nginx to the instances."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxygen.consul.client import ConsulClient
from proxygen.kit.errors import ConflictingWrite, ConsulUnreachable
from proxygen.proxy.plan.types import Policy
from proxygen.proxy.rollout.steering import Steering
from proxygen.settings import ConsulSettings
from proxygen.tags.shares import Share
from tests.harness import process
from tests.harness.app import App
from tests.harness.beside import beside_nginx
from tests.harness.consul import ConsulAgent
from tests.harness.load import Load
from tests.harness.sidecar import Sidecar

HOST = "web.example.com"
KEY = "proxygen/canary/web"
SHARES = "/api/v1/services/web/shares"
ANNA, BOB = "annas-token-for-steering", "bobs-token-for-steering"


@dataclass(frozen=True, slots=True)
class World:
    """A stable instance, a canary that its tags give 10 %, and all that is between them and an operator."""

    consul: ConsulAgent
    sidecar: Sidecar
    tokens: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("steering")
    tokens = directory / "tokens"
    write_tokens(tokens, anna=ANNA, bob=BOB)
    settings = {"admin.tokens_file": str(tokens), "reload.gap": "0ms"}
    with App("stable-1") as stable, App("canary-1") as canary, beside_nginx(directory, settings) as parts:
        consul = parts.consul
        route = f"proxygen.route={HOST}"
        consul.register("web", id="stable-1", port=stable.port, tags=[route])
        consul.register("web", id="canary-1", port=canary.port, tags=[route, "proxygen.canary=10%"])
        consul.register("unrouted", port=stable.port, tags=["proxygen.canary=3%"])
        parts.sidecar.start()
        yield World(consul, parts.sidecar, tokens)


@pytest.fixture(autouse=True)
def tags_count(world: World) -> None:
    world.consul.kv_delete("proxygen/canary/", recurse=True)


def write_tokens(path: Path, **tokens: str) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text("".join(f"{name} {token}\n" for name, token in tokens.items()), encoding="utf-8")
    fresh.chmod(0o600)
    fresh.rename(path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    status: int
    etag: str | None
    body: Any

    def asked(self, variant: str = "canary") -> int:
        return next(int(item["asked"]) for item in self.body["variants"] if item["name"] == variant)


class Operator:
    """Somebody with a token."""

    def __init__(self, session: aiohttp.ClientSession, token: str) -> None:
        self._session = session
        self._token = token

    async def look(self, path: str = SHARES) -> Answer:
        return await self._ask("GET", path, {})

    async def act(self, method: str, path: str = "", *, seen: str | None, **body: object) -> Answer:
        headers = {"Authorization": f"Bearer {self._token}"}
        if seen is not None:
            headers["If-Match"] = seen
        return await self._ask(method, SHARES + path, headers, json=body or None)

    async def _ask(self, method: str, path: str, headers: dict[str, str], **more: Any) -> Answer:
        async with self._session.request(method, path, headers=headers, **more) as answer:
            return Answer(status=answer.status, etag=answer.headers.get("ETag"), body=await answer.json())


@pytest.fixture
async def session(world: World) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(f"http://127.0.0.1:{world.sidecar.admin}") as session:
        yield session


@pytest.fixture
def anna(session: aiohttp.ClientSession) -> Operator:
    return Operator(session, ANNA)


@pytest.fixture
def bob(session: aiohttp.ClientSession) -> Operator:
    return Operator(session, BOB)


async def measured(world: World, lowest: float, highest: float) -> float:
    """Return the canary's part of the requests, once it is between both."""
    share = -1.0
    for _ in range(60):
        tally = await Load("127.0.0.1", world.sidecar.http, headers={"Host": HOST}).send(1000)
        assert tally.failed == 0
        share = tally.share(lambda name: name == "canary-1")
        if lowest <= share <= highest:
            return share
        await asyncio.sleep(0.1)
    raise AssertionError(f"the canary gets {share:.3f}\n{world.sidecar.tail()}")


async def test_the_measured_split_follows_what_operators_do(world: World, anna: Operator, bob: Operator) -> None:
    """Five standard deviations of a thousand requests are 5 points at 10 % and 8 at 50 %."""
    await measured(world, 0.05, 0.15)
    seen = await anna.look()
    assert (seen.status, seen.etag, seen.asked()) == (200, '"0"', 1000)
    done = await anna.act("PUT", seen=seen.etag, shares={"canary": "50%"})
    assert (done.status, done.asked(), done.asked("stable")) == (200, 5000, 5000)
    await measured(world, 0.42, 0.58)
    done = await bob.act("POST", "/promote", seen=done.etag, variant="canary")
    assert await measured(world, 1, 1) == 1
    done = await bob.act("POST", "/abort", seen=done.etag)
    assert await measured(world, 0, 0) == 0
    done = await anna.act("DELETE", seen=done.etag)
    assert (done.status, done.etag, done.asked()) == (200, '"0"', 1000)
    await measured(world, 0.05, 0.15)


async def test_what_the_plan_makes_of_it_is_told_too(world: World, anna: Operator) -> None:
    done = await anna.act("PUT", seen='"0"', shares={"canary": "25%", "blue": "5%"})
    assert done.body["warnings"] == ["no instance belongs to the variant blue yet"]
    for _ in range(300):
        (canary,) = (item for item in (await anna.look()).body["variants"] if item["name"] == "canary")
        if canary["effective"] == 2500:
            break
        await asyncio.sleep(0.05)
    assert canary == {
        "name": "canary",
        "asked": 2500,
        "in_kv": 2500,
        "in_tags": 1000,
        "effective": 2500,
        "waiting": None,
    }


async def test_of_two_operators_at_once_exactly_one_wins(world: World, anna: Operator, bob: Operator) -> None:
    for round_ in range(20):
        seen = await anna.look()
        wanted = {1: f"{round_ + 1}%", 2: f"{round_ + 50}%"}
        answers = await asyncio.gather(
            anna.act("PUT", seen=seen.etag, shares={"canary": wanted[1]}),
            bob.act("PUT", seen=seen.etag, shares={"canary": wanted[2]}),
        )
        assert sorted(answer.status for answer in answers) == [200, 412]
        (won,) = (answer for answer in answers if answer.status == 200)
        after = await anna.look()
        assert (after.etag, after.asked()) == (won.etag, won.asked())
    told = [line for line in world.sidecar.events() if line["event"] == "write"][-40:]
    assert sorted(line["outcome"] for line in told) == ["changed"] * 20 + ["conflict"] * 20
    assert {line["who"] for line in told} == {"anna", "bob"}
    assert not [line for line in world.sidecar.events() if ANNA in str(line) or BOB in str(line)]


async def test_a_write_past_the_sidecar_is_not_overwritten_either(world: World, anna: Operator) -> None:
    """The command line and Consul's own write the same key."""
    seen = await anna.look()
    done = await asyncio.to_thread(world.sidecar.command, "canary", "set", "web", "7%")
    assert done.returncode == 0, done.stderr
    refused = await anna.act("POST", "/promote", seen=seen.etag)
    assert (refused.status, "canary 7%" in refused.body["error"]) == (412, True)
    assert refused.etag == (await anna.look()).etag
    assert (await anna.act("DELETE", seen=refused.etag)).status == 200


async def test_a_broken_key_is_told_and_replaced(world: World, anna: Operator) -> None:
    world.consul.kv_put(KEY, "12")
    seen = await anna.look()
    assert "not a JSON object" in seen.body["problem"]
    done = await anna.act("PUT", seen=seen.etag, shares={"canary": "12%"})
    assert (done.status, done.body["problem"], done.asked()) == (200, "", 1200)


async def test_a_service_without_a_route_has_shares_and_one_that_nobody_knows_has_none(anna: Operator) -> None:
    unrouted = await anna.look("/api/v1/services/unrouted/shares")
    assert (unrouted.status, unrouted.asked()) == (200, 300)
    assert [item["effective"] for item in unrouted.body["variants"]] == [None, None]
    for name in ("nobody", "a%2Fb", "%00", "x" * 600):
        assert (await anna.look(f"/api/v1/services/{name}/shares")).status == 404, name


async def test_who_did_what_is_an_event(world: World, anna: Operator, session: aiohttp.ClientSession) -> None:
    await anna.act("PUT", seen='"0"', shares={"canary": "33%"})
    async with session.get("/api/v1/events") as stream:
        async with asyncio.timeout(30):
            while not (line := await stream.content.readline()).startswith(b"data:") or b"33%" not in line:
                pass
    event = json.loads(line.removeprefix(b"data:"))
    assert (event["kind"], event["text"]) == ("steered", "anna moved the shares of web: canary 10% -> 33%")
    assert event["services"] == ["web"]


async def test_a_token_is_changed_without_a_restart(world: World, anna: Operator, bob: Operator) -> None:
    write_tokens(world.tokens, bob=BOB)
    try:
        assert (await anna.act("POST", "/abort", seen='"0"')).status == 401
        assert (await bob.act("POST", "/abort", seen='"0"')).status == 200
    finally:
        write_tokens(world.tokens, anna=ANNA, bob=BOB)
    seen = await anna.look()
    assert (await anna.act("DELETE", seen=seen.etag)).status == 200


async def test_a_consul_that_hangs_is_told_in_time_and_forgotten_when_it_answers(world: World, anna: Operator) -> None:
    os.kill(world.consul.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        looked, moved = await asyncio.gather(anna.look(), anna.act("PUT", seen='"0"', shares={"canary": "1%"}))
        seconds = time.monotonic() - began
    finally:
        os.kill(world.consul.pid, signal.SIGCONT)
    print(f"told after {seconds:.1f} s")
    assert seconds < 30
    for answer in (looked, moved):
        assert (answer.status, "Consul did not answer within 5 s" in answer.body["error"]) == (503, True)
    await asyncio.to_thread(
        process.wait_until, lambda: world.consul.get("/v1/status/leader"), what="Consul back", timeout=60
    )
    for _ in range(100):
        seen = await anna.look()
        if seen.status == 200:
            break
        await asyncio.sleep(0.2)
    assert (await anna.act("PUT", seen=seen.etag, shares={"canary": "2%"})).status == 200


async def test_a_lever_is_moved_over_exactly_what_was_read(consul: ConsulAgent) -> None:
    consul.register("web", port=80, tags=["proxygen.route=a.example.com", "proxygen.canary=5%"])
    async with ConsulClient(ConsulSettings(address=consul.address)) as client:
        steering = Steering(client, patience=30)
        read = await steering.read("web", Policy())
        first = await steering.move(read, {"canary": Share(100)})
        assert first.index == (await steering.read("web", Policy())).index
        for shares in ({"canary": Share(200)}, {"blue": Share(1)}):
            with pytest.raises(ConflictingWrite):
                await steering.move(read, shares)
        await asyncio.to_thread(consul.kv_put, KEY, '{"canary": "9%"}')
        for late in ({"canary": Share(200)}, None):
            with pytest.raises(ConflictingWrite):
                await steering.move(first, late)
        newest = await steering.read("web", Policy())
        assert newest.in_kv == {"canary": 900}
        assert await steering.move(newest, {"canary": Share(900)}) is newest
        gone = await steering.move(newest, None)
        assert (gone.index, gone.asked) == (0, {"canary": 500})
        assert await steering.move(gone, None) is gone


async def test_whoever_listens_and_says_nothing_is_not_waited_for() -> None:
    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, ConsulClient(ConsulSettings(address=f"127.0.0.1:{port}")) as client:
        with pytest.raises(ConsulUnreachable, match=r"within 0\.2 s"):
            await Steering(client, patience=0.2).read("web", Policy())
