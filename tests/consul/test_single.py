"""Single requests to an agent: what it answers is told apart as everywhere, and no secret is repeated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

import proxygen.consul.single
from proxygen.consul.access import ConsulAccess
from proxygen.consul.single import SingleRequests
from proxygen.kit.errors import AccessDenied, CatalogUnavailable, ConsulUnreachable, SettingsError
from proxygen.settings import ConsulSettings, load
from proxygen.settings.load import CONSUL_VARIABLES
from tests.harness.fake_consul import fake_consul

SECRET = "5ec5ec5e-0000-4000-8000-c0ffeec0ffee"
PATH = "/v1/agent/services"

VALUES = {"CONSUL_HTTP_ADDR": "https://consul.example:8501", "CONSUL_HTTP_SSL": "true", "CONSUL_HTTP_SSL_VERIFY": "0"}


@asynccontextmanager
async def speaking(answer: bytes) -> AsyncIterator[str]:
    """A server that reads one request's head, writes the bytes and closes; yields its address."""

    async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer_once, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    async with server:
        yield f"{host}:{port}"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (302, CatalogUnavailable),
        (400, CatalogUnavailable),
        (401, AccessDenied),
        (403, AccessDenied),
        (429, ConsulUnreachable),
        (500, ConsulUnreachable),
        (503, ConsulUnreachable),
    ],
)
async def test_a_failure_is_raised_with_consuls_words_and_without_the_token(
    status: int, error: type[CatalogUnavailable]
) -> None:
    async with fake_consul() as fake:
        fake.fault = lambda request: web.Response(status=status, text=f"because {SECRET} \n said so")
        with pytest.raises(error, match=rf"{status} because \(token\) said so") as refusal:
            await SingleRequests(ConsulAccess(address=fake.address, token=SECRET)).exchange("GET", PATH)
    assert type(refusal.value) is error


async def test_a_request_carries_who_we_are_and_what_is_meant() -> None:
    access = ConsulAccess(token=SECRET, auth="me:secret", namespace="shop", partition="west")
    async with fake_consul() as fake:
        fake.fault = lambda request: web.Response(text="[1]")
        requests = SingleRequests(replace(access, address=f"http://{fake.address}/consul"))
        filtered = [("filter", 'ServiceID == "ä b"')]
        reply = await requests.exchange("PUT", "/v1/agent/service/register/a b", filtered, data=b"{}")
        (request,) = fake.requests
    assert (reply.status, reply.body) == (200, b"[1]")
    assert request.raw_path.startswith("/consul/v1/agent/service/register/a%20b?")
    assert dict(request.query) == {"filter": 'ServiceID == "ä b"', "ns": "shop", "partition": "west"}
    assert request.headers["X-Consul-Token"] == SECRET
    assert request.headers["Authorization"] == "Basic bWU6c2VjcmV0"
    assert request.headers["Host"] == fake.address


async def test_a_token_that_was_refused_is_read_again_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("old")
    async with fake_consul() as fake:
        fake.fault = lambda request: web.Response(
            status=200 if request.headers["X-Consul-Token"] == "new" else 403, text="{}"
        )
        requests = SingleRequests(ConsulAccess(address=fake.address, token_file=file))
        with pytest.raises(AccessDenied):
            await requests.exchange("GET", PATH)
        file.write_text("new")
        assert (await requests.exchange("GET", PATH)).status == 200


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"no HTTP at all\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n[",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1_000 + b"\r\n[]",
    ],
    ids=["nothing", "no HTTP", "cut", "cut chunk", "long header", "many headers"],
)
async def test_what_is_no_whole_answer_is_none(answer: bytes) -> None:
    async with speaking(answer) as address:
        with pytest.raises(ConsulUnreachable, match="does not answer"):
            await SingleRequests(ConsulAccess(address=address)).exchange("GET", PATH)


async def test_an_answer_in_chunks_is_one() -> None:
    chunks = b"2\r\n[1\r\n1\r\n]\r\n0\r\n\r\n"
    async with speaking(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks) as address:
        assert (await SingleRequests(ConsulAccess(address=address)).exchange("GET", PATH)).body == b"[1]"


async def test_an_answer_without_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxygen.consul.single, "_LONGEST_ANSWER", 1_000)
    async with speaking(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100_000) as address:
        with pytest.raises(ConsulUnreachable, match="longer than"):
            await SingleRequests(ConsulAccess(address=address)).exchange("GET", PATH)


async def test_an_agent_that_says_nothing_is_waited_for_so_long_and_no_longer() -> None:
    async with fake_consul() as fake:
        fake.silent = True
        with pytest.raises(ConsulUnreachable, match="nothing came within"):
            await SingleRequests(ConsulAccess(address=fake.address)).exchange("GET", PATH, deadline=0.2)


def test_access_is_what_the_settings_say_of_it() -> None:
    """Two readers of Consul's variables that cannot drift apart."""
    assert ConsulAccess.from_variables({}) == ConsulAccess.of(ConsulSettings())
    for variable in CONSUL_VARIABLES:
        environment = {variable: VALUES.get(variable, "a:b")}
        assert ConsulAccess.from_variables(environment) == ConsulAccess.of(load(environment=environment).consul)
        assert ConsulAccess.from_variables(environment) != ConsulAccess()


@pytest.mark.parametrize(
    "environment", [{"PROXYGEN_CONSUL_ADDRESS": "a:1"}, {"CONSUL_HTTP_SSL": "perhaps"}, {"CONSUL_HTTP_SSL": "Yes"}]
)
def test_what_needs_all_settings_is_left_to_them(environment: dict[str, str]) -> None:
    assert ConsulAccess.from_variables(environment) is None


def test_secrets_are_not_shown() -> None:
    shown = repr(ConsulAccess(token=SECRET, auth=f"me:{SECRET}"))
    assert SECRET not in shown


@pytest.mark.parametrize(
    "access",
    [
        ConsulAccess(auth="nocolon"),
        ConsulAccess(token="two\nlines"),
        ConsulAccess(address="me:secret@consul:8500"),
        ConsulAccess(address="https://a", ca_cert=Path("/nowhere")),
    ],
)
def test_what_cannot_be_used_is_refused_at_once(access: ConsulAccess) -> None:
    with pytest.raises(SettingsError, match=r"consul\."):
        SingleRequests(access)
