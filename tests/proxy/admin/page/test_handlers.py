"""The pages over a real socket, as a browser asks for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from proxygen.kit.errors import CatalogUnavailable, ConsulUnreachable
from proxygen.proxy.admin.page.assets import Assets
from proxygen.proxy.admin.page.handlers import CONTENT_SECURITY_POLICY
from proxygen.proxy.admin.service_report import ServiceDetail, ServiceSummary
from proxygen.proxy.record.events import Kind
from proxygen.proxy.rollout.steering import Lever
from tests.proxy.admin.asking import Client, asking
from tests.proxy.admin.page.reports import TROUBLED, WEB, summary
from tests.proxy.admin.sidecar import RememberingSidecar

PART = {"X-Proxygen-Part": "live"}


class Shown(RememberingSidecar):
    """A sidecar with something to show."""

    def __init__(self) -> None:
        super().__init__()
        self.report = TROUBLED
        self.consul_fails = self.is_slow = False

    def service(self, name: str) -> ServiceDetail | None:
        return replace(WEB, name=name) if name in ("web", "a/b c") else None

    async def read_lever(self, service: str) -> Lever:
        if self.consul_fails:
            raise ConsulUnreachable("no leader <now>")
        if self.is_slow:
            await asyncio.Event().wait()
        return await super().read_lever(service)


@pytest.fixture
def sidecar() -> Shown:
    return Shown()


@pytest.fixture
async def client(sidecar: Shown) -> AsyncIterator[Client]:
    async with asking(sidecar) as client:
        yield client


@pytest.mark.parametrize(
    "path", ["/", "/?q=web", "/services/web", "/services/a%2Fb%20c", "/generations", "/generations/42"]
)
async def test_a_page_is_html_with_its_own_security_policy(client: Client, path: str) -> None:
    answer = await client.get(path)
    assert (answer.status, answer.content_type, answer.charset) == (200, "text/html", "utf-8")
    assert answer.headers["Content-Security-Policy"] == CONTENT_SECURITY_POLICY
    assert answer.headers.getall("X-Content-Type-Options") == ["nosniff"]
    assert answer.headers["Cache-Control"] == "no-store"
    assert "Set-Cookie" not in answer.headers
    text = await answer.text()
    assert text.startswith("<!doctype html>")
    assert 'id="token-dialog"' in text


async def test_the_api_keeps_the_strictest_policy(client: Client) -> None:
    answer = await client.get("/api/v1/status")
    assert answer.headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"


@pytest.mark.parametrize("path", ["/", "/services/web", "/generations", "/generations/42"])
async def test_the_live_part_is_the_same_sections_without_the_frame(client: Client, path: str) -> None:
    whole = await (await client.get(path)).text()
    part = await (await client.get(path, headers=PART)).text()
    assert part.lstrip().startswith("<section")
    assert part.count("<section") == whole.count("<section") == part.count("data-live")
    assert "<html" not in part
    assert "<header" not in part


async def test_the_page_names_the_last_event_that_it_took_in(client: Client, sidecar: Shown) -> None:
    assert '<body data-event="">' in await (await client.get("/")).text()
    event = sidecar.events.append(Kind.APPLIED, "generation 43 is live")
    text = await (await client.get("/")).text()
    assert f'<body data-event="{event.id}">' in text
    assert "generation 43 is live" in text


async def test_the_search_works_on_the_server(client: Client, sidecar: Shown) -> None:
    sidecar.listed = (summary("web"), summary("shop"))
    text = await (await client.get("/", params={"q": "SHOP"})).text()
    assert 'data-name="shop ' in text
    assert 'data-name="web ' not in text
    assert 'value="SHOP"' in text
    text = await (await client.get("/", params={"q": "<nothing>" * 100})).text()
    assert "<nothing>" not in text


async def test_shares_can_be_changed_over_what_the_page_shows(client: Client, sidecar: Shown) -> None:
    text = await (await client.get("/services/web")).text()
    assert 'data-share="canary"' in text
    assert 'data-etag="&#34;0&#34;"' in text
    assert "proxygen canary set web" in text


async def test_a_page_is_shown_though_consul_does_not_answer(client: Client, sidecar: Shown) -> None:
    sidecar.consul_fails = True
    text = await (await client.get("/services/web")).text()
    assert "cannot be changed now: no leader &lt;now&gt;" in text
    assert "data-share" not in text
    sidecar.consul_fails, sidecar.is_slow = False, True
    text = await (await client.get("/services/web")).text()
    assert "Consul takes too long" in text


@pytest.mark.parametrize("path", ["/services/none", "/services/%3Cb%3E", "/services/a/b"])
async def test_a_service_that_is_not_there_has_a_page_that_says_so(client: Client, path: str) -> None:
    answer = await client.get(path)
    text = await answer.text()
    assert (answer.status, answer.content_type) == (404, "text/html")
    assert "Not here" in text
    assert "<b>" not in text


async def test_the_api_says_so_as_json(client: Client) -> None:
    answer = await client.get("/api/v1/services/none")
    assert (answer.status, answer.content_type) == (404, "application/json")


async def test_before_the_first_plan_no_service_is_said_to_be_gone(
    client: Client, sidecar: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither on its page nor in the API; its shares, which are Consul's, can be read all the same."""

    def unknown(name: str) -> ServiceDetail | None:
        raise CatalogUnavailable("no catalog has been planned since the start")

    monkeypatch.setattr(sidecar, "service", unknown)
    for path in ("/services/web", "/api/v1/services/web"):
        answer = await client.get(path)
        assert answer.status == 503
        assert "no catalog has been planned since the start" in await answer.text()
    assert (await client.get("/api/v1/services/web/shares")).status == 200
    assert (await client.get("/api/v1/services/none/shares")).status == 404


