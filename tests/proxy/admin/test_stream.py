"""The event stream: nothing is lost that is kept, and no client holds up another or the sidecar."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer

from proxygen.proxy.admin import stream
from proxygen.proxy.admin.access import anyone
from proxygen.proxy.admin.api import application
from proxygen.proxy.admin.stream import Streams
from proxygen.proxy.record.events import Kind
from tests.proxy.admin.sidecar import RememberingSidecar

Client = TestClient[web.Request, web.Application]


@pytest.fixture
def sidecar() -> RememberingSidecar:
    return RememberingSidecar()


@pytest.fixture
def streams(sidecar: RememberingSidecar) -> Streams:
    return Streams(sidecar.events)


@pytest.fixture
async def client(sidecar: RememberingSidecar, streams: Streams) -> AsyncIterator[Client]:
    client: Client = TestClient(TestServer(application(sidecar, streams, writers=anyone)))
    await client.start_server()
    yield client
    await client.close()


async def follow(client: Client, last: object = None) -> ClientResponse:
    headers = {} if last is None else {"Last-Event-ID": str(last)}
    return await client.get("/api/v1/events", headers=headers)


async def line(answer: ClientResponse) -> str:
    async with asyncio.timeout(10):
        return (await answer.content.readline()).decode().rstrip("\n")


async def next_event(answer: ClientResponse) -> dict[str, Any]:
    """Read on to the next event; its id, its name and its data must agree."""
    found: dict[str, str] = {}
    while text := await line(answer) or not found:
        if isinstance(text, str) and not text.startswith(":"):
            name, _, value = text.partition(": ")
            found[name] = value
    data: dict[str, Any] = json.loads(found["data"])
    assert (found["id"], found["event"]) == (str(data["id"]), data["kind"])
    return data


async def until_gone(streams: Streams) -> None:
    await until(lambda: not len(streams))


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it does not come true")


async def test_a_client_gets_what_is_kept_and_then_what_comes(client: Client, sidecar: RememberingSidecar) -> None:
    sidecar.events.append(Kind.APPLIED, "generation 1 is live", generation=1, services=["web"])
    answer = await follow(client)
    assert answer.content_type == "text/event-stream"
    first = await next_event(answer)
    assert (first["kind"], first["generation"], first["services"]) == ("applied", 1, ["web"])
    sidecar.events.append(Kind.ROLLED_BACK, "no proof")
    second = await next_event(answer)
    assert (second["kind"], second["text"], second["id"]) == ("rolled back", "no proof", first["id"] + 1)


async def test_a_client_that_comes_back_gets_the_rest(client: Client, sidecar: RememberingSidecar) -> None:
    events = [sidecar.events.append(Kind.APPLIED, str(number)) for number in range(3)]
    answer = await follow(client, events[0].id)
    assert [(await next_event(answer))["text"] for _ in range(2)] == ["1", "2"]


async def test_a_client_that_missed_something_is_told_so(client: Client, sidecar: RememberingSidecar) -> None:
    sidecar.events.append(Kind.APPLIED, "newest")
    answer = await follow(client, 1)
    assert [(await next_event(answer))["kind"] for _ in range(2)] == ["missed", "applied"]


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "²", "9" * 5000])
async def test_an_id_that_is_none_is_refused(client: Client, last: str) -> None:
    answer = await client.get("/api/v1/events", headers={"Last-Event-ID": last})
    assert answer.status == 400


async def test_hostile_text_stays_inside_its_event(client: Client, sidecar: RememberingSidecar) -> None:
    text = "a\n\nid: 1\nevent: applied\r\rdata: {}\u2028"
    sidecar.events.append(Kind.QUARANTINED, text, services=[text])
    data = await next_event(await follow(client))
    assert (data["text"], data["services"]) == (text, [text])


async def test_silence_is_filled_so_that_no_proxy_cuts_it(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "HEARTBEAT", 0.02)
    answer = await follow(client)
    assert [await line(answer) for _ in range(5)] == [": proxygen's events", "", ": still here", "", ": still here"]


async def test_the_stream_is_hardened_like_every_answer(client: Client) -> None:
    answer = await follow(client)
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


async def test_a_client_that_does_not_read_is_dropped_and_holds_up_nobody(
    client: Client, sidecar: RememberingSidecar, streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "PATIENCE", 0.2)
    slow = await follow(client)
    await line(slow)
    # More than sockets and both ends' buffers take; each event stays under the reader's limit for one line.
    text = "x" * 20_000
    for _ in range(2000):
        sidecar.events.append(Kind.REJECTED, text)
        await asyncio.sleep(0)
        if not len(streams):
            break
    await until_gone(streams)
    newest = sidecar.events.append(Kind.APPLIED, "newest")
    assert (await next_event(await follow(client, newest.id - 1)))["text"] == "newest"


async def test_of_a_client_that_does_not_read_the_socket_goes_too(
    client: Client, sidecar: RememberingSidecar, streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of an answer would be waited for as long as the client likes, and no bound counts such connections."""
    monkeypatch.setattr(stream, "PATIENCE", 0.2)
    assert client.port is not None
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port, limit=1024)
    try:
        writer.write(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await reader.readline()
        assert (len(streams), len(connections(client))) == (1, 1)
        for _ in range(400):
            sidecar.events.append(Kind.REJECTED, "x" * 20_000)
        await until_gone(streams)
        await until(lambda: not connections(client))
    finally:
        writer.close()


def connections(client: Client) -> list[Any]:
    """Those that the server holds."""
    assert isinstance(client.server, TestServer)
    assert client.server.runner is not None
    assert client.server.runner.server is not None
    return client.server.runner.server.connections


async def test_a_client_that_left_is_forgotten(
    client: Client, streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "HEARTBEAT", 0.02)
    answer = await follow(client)
    assert len(streams) == 1
    answer.close()
    await until_gone(streams)


async def test_streams_are_bounded(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MOST_STREAMS", 1)
    assert (await follow(client)).status == 200
    refused = await follow(client)
    assert refused.status == 503
    assert "follow the events already" in (await refused.json())["error"]


async def test_streams_do_not_put_off_the_end_of_the_sidecar(
    client: Client, sidecar: RememberingSidecar, streams: Streams
) -> None:
    """The server gives its handlers a minute by default; these end by themselves."""
    for _ in range(3):
        await line(await follow(client))
    async with asyncio.timeout(30):
        await client.server.close()
    assert not len(streams)
