from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
import structlog.testing
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from pydantic import SecretStr
from yarl import URL

from proxygen.proxy.admin.access import Bearer, Writers, anyone
from proxygen.proxy.admin.api import ENDPOINTS, MAX_BODY, application
from proxygen.proxy.admin.endpoints import Operation
from proxygen.proxy.admin.stream import Streams
from proxygen.proxy.admin.tokens import Tokens
from proxygen.settings import AdminSettings
from tests.proxy.admin.sidecar import RememberingSidecar

TOKEN = "b1gs1cr3t"
Client = TestClient[web.Request, web.Application]
Connect = Callable[[Writers], Coroutine[Any, Any, Client]]


@pytest.fixture
def sidecar() -> RememberingSidecar:
    return RememberingSidecar()


@pytest.fixture
async def connect(sidecar: RememberingSidecar) -> AsyncIterator[Connect]:
    clients: list[Client] = []

    async def open_client(writers: Writers) -> Client:
        client: Client = TestClient(TestServer(application(sidecar, Streams(sidecar.events), writers=writers)))
        await client.start_server()
        clients.append(client)
        return client

    yield open_client
    for client in clients:
        await client.close()


async def test_ready_only_without_reasons_and_says_them(connect: Connect, sidecar: RememberingSidecar) -> None:
    client = await connect(anyone)
    answer = await client.get("/readyz")
    assert (answer.status, await answer.json()) == (200, {"ready": True, "reasons": []})
    sidecar.reasons = ("no generation is live yet", "Consul has not answered")
    answer = await client.get("/readyz")
    assert (answer.status, await answer.json()) == (503, {"ready": False, "reasons": list(sidecar.reasons)})
    sidecar.reasons, sidecar.notes = (), ("web is quarantined",)
    answer = await client.get("/readyz")
    assert (answer.status, (await answer.json())["notes"]) == (200, ["web is quarantined"])


async def test_health_is_of_the_process_alone(connect: Connect, sidecar: RememberingSidecar) -> None:
    sidecar.reasons = ("Consul has not answered",)
    answer = await (await connect(anyone)).get("/healthz")
    assert answer.status == 200


async def test_status_tells_shares_instances_and_what_is_left_out(connect: Connect) -> None:
    body = await (await (await connect(anyone)).get("/api/v1/status")).json()
    assert body["state"] == "ready"
    assert body["live"]["number"] == 42
    assert body["services"][0]["variants"][0]["asked"] == 1000
    assert body["services"][0]["variants"][0]["instances"][0]["state"] == "serving"
    assert body["quarantined"][0]["service"] == "evil\nname"
    assert body["hold"] is None


async def test_generations_are_listed(connect: Connect) -> None:
    body = await (await (await connect(anyone)).get("/api/v1/generations")).json()
    assert [generation["number"] for generation in body] == [42]


async def test_services_are_listed_and_told_one_by_one(connect: Connect) -> None:
    client = await connect(anyone)
    (web,) = await (await client.get("/api/v1/services")).json()
    assert (web["name"], web["instances"]) == ("web", {"serving": 2, "unhealthy": 2})
    assert [variant["serving"] for variant in web["variants"]] == [0, 2]
    assert (await (await client.get("/api/v1/services/web")).json())["kept"] == 1


async def test_a_services_name_may_hold_anything(connect: Connect) -> None:
    client = await connect(anyone)
    answer = await client.get(URL("/api/v1/services/a%2Fb%20c", encoded=True))
    assert (await answer.json())["name"] == "a/b c"
    answer = await client.get(URL("/api/v1/services/x%0D%0AX-Evil:%201", encoded=True))
    assert (answer.status, "X-Evil" in answer.headers) == (404, False)
    assert (await answer.json())["error"] == r"no service 'x\r\nX-Evil: 1' is routed"


async def test_metrics_come_in_the_format_that_the_scraper_asks_for(connect: Connect) -> None:
    client = await connect(anyone)
    answer = await client.get("/metrics")
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "proxygen_generation 42.0\n" in await answer.text()
    answer = await client.get("/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0,*/*;q=0.1"})
    assert answer.content_type == "application/openmetrics-text"
    assert (await answer.text()).endswith("# EOF\n")