@pytest.mark.parametrize(("error", "status"), [(ConsulUnreachable("no leader"), 503), (RuntimeError("a secret"), 500)])
async def test_failures_are_pages_and_tell_no_secrets(
    client: Client, sidecar: Shown, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int
) -> None:
    def fail() -> tuple[ServiceSummary, ...]:
        raise error

    monkeypatch.setattr(sidecar, "services", fail)
    answer = await client.get("/")
    text = await answer.text()
    assert (answer.status, answer.content_type) == (status, "text/html")
    assert "secret" not in text


async def test_files_may_be_kept_for_ever_under_their_hash(client: Client) -> None:
    assets = Assets()
    for address in (*assets.styles, assets.script, assets.address("icon.svg")):
        answer = await client.get(address)
        assert answer.status == 200
        assert "immutable" in answer.headers["Cache-Control"]
        assert answer.headers.getall("X-Content-Type-Options") == ["nosniff"]
    other = await client.get("/static/another/page.css")
    assert (other.status, other.headers["Cache-Control"]) == (200, "no-cache")


@pytest.mark.parametrize(
    "path",
    [
        "../handlers.py",
        "..%2fhandlers.py",
        "%2e%2e/handlers.py",
        "vendor/../../handlers.py",
        "vendor/",
        "/etc/passwd",
        "x",
    ],
)
async def test_no_other_file_is_sent(client: Client, path: str) -> None:
    answer = await client.get(f"/static/x/{path}")
    assert answer.status == 404


async def test_every_file_that_a_page_names_is_there(client: Client) -> None:
    text = await (await client.get("/")).text()
    names = [piece.split('"')[0] for piece in text.split('="/static/')[1:]]
    assert len(names) >= 3
    for name in names:
        assert (await client.get(f"/static/{name}")).status == 200


async def test_a_browser_finds_the_icon(client: Client) -> None:
    answer = await client.get("/favicon.ico")
    assert (answer.status, answer.content_type) == (200, "image/svg+xml")


async def test_pages_are_compressed_for_those_who_can_read_it(client: Client) -> None:
    answer = await client.get("/", headers={"Accept-Encoding": "gzip"})
    assert answer.headers["Content-Encoding"] == "gzip"
    assert "<!doctype html>" in await answer.text()


@pytest.mark.parametrize("path", ["/", "/services/web", "/generations", "/static/x/page.css"])
async def test_a_page_takes_no_writes(client: Client, path: str) -> None:
    answer = await client.post(path, headers={"Authorization": "Bearer 0123456789abcdef"})
    assert answer.status == 405
