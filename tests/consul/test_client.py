"""What the client sends, what it makes of failures, and what it never shows."""

from __future__ import annotations

import asyncio
import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import web
from pydantic import SecretStr

from proxygen.consul import client as client_module
from proxygen.consul.access import ConsulAccess
from proxygen.consul.address import parse_address
from proxygen.consul.answers import read_reply
from proxygen.consul.client import ConsulClient
from proxygen.consul.credentials import TokenSource
from proxygen.kit.errors import AccessDenied, CatalogUnavailable, ConsulUnreachable, SettingsError
from proxygen.settings import ConsulSettings
from tests.harness.fake_consul import FakeConsul, fake_consul

SECRET = "7f9c1d5e-secret"


@pytest.mark.parametrize(
    ("text", "ssl", "base"),
    [
        ("127.0.0.1:8500", False, "http://127.0.0.1:8500"),
        ("127.0.0.1:8501", True, "https://127.0.0.1:8501"),
        ("consul.example.com", False, "http://consul.example.com:8500"),
        ("http://127.0.0.1:8500", True, "http://127.0.0.1:8500"),
        ("https://consul.example.com", False, "https://consul.example.com:443"),
        ("https://gateway.example.com:8443/consul/", False, "https://gateway.example.com:8443/consul"),
        ("[::1]:8500", False, "http://[::1]:8500"),
    ],
)
def test_addresses_read_as_consuls_own_tools_read_them(text: str, ssl: bool, base: str) -> None:
    assert parse_address(text, ssl=ssl).base == base


def test_a_unix_socket_is_an_absolute_path() -> None:
    assert str(parse_address("unix:///run/consul.sock", ssl=False)) == "unix:///run/consul.sock"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ftp://127.0.0.1",
        "127.0.0.1:0",
        "127.0.0.1:99999",
        "http://",
        "unix://consul.sock",
        "http://a/?b",
        "http://[::1",
        "[::1",
    ],
)
def test_an_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=r"consul\.address"):
        parse_address(text, ssl=False)


def test_a_password_in_the_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(SettingsError) as refusal:
        parse_address(f"http://admin:{SECRET}@127.0.0.1:8500", ssl=False)
    assert SECRET not in str(refusal.value)


@pytest.mark.parametrize("case", [str.lower, str.upper, str.title])
def test_headers_compare_without_case(case: Callable[[str], str]) -> None:
    names = {
        "X-Consul-Index": "42",
        "X-Consul-KnownLeader": "false",
        "X-Consul-LastContact": "1500",
        "X-Consul-Results-Filtered-By-ACLs": "true",
    }
    reply = read_reply(200, {case(name): value for name, value in names.items()}, b"")
    assert (reply.index, reply.known_leader, reply.last_contact, reply.filtered_by_acls) == (42, False, 1.5, True)


@pytest.mark.parametrize("value", ["", "-1", "x", "1.5", "²"])
def test_an_index_that_is_no_number_is_none(value: str) -> None:
    assert read_reply(200, {"X-Consul-Index": value}, b"").index == 0


async def test_settings_reach_the_request() -> None:
    """Token, namespace, partition, datacenter, consistency, index and wait are sent; gzip is accepted."""
    async with fake_consul() as fake:
        settings = ConsulSettings(
            address=fake.address,
            token=SecretStr(SECRET),
            namespace="team",
            partition="blue",
            datacenter="dc9",
            auth=SecretStr("user:päss"),
            wait=0.2,
        )
        async with ConsulClient(settings) as client:
            await client.read("/v1/health/service/a b%c", index=99, consistency="any")
            await client.read("/v1/catalog/services", consistency="consistent")
        first, second = fake.requests
    assert first.path == "/v1/health/service/a b%c"
    assert first.headers["X-Consul-Token"] == SECRET
    assert "gzip" in first.headers["Accept-Encoding"]
    assert first.headers["Authorization"].startswith("Basic ")
    expected = {"ns": "team", "partition": "blue", "dc": "dc9", "stale": "", "index": "99", "wait": "200ms"}
    assert dict(first.query) == expected
    assert SECRET not in first.path_qs
    assert "consistent" in second.query
    assert "stale" not in second.query


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, AccessDenied),
        (403, AccessDenied),
        (429, ConsulUnreachable),
        (500, ConsulUnreachable),
        (503, ConsulUnreachable),
        (302, CatalogUnavailable),
        (400, CatalogUnavailable),
    ],
)
async def test_a_failure_is_raised_with_consuls_words_and_without_the_token(
    status: int, error: type[CatalogUnavailable]
) -> None:
    async with fake_consul() as fake:
        fake.fault = lambda request: web.Response(status=status, text=f"because {SECRET} \n said so")
        async with ConsulClient(ConsulSettings(address=fake.address, token=SecretStr(SECRET))) as client:
            with pytest.raises(error, match=rf"{status} because \(token\) said so") as refusal:
                await client.read("/v1/catalog/services")
            assert type(refusal.value) is error
            assert client.statistics.failures == 1
    assert SECRET not in str(refusal.value)


