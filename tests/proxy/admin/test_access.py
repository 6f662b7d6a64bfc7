from __future__ import annotations

import getpass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog.testing
from pydantic import SecretStr

from proxygen.proxy.admin.access import anyone
from proxygen.proxy.admin.place import socket_path
from proxygen.proxy.admin.server import serving
from proxygen.settings import AdminSettings
from tests.proxy.admin.asking import AUTHORISED, TOKEN, asking
from tests.proxy.admin.sidecar import RememberingSidecar

ROLLBACK = "/api/v1/rollback"


@pytest.fixture
def sidecar() -> RememberingSidecar:
    return RememberingSidecar()


@pytest.mark.parametrize("site", ["cross-site", "same-site", "", "SAME-ORIGIN"])
async def test_a_page_of_another_site_cannot_write_even_with_the_token(sidecar: RememberingSidecar, site: str) -> None:
    async with asking(sidecar) as client:
        answer = await client.post(ROLLBACK, headers={**AUTHORISED, "Sec-Fetch-Site": site})
        assert (answer.status, (await answer.json())["error"]) == (403, "this write comes from a page of another site")
    assert sidecar.rollbacks == []


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1", "https://127.0.0.1:1"])
async def test_without_fetch_metadata_the_origin_must_be_the_host_that_was_asked(
    sidecar: RememberingSidecar, origin: str
) -> None:
    async with asking(sidecar) as client:
        assert (await client.post(ROLLBACK, headers={**AUTHORISED, "Origin": origin})).status == 403
        own = f"http://{client.host}:{client.port}"
        assert (await client.post(ROLLBACK, headers={**AUTHORISED, "Origin": own})).status == 200
    assert sidecar.rollbacks == [None]


async def test_a_browser_that_says_same_origin_is_believed_behind_a_proxy(sidecar: RememberingSidecar) -> None:
    """The proxy names us by address; only the browser knows what the page's address is."""
    headers = {**AUTHORISED, "Sec-Fetch-Site": "same-origin", "Origin": "https://admin.example.com"}
    async with asking(sidecar) as client:
        assert (await client.post(ROLLBACK, headers=headers)).status == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example", 403),
        ("evil.example:18081", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("not a host", 403),
        ("localhost:18081", 200),
        ("LOCALHOST", 200),
        ("admin.localhost", 200),
        ("127.0.0.1", 200),
        ("[::1]:18081", 200),
        ("10.0.0.7:18081", 200),
    ],
)
async def test_a_name_that_was_rebound_to_loopback_does_not_write(
    sidecar: RememberingSidecar, host: str, status: int
) -> None:
    """The browser takes such a page for ours, so its own word is not enough."""
    headers = {**AUTHORISED, "Host": host, "Sec-Fetch-Site": "same-origin"}
    async with asking(sidecar) as client:
        assert (await client.post(ROLLBACK, headers=headers)).status == status
    assert bool(sidecar.rollbacks) == (status == 200)


@pytest.mark.parametrize(
    "content_type", ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain", None]
)
async def test_what_a_form_can_send_is_no_body(sidecar: RememberingSidecar, content_type: str | None) -> None:
    headers = AUTHORISED if content_type is None else {**AUTHORISED, "Content-Type": content_type}
    async with asking(sidecar) as client:
        answer = await client.post(ROLLBACK, headers=headers, data=b'{"generation": 7}')
        assert (answer.status, (await answer.json())["error"]) == (415, "a body must be application/json")
        assert (await client.post(ROLLBACK, headers=AUTHORISED)).status == 200
    assert sidecar.rollbacks == [None]


async def test_wrong_tokens_are_bounded_and_never_lock_out_the_right_one(sidecar: RememberingSidecar) -> None:
    wrong = {"Authorization": f"Bearer {TOKEN[::-1]}"}
    with structlog.testing.capture_logs() as logged:
        async with asking(sidecar) as client:
            statuses = [(await client.post(ROLLBACK, headers=wrong)).status for _ in range(40)]
            last = await client.post(ROLLBACK, headers=wrong)
            right = (await client.post(ROLLBACK, headers=AUTHORISED)).status
    assert statuses[:10] == [401] * 10
    assert 429 in statuses
    assert set(statuses) == {401, 429}
    if last.status == 429:
        assert int(last.headers["Retry-After"]) > 0
    assert right == 200
    lines = [line for line in logged if line["event"] == "write refused"]
    assert len(lines) == (*statuses, last.status).count(401)
    assert TOKEN not in str(logged)
    assert TOKEN[::-1] not in str(logged)


async def test_another_sites_page_does_not_use_up_the_wrong_tokens(sidecar: RememberingSidecar) -> None:
    async with asking(sidecar) as client:
        for _ in range(40):
            await client.post(ROLLBACK, headers={"Sec-Fetch-Site": "cross-site"})
        assert (await client.post(ROLLBACK, headers={"Authorization": "Bearer x"})).status == 401


@pytest.mark.parametrize(
    ("refused", "said"),
    [
        ({"headers": {**AUTHORISED, "Sec-Fetch-Site": "cross-site"}}, "this write comes from a page of another site"),
        ({"headers": {**AUTHORISED, "Host": "evil.example"}}, "'evil.example' is no name of this host's loopback"),
        ({"headers": AUTHORISED, "data": {"generation": "7"}}, "a body must be application/json"),
    ],
)
async def test_what_is_turned_away_at_the_door_leaves_lines_but_does_not_fill_the_disk(
    sidecar: RememberingSidecar, refused: dict[str, Any], said: str
) -> None:
    with structlog.testing.capture_logs() as logged:
        async with asking(sidecar) as client:
            for _ in range(40):
                assert (await client.post(ROLLBACK, **refused)).status in (403, 415)
    lines = [line for line in logged if line["event"] == "write refused"]
    assert 10 <= len(lines) < 40
    assert (lines[0]["path"], lines[0]["remote"]) == (ROLLBACK, "127.0.0.1")
    assert lines[0]["reason"].startswith(said)
    assert TOKEN not in str(logged)


async def test_over_the_unix_socket_it_is_the_user_who_writes(
    sidecar: RememberingSidecar, short_directory: Path
) -> None:
    settings = AdminSettings(listen="off", token=SecretStr(TOKEN))
    connector = aiohttp.UnixConnector(str(socket_path(settings, short_directory)))
    with structlog.testing.capture_logs() as logged:
        async with (
            serving(sidecar, settings, short_directory),
            aiohttp.ClientSession("http://localhost", connector=connector) as session,
        ):
            assert (await session.post(ROLLBACK)).status == 200
    (line,) = (line for line in logged if line["event"] == "write")
    assert (line["who"], line["remote"]) == (f"{getpass.getuser()} (local)", "unix socket")


async def test_a_body_that_breaks_a_line_is_refused_like_any_other(sidecar: RememberingSidecar) -> None:
    async with asking(sidecar, anyone) as client:
        answer = await client.post(ROLLBACK, json={"gener\r\nation": 7})
        assert answer.status == 400
