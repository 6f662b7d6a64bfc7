"""What happens is on the page within a second of the event, and the page is not loaded anew for it."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.browser.world import HOST, World, stamp
from tests.harness import process
from tests.harness.browser import Sighting, Tab
from tests.harness.ports import free_port

pytestmark = pytest.mark.slow

BAR = 1.0
"""Seconds from the event to its sight."""

Record = Callable[[str, object], None]


def shows(text: str, part: str = "#main") -> str:
    return f"document.querySelector({part!r}).textContent.includes({json.dumps(text)})"


@pytest.fixture
def seen_in_time(world: World, record_property: Record) -> Callable[..., None]:
    """Print how long after the event its sight came, and from the change; fail over the bar."""

    def check(sighting: Sighting, kind: str, service: str, *, changed: float) -> None:
        seen = sighting.wait()
        event = world.event(kind, service, after=changed)
        late, whole = seen - stamp(event), seen - changed
        print(f"\n{kind}: on the page {late * 1000:.0f} ms after the event, {whole * 1000:.0f} ms after the change")
        record_property(f"{kind} seen after ms", round(late * 1000))
        assert late < BAR

    return check


@pytest.fixture
def overview(world: World, open_tab: Callable[..., Tab]) -> Page:
    return open_tab(world.sidecar).open("/")


def test_a_new_instance(world: World, open_tab: Callable[..., Tab], seen_in_time: Callable[..., None]) -> None:
    page = open_tab(world.sidecar).open("/services/web")
    app = world.app("web-3")
    sighting = Sighting(page, shows(app.address, "#instances"))
    changed = time.time()
    world.register("web", app, f"route={HOST}")
    seen_in_time(sighting, "applied", "web", changed=changed)


def test_a_new_service(world: World, overview: Page, seen_in_time: Callable[..., None]) -> None:
    sighting = Sighting(overview, shows("newcomer", "#services"))
    changed = time.time()
    world.register("newcomer", world.app("newcomer-1"), "route=newcomer.example.com")
    seen_in_time(sighting, "applied", "newcomer", changed=changed)


def test_a_quarantine_with_its_reason_and_tag(world: World, overview: Page, seen_in_time: Callable[..., None]) -> None:
    sighting = Sighting(overview, shows("'often' is not a rate", "#problems"))
    changed = time.time()
    world.register("typo", world.app("typo-1"), "route=typo.example.com", "rate=often")
    seen_in_time(sighting, "quarantined", "typo", changed=changed)
    assert "typo" in overview.inner_text("#problems")


def test_a_conflict_with_who_has_the_route(world: World, overview: Page, seen_in_time: Callable[..., None]) -> None:
    sighting = Sighting(overview, shows("pretender", "#problems"))
    changed = time.time()
    world.register("pretender", world.app("pretender-1"), f"route={HOST}")
    seen_in_time(sighting, "conflict", "pretender", changed=changed)
    conflict = overview.locator("#problems .problem", has_text="pretender").first.inner_text()
    assert HOST in conflict
    assert "web" in conflict


def test_a_share_that_another_operator_changes(
    world: World, open_tab: Callable[..., Tab], seen_in_time: Callable[..., None]
) -> None:
    page = open_tab(world.sidecar).open("/services/web")
    sighting = Sighting(page, shows("37.5 %", "#variants"))
    changed = time.time()
    world.override("web", '{"canary": "37.5%"}')
    seen_in_time(sighting, "applied", "web", changed=changed)


def test_a_rollback_and_its_end(world: World, overview: Page, seen_in_time: Callable[..., None]) -> None:
    number = world.sidecar.generation()
    assert number is not None
    sighting = Sighting(overview, shows(f"went back to generation {number - 1}", "#problems"))
    changed = time.time()
    world.write("POST", "/api/v1/rollback", {"generation": None})
    seen_in_time(sighting, "held", "", changed=changed)
    changed = time.time()
    sighting = Sighting(overview, f"!({shows('went back to generation', '#problems')})")
    world.write("POST", "/api/v1/release-hold")
    seen_in_time(sighting, "hold ended", "", changed=changed)


def test_a_generation_that_nginx_does_not_take(
    world: World, overview: Page, open_tab: Callable[..., Tab], seen_in_time: Callable[..., None]
) -> None:
    """A port that another program holds: the whole generation is taken back, and then comes without its service."""
    port = free_port()
    rolled_back = Sighting(overview, shows("rolled back", "#events"))
    with socket.create_server(("0.0.0.0", port)):
        changed = time.time()
        squatter = world.register("squatter", world.app("squatter-1"), "protocol=tcp", f"listen={port}")
        seen_in_time(rolled_back, "rolled back", "", changed=changed)
        words = overview.locator("#events li", has_text="rolled back").first.inner_text()
        assert f"0.0.0.0:{port}" in words
        expect(overview.locator("#problems .problem", has_text="squatter")).to_contain_text("Quarantined")
        refused_and_why(open_tab(world.sidecar).open("/generations"), port)
        world.consul.deregister(squatter)
        world.event("quarantine ended", "squatter", after=changed)


def refused_and_why(page: Page, port: int) -> None:
    """On the time line the one that nginx did not take says why, and the one that stayed says nothing of it."""
    refused = page.locator(".moment", has=page.get_by_text("rolled back", exact=True)).first
    expect(refused).to_contain_text(f"0.0.0.0:{port}")
    expect(refused).to_contain_text("squatter: new")
    live = page.locator(".moment", has=page.get_by_text("live", exact=True))
    expect(live).to_have_count(1)
    expect(live).not_to_contain_text(f"0.0.0.0:{port}")


def test_the_time_line_grows(world: World, open_tab: Callable[..., Tab], seen_in_time: Callable[..., None]) -> None:
    page = open_tab(world.sidecar).open("/generations")
    # Not the live one's: one that was taken back has its place in the time line too.
    newest = world.sidecar.request("/api/v1/generations")[1][0]["number"]
    sighting = Sighting(page, f"document.getElementById('generation-{newest + 1}') !== null")
    changed = time.time()
    world.register("later", world.app("later-1"), "route=later.example.com")
    seen_in_time(sighting, "applied", "later", changed=changed)


def test_what_is_typed_open_and_focused_stays(world: World, open_tab: Callable[..., Tab]) -> None:
    """The page changes under the reader's hands without taking anything out of them."""
    page = open_tab(world.sidecar, viewport={"width": 1280, "height": 500}).open("/services/web")
    page.fill("input[data-share=canary]", "44")
    page.locator("#steering button").first.focus()
    page.evaluate("window.kept = document.activeElement")
    page.evaluate("scrollTo(0, 200)")
    app = world.app("web-late")
    sighting = Sighting(page, shows(app.address, "#instances"))
    world.register("web", app, f"route={HOST}")
    sighting.wait()
    assert page.input_value("input[data-share=canary]") == "44"
    assert page.evaluate("document.activeElement === window.kept")
    assert page.evaluate("scrollY") == 200