@pytest.mark.parametrize("status", [101, 204, 304])
async def test_an_answer_without_a_body_is_an_outage_and_no_content(status: int) -> None:
    """Consul never gives one; what stands between, such as a gateway, does."""
    async with fake_consul() as fake, ConsulClient(ConsulSettings(address=fake.address)) as client:
        fake.fault = lambda request: web.Response(status=status)
        with pytest.raises(ConsulUnreachable, match=f"answered {status}"):
            await client.read("/v1/catalog/services")
        assert client.statistics.failures == 1


async def test_retry_after_is_passed_on_within_reason() -> None:
    async with fake_consul() as fake, ConsulClient(ConsulSettings(address=fake.address)) as client:
        for value, seconds in (("7", 7.0), ("86400", 60.0), ("soon", None)):
            headers = {"Retry-After": value}
            fake.fault = lambda request, headers=headers: web.Response(status=429, headers=headers)  # type: ignore[misc]
            with pytest.raises(ConsulUnreachable) as refusal:
                await client.read("/v1/catalog/services")
            assert refusal.value.retry_after == seconds


async def test_never_more_sockets_than_allowed() -> None:
    """What exceeds the limit waits its turn, visibly."""
    async with fake_consul() as fake, ConsulClient(ConsulSettings(address=fake.address, max_connections=4)) as client:
        reads = [asyncio.create_task(client.read("/v1/catalog/services", index=fake.index)) for _ in range(10)]
        await asyncio.sleep(0.15)
        assert (client.statistics.sockets, client.statistics.waiting) == (4, 6)
        assert len(fake.requests) == 4
        fake.change()
        await asyncio.gather(*reads)
        assert (client.statistics.sockets, client.statistics.waiting) == (0, 0)


async def test_a_cancelled_read_gives_its_socket_back_and_is_no_failure() -> None:
    async with fake_consul() as fake, ConsulClient(ConsulSettings(address=fake.address)) as client:
        read = asyncio.create_task(client.read("/v1/catalog/services", index=fake.index))
        await asyncio.sleep(0.05)
        read.cancel()
        await asyncio.gather(read, return_exceptions=True)
        assert client.statistics.sockets == 0
        assert client.statistics.failures == 0


@pytest.mark.parametrize("cancelled_after", [5, 20])
async def test_a_task_cancelled_as_its_answer_is_overdue_ends(
    monkeypatch: pytest.MonkeyPatch, cancelled_after: float
) -> None:
    """The cancellation and the deadline come in the same turn of the loop, in either order."""
    async with fake_consul() as fake, ConsulClient(ConsulSettings(address=fake.address)) as client:
        fake.silent = True
        read = asyncio.create_task(client.http.exchange("GET", "/v1/catalog/services", deadline=10))
        while not fake.requests:  # noqa: ASYNC110 - the fake sends no event
            await asyncio.sleep(0.01)
        loop = asyncio.get_running_loop()
        loop.call_later(cancelled_after, read.cancel)
        clock = loop.time
        monkeypatch.setattr(loop, "time", lambda: clock() + 60)
        await asyncio.wait({read})
        assert read.cancelled()
        assert client.statistics.failures == 0


@pytest.mark.incident("T15")
@pytest.mark.slow
async def test_a_peer_that_never_answers_meets_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """T15: a socket that was dropped without a word is given up after wait, its sixteenth and a margin."""
    monkeypatch.setattr(client_module, "_MARGIN", 0.5)

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    async with server, ConsulClient(ConsulSettings(address=f"{host}:{port}", wait=0.2)) as client:
        with pytest.raises(ConsulUnreachable, match="nothing came within"):
            await client.read("/v1/catalog/services", index=7)


