"""What a generation changed: on a click in the time line, and on a page of its own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.browser.world import World
from tests.harness.browser import LARGE, PHONE, Sighting, Tab

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def changed(world: World) -> World:
    """With a second generation, which brought the service ``fresh``."""
    fresh = world.app("fresh-1")
    world.register("fresh", fresh, "route=fresh.example.com")
    world.until_served(fresh)
    return world


def test_a_click_shows_it_and_updates_leave_it_open(changed: World, open_tab: Callable[..., Tab]) -> None:
    page = open_tab(changed.sidecar).open("/generations")
    details = page.locator("#generation-2-diff")
    details.locator("summary").click()
    expect(details.locator("[data-fetched]")).to_contain_text("fresh.example.com")
    sighting = Sighting(page, "document.getElementById('generation-3') !== null")
    changed.register("fresher", changed.app("fresher-1"), "route=fresher.example.com")
    sighting.wait()
    page.wait_for_timeout(500)
    expect(details.locator("[data-fetched]")).to_contain_text("fresh.example.com")
    assert details.get_attribute("open") is not None


def test_the_keyboard_opens_it(changed: World, open_tab: Callable[..., Tab]) -> None:
    page = open_tab(changed.sidecar).open("/generations")
    summary = page.locator("#generation-2-diff > summary")
    for _ in range(60):
        page.keyboard.press("Tab")
        if summary.evaluate("(one) => one === document.activeElement"):
            break
    page.keyboard.press("Enter")
    expect(page.locator("#generation-2-diff [data-fetched]")).to_contain_text("fresh.example.com")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(changed: World, open_tab: Callable[..., Tab], scheme: str) -> None:
    for viewport in (LARGE, PHONE):
        tab = open_tab(changed.sidecar, color_scheme=scheme, viewport=viewport)
        page = tab.open("/generations")
        open_diff(page)
        assert tab.findings() == []
        tab.open("/generations/2")
        assert tab.findings() == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def open_diff(page: Page) -> None:
    page.locator("#generation-2-diff > summary").click()
    page.locator("#generation-2-diff [data-fetched] pre").first.wait_for()


def test_it_can_be_read_without_javascript(changed: World, open_tab: Callable[..., Tab]) -> None:
    page = open_tab(changed.sidecar, java_script_enabled=False).page
    page.goto("/generations/2")
    assert "fresh.example.com" in page.inner_text("main")