@pytest.mark.parametrize("endpoint", [each for each in ENDPOINTS if each.writes], ids=lambda each: each.summary)
@pytest.mark.parametrize("token", [None, SecretStr("")])
async def test_without_a_token_in_the_settings_nobody_writes(
    connect: Connect, sidecar: RememberingSidecar, endpoint: Operation, token: SecretStr | None
) -> None:
    client, before = await connect(Bearer(Tokens(AdminSettings(token=token)))), dict(sidecar.levers)
    path = endpoint.path.replace("{name}", "web")
    with structlog.testing.capture_logs() as logged:
        for given in ("Bearer ", f"Bearer {TOKEN}", "Bearer None"):
            headers = {"Authorization": given, "If-Match": '"0"'}
            answer = await client.request(endpoint.method, path, headers=headers)
            assert answer.status == 403
            assert "admin.token" in (await answer.json())["error"]
    assert (sidecar.rollbacks, sidecar.levers) == ([], before)
    assert [line["path"] for line in logged if line["event"] == "write refused"] == [path] * 3


@pytest.mark.parametrize(
    "given", ["", "Bearer", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", TOKEN, "Bearer \xff\xfe"]
)
async def test_a_wrong_token_does_not_write(connect: Connect, sidecar: RememberingSidecar, given: str) -> None:
    client = await connect(Bearer(Tokens(AdminSettings(token=SecretStr(TOKEN)))))
    answer = await client.post("/api/v1/rollback", headers={"Authorization": given} if given else {})
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert TOKEN not in await answer.text()
    assert sidecar.rollbacks == []


async def test_the_right_token_writes(connect: Connect, sidecar: RememberingSidecar) -> None:
    client = await connect(Bearer(Tokens(AdminSettings(token=SecretStr(TOKEN)))))
    headers = {"Authorization": f"Bearer {TOKEN}"}
    answer = await client.post("/api/v1/rollback", headers=headers, json={"generation": 7})
    assert (answer.status, (await answer.json())["outcome"]) == (200, "applied")
    assert (await client.post("/api/v1/rollback", headers=headers)).status == 200
    assert sidecar.rollbacks == [7, None]


async def test_reading_needs_no_token(connect: Connect) -> None:
    client = await connect(Bearer(Tokens(AdminSettings(token=SecretStr(TOKEN)))))
    for path in ("/healthz", "/readyz", "/metrics", "/api/v1/status", "/api/v1/services", "/api/v1/generations"):
        assert (await client.get(path)).status == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/nowhere", None, 404),
        ("GET", "/api/v1/rollback", None, 405),
        ("DELETE", "/api/v1/status", None, 405),
        ("POST", "/api/v1/rollback", b"{", 400),
        ("POST", "/api/v1/rollback", b'{"generation": "seven"}', 400),
        ("POST", "/api/v1/rollback", b'{"generations": 7}', 400),
        ("POST", "/api/v1/rollback", b"\xff", 400),
        ("POST", "/api/v1/rollback", b'{"generation": 13}', 400),
        ("POST", "/api/v1/rollback", b" " * (MAX_BODY + 1), 413),
        ("POST", "/api/v1/rollback", b'{"generation": 99}', 500),
        ("POST", "/api/v1/release-hold", None, 409),
    ],
)
async def test_every_error_is_json_and_hardened(
    connect: Connect, method: str, path: str, body: bytes | None, status: int
) -> None:
    answer = await (await connect(anyone)).request(method, path, data=body)
    assert answer.status == status
    text = (await answer.json())["error"]
    assert text
    assert "secret detail" not in text
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


async def test_no_other_origin_is_let_in_and_nothing_is_cached(connect: Connect) -> None:
    client = await connect(anyone)
    answer = await client.get("/api/v1/status", headers={"Origin": "http://evil.test"})
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