def test_a_token_file_wins_over_a_token_and_is_followed(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    source = TokenSource(ConsulAccess(token="setting", token_file=file))
    assert source.current() == "first"
    file.with_suffix(".new").write_text("second\n")
    os.replace(file.with_suffix(".new"), file)
    assert source.current() == "second"


def test_a_token_file_that_is_away_for_a_moment_keeps_the_token(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first")
    source = TokenSource(ConsulAccess(token_file=file))
    file.unlink()
    assert source.current() == "first"


@pytest.mark.parametrize("content", [None, "", "two\nlines", "ü", "\x00"])
def test_a_token_file_that_holds_no_token_is_refused_at_start(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SettingsError, match=r"consul\.token_file"):
        TokenSource(ConsulAccess(token_file=file))


def test_wrong_tls_files_and_basic_auth_are_settings_errors(tmp_path: Path) -> None:
    wrong = tmp_path / "x.pem"
    wrong.write_text("no certificate")
    for settings, name in (
        (ConsulSettings(address="https://a", ca_cert=wrong), r"consul\.ca_cert"),
        (ConsulSettings(address="https://a", ca_path=tmp_path), r"consul\.ca_path"),
        (ConsulSettings(address="https://a", client_cert=wrong), r"consul\.client_cert"),
        (ConsulSettings(auth=SecretStr("nocolon")), r"consul\.auth"),
        (ConsulSettings(token=SecretStr("two\nlines")), r"consul\.token"),
    ):
        with pytest.raises(SettingsError, match=name):
            ConsulClient(settings)


async def test_bytes_are_counted_as_they_come_over_the_wire_and_429s_by_themselves() -> None:
    """An answer that Consul compressed counts with its compressed length."""
    body = gzip.compress(b" " * 100_000 + b"{}")
    async with fake_consul() as fake, ConsulClient(ConsulSettings(address=fake.address)) as client:
        fake.fault = lambda request: web.Response(body=body, headers={"Content-Encoding": "gzip"})
        assert (await client.read("/v1/catalog/services")).body.strip() == b"{}"
        assert client.statistics.received == len(body)
        fake.fault = lambda request: web.Response(status=429, text="busy")
        with pytest.raises(ConsulUnreachable):
            await client.read("/v1/catalog/services")
        assert client.statistics.refused == 1
        assert client.statistics.received == len(body) + len("busy")


async def test_the_end_of_every_request_is_told() -> None:
    """A query that was to wait says nothing of Consul's speed, and one that we cancelled nothing at all."""
    async with fake_consul() as fake, ConsulClient(ConsulSettings(address=fake.address)) as client:
        ends: list[tuple[str, bool]] = []
        healthy = fake.fault
        client.subscribe(lambda end, seconds: ends.append((end, seconds is None)))
        await client.read("/v1/catalog/services")
        await client.read("/v1/catalog/services", index=fake.index - 1)
        for status in (403, 500):
            fake.fault = lambda request, status=status: web.Response(status=status)  # type: ignore[misc]
            with pytest.raises(CatalogUnavailable):
                await client.read("/v1/catalog/services")
        fake.fault = healthy
        read = asyncio.create_task(client.read("/v1/catalog/services", index=fake.index))
        await asyncio.sleep(0.05)
        read.cancel()
        await asyncio.gather(read, return_exceptions=True)
    assert ends == [("answered", False), ("answered", True), ("denied", False), ("failed", False)]


async def test_connections_are_kept_again_once_those_that_may_be_dead_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an answer that did not come, each request has a connection of its own for a while, and not for ever."""
    monkeypatch.setattr(client_module, "_IDLE", 0.5)
    path = "/v1/catalog/services"
    async with fake_consul() as fake, ConsulClient(ConsulSettings(address=fake.address)) as client:
        for _ in range(2):
            fake.silent = True
            with pytest.raises(ConsulUnreachable, match="nothing came within"):
                await client.http.exchange("GET", path, deadline=0.1)
            fake.silent = False
            assert await _connections(fake, client, path) == 2
            await asyncio.sleep(0.6)
            assert await _connections(fake, client, path) == 1


async def _connections(fake: FakeConsul, client: ConsulClient, path: str) -> int:
    """How many connections two requests in a row use."""
    sources = set()

    def note(request: web.Request) -> None:
        assert request.transport is not None
        sources.add(request.transport.get_extra_info("peername"))

    fake.fault = note
    for _ in range(2):
        await client.http.exchange("GET", path)
    return len(sources)
