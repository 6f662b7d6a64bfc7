"""Everybody can read and use it: by axe's rules, by keyboard, in light and dark, on a phone, without JavaScript."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.world import HOST, World
from tests.harness import process
from tests.harness.browser import LARGE, PHONE, Tab

pytestmark = pytest.mark.slow

PAGES = ("/", "/services/web", "/services/broken", "/generations", "/services/nobody")
LOOKS = [
    pytest.param({"color_scheme": "light"}, id="light"),
    pytest.param({"color_scheme": "dark"}, id="dark"),
    pytest.param({"color_scheme": "light", "viewport": PHONE}, id="phone"),
    pytest.param({"color_scheme": "dark", "viewport": PHONE}, id="phone, dark"),
]


@pytest.fixture(scope="module")
def full(world: World) -> World:
    """With something of everything to see: problems, a hold, traffic, generations, events."""
    world.register("broken", world.app("broken-1"), "route=broken.example.com", "rate=often")
    world.register("pretender", world.app("pretender-1"), f"route={HOST}")
    world.register("ailing", world.app("ailing-1"), "route=ailing.example.com", status="critical")
    world.until_status(lambda status: status["quarantined"] and status["conflicts"], "problems")
    with world.load():
        process.wait_until(lambda: heard(world), what="traffic", timeout=20)
    world.write("POST", "/api/v1/rollback")
    world.until_status(lambda status: status["hold"], "the hold")
    return world


def heard(world: World) -> Any:
    return world.sidecar.request("/api/v1/services/web")[1]["variants"][0]["history"]


@pytest.mark.parametrize("look", LOOKS)
def test_axe_finds_nothing_serious(full: World, open_tab: Callable[..., Tab], look: dict[str, Any]) -> None:
    tab = open_tab(full.sidecar, **look)
    tab.expect("404")
    found = {}
    for path in PAGES:
        page = tab.page
        page.goto(path)
        page.evaluate("for (const details of document.querySelectorAll('details')) details.open = true")
        page.wait_for_timeout(300)
        found[path] = tab.findings()
    assert not any(found.values()), "\n".join(f"{path}: {line}" for path, lines in found.items() for line in lines)


@pytest.mark.parametrize("look", LOOKS[:2])
def test_axe_finds_nothing_serious_in_the_dialogs(
    full: World, open_tab: Callable[..., Tab], look: dict[str, Any]
) -> None:
    tab = open_tab(full.sidecar, **look)
    page = tab.open("/services/web")
    page.locator("#steering form.set button").click()
    expect(page.locator("#token-dialog")).to_be_visible()
    assert tab.findings() == []


@pytest.mark.parametrize("path", PAGES)
def test_a_phone_shows_it_without_scrolling_sideways(full: World, open_tab: Callable[..., Tab], path: str) -> None:
    tab = open_tab(full.sidecar, viewport=PHONE, device_scale_factor=2, has_touch=True)
    tab.expect("404")
    tab.page.goto(path)
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def focus(page: Page, selector: str, *, most: int = 60, backwards: bool = False) -> None:
    """Press the tab key until an element of the selector has the focus, and can be seen to have it."""
    for _ in range(most):
        if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
            outline = page.evaluate(
                """() => {
                  const style = getComputedStyle(document.activeElement);
                  return style.outlineStyle !== "none" || style.boxShadow !== "none";
                }"""
            )
            assert outline, f"{selector} does not show that it has the focus"
            return
        page.keyboard.press("Shift+Tab" if backwards else "Tab")
    raise AssertionError(f"{selector} is not reached by keyboard")


def test_all_of_it_by_keyboard(full: World, open_tab: Callable[..., Tab]) -> None:
    """Search, open a service, ask for a share, be asked for the token, think better of it."""
    page = open_tab(full.sidecar).open("/")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('href')") == "#main"
    focus(page, "input[data-filter]")
    page.keyboard.type("web")
    page.wait_for_url("**/?q=web")
    focus(page, "[data-rows] a[href='/services/web']")
    page.keyboard.press("Enter")
    page.wait_for_url("**/services/web")
    focus(page, "input[data-share=canary]")
    page.keyboard.press("Control+A")
    page.keyboard.type("33")
    page.keyboard.press("Enter")
    expect(page.locator("#token-dialog")).to_be_visible()
    assert page.evaluate("document.activeElement.id") == "token"
    for key in ("Tab",) * 6 + ("Shift+Tab",) * 6:
        page.keyboard.press(key)
        inside = "document.activeElement === document.body || document.activeElement.closest('#token-dialog') !== null"
        assert page.evaluate(inside), "the focus left the dialog"
    page.keyboard.press("Escape")
    expect(page.locator("#token-dialog")).to_be_hidden()
    assert page.evaluate("document.activeElement.closest('form[data-steer]') !== null")
    assert page.input_value("input[data-share=canary]") == "33"


def test_all_can_be_read_without_javascript(full: World, open_tab: Callable[..., Tab]) -> None:
    page = open_tab(full.sidecar, java_script_enabled=False, viewport=LARGE).page
    page.goto("/")
    page.fill("input[type=search]", "web")
    page.get_by_role("button", name="Search").click()
    expect(page.locator("[data-rows] > [data-name]", has_text="ailing")).to_have_count(0)
    page.locator("[data-rows]").get_by_role("link", name="web", exact=True).click()
    text = page.inner_text("main")
    for told in ("canary", full.apps[0].address, HOST, "proxygen canary set"):
        assert told in text, told
    page.goto("/generations")
    assert page.locator("#generations li").count() >= 2