def test_a_lost_stream_is_said_and_its_return_too(world: World, open_tab: Callable[..., Tab]) -> None:
    tab = open_tab(world.sidecar)
    tab.expect(r"ERR_CONNECTION|ERR_INCOMPLETE|ERR_EMPTY|Failed to load resource")
    page = tab.open("/")
    assert page.locator("#not-live").is_hidden()
    world.sidecar.stop()
    page.locator("#not-live").wait_for(state="visible")
    assert "Not live since" in page.inner_text("#not-live")
    world.sidecar.start()
    world.listen()
    page.locator("#not-live").wait_for(state="hidden")
    process.wait_until(lambda: world.sidecar.request("/readyz")[0] == 200, what="ready again")


def test_a_library_that_cannot_be_loaded_is_asked_for_again(world: World, open_tab: Callable[..., Tab]) -> None:
    """A sidecar that ends while a page is still loading leaves a page that says so, and no script that failed."""
    tab = open_tab(world.sidecar)
    tab.expect(r"^request failed: \S+/vendor/|^console error: Failed to load resource")
    tab.page.route("**/vendor/*", lambda route: route.abort("connectionrefused"))
    page = tab.open("/services/web")
    page.locator("#not-live").wait_for(state="visible")
    assert "does not answer" in page.inner_text("#not-live")
    page.unroute("**/vendor/*")
    with world.load():
        page.locator("#not-live").wait_for(state="hidden")
        page.locator(".chart canvas").first.wait_for(state="visible")
