"""What anybody writes into Consul is text on the page: nothing of it executes, asks anybody or breaks out."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect

from tests.browser.world import World
from tests.harness import process
from tests.harness.browser import Sighting, Tab
from tests.harness.outside import OutsideNode

pytestmark = pytest.mark.slow

SCRIPT = "<script>window.pwned=1</script>"
OPEN = "<script src=x onerror=window.pwned=1>window.pwned=1"
IMAGE = "\"><img src=x onerror='window.pwned=1'>"
ENTITY = "&lt;b&gt;&quot; onfocus=window.pwned=1 autofocus x=&quot;"
QUOTES = "' onmouseover='window.pwned=1' x=\" onmouseover=\"window.pwned=1\""
ADDRESS = "javascript:window.pwned=1"
TEMPLATE = "{{ 7*7 }}{% raw %}${window.pwned=1}<svg onload=window.pwned=1>"
QUERY = "..?x=#y&z=%2e%2e%2f;"
SECTION = "</section></template><section id=steering data-live><form data-steer data-action=x>"
BACKWARDS = "\u202egnp.exe\u2066"
LONG = "long-" + "x<" * 5000

NAMES = (OPEN, IMAGE, ENTITY, QUOTES, ADDRESS, TEMPLATE, QUERY, LONG)
"""Of services: without what no Consul takes in one, slashes and control characters."""
TEXTS = (*NAMES, SCRIPT, SECTION, BACKWARDS)
"""Of tags, instances and nodes."""

FOUND = """() => {
  const all = [...document.querySelectorAll("*")];
  return {
    pwned: window.pwned ?? null,
    scripts: [...document.scripts].map((one) => one.src).filter((src) => !src.startsWith(location.origin + "/static/")),
    inline: [...document.scripts].filter((script) => script.text).length,
    pictures: document.querySelectorAll("img, iframe, object, embed, video, audio, base, meta[http-equiv]").length,
    handlers: all.flatMap((one) => one.getAttributeNames()).filter((name) => name.startsWith("on")),
    styles: all.filter((one) => one.hasAttribute("style") && !one.closest(".chart")).length,
    addresses: all.flatMap((one) => [one.getAttribute("href"), one.getAttribute("src"), one.getAttribute("action")])
      .filter((one) => one && /^\\s*[a-z]+:/i.test(one) && !one.startsWith("data:"))
      .filter((one) => !one.startsWith(location.origin)),
  };
}"""
CLEAN = {"pwned": None, "scripts": [], "inline": 0, "pictures": 0, "handlers": [], "styles": 0, "addresses": []}


@pytest.fixture(scope="module")
def hostile(world: World) -> World:
    """Services, instances, nodes, tags, hosts and metadata with all of it."""
    port = world.app("hostile-1").port
    for number, name in enumerate(NAMES):
        OutsideNode([world.consul], f"node-{number}-{name[:60]}").register(name, port, f"route=h{number}.example.com")
    outside = OutsideNode([world.consul])
    for number, text in enumerate(TEXTS):
        outside.register(f"bad-{number}", port, f"route=t{number}.example.com", f"rate={text}")
        outside.register(f"host-{number}", port, f"route={text}")
        world.register("web", world.app(f"web-{number}"), "route=web.example.com", id=f"id-{number}-{text[:200]}")
    wanted = {*NAMES, *(f"{kind}-{number}" for kind in ("bad", "host") for number in range(len(TEXTS)))}
    process.wait_until(lambda: not wanted - known(world), what="all of them known", timeout=40)
    return world


def known(world: World) -> set[str]:
    status = world.sidecar.status()
    return {service["name"] for service in status["services"]} | {one["service"] for one in status["quarantined"]}


def assert_harmless(page: Page) -> None:
    page.wait_for_timeout(200)
    assert page.evaluate(FOUND) == CLEAN


def test_the_overview_and_its_updates(hostile: World, open_tab: Callable[..., Tab]) -> None:
    """Drawn by the server, and merged in afterwards."""
    page = open_tab(hostile.sidecar).open("/")
    assert_harmless(page)
    text = page.inner_text("body")
    for literal in (OPEN, IMAGE, ENTITY, QUOTES, ADDRESS, TEMPLATE, QUERY):
        assert literal in text, literal
    late = f"late-{OPEN}{IMAGE}"
    sighting = Sighting(page, "document.querySelector('#services').textContent.includes('late-<script')")
    OutsideNode([hostile.consul], late).register(late, hostile.apps[0].port, "route=late.example.com", f"rate={IMAGE}")
    sighting.wait()
    assert_harmless(page)


@pytest.mark.parametrize("number", range(len(NAMES) - 1))
def test_the_page_of_each(hostile: World, open_tab: Callable[..., Tab], number: int) -> None:
    name = NAMES[number]  # The last one is longer than any address may be.
    page = open_tab(hostile.sidecar).open(f"/services/{quote(name, safe='')}")
    assert_harmless(page)
    assert name in (page.text_content("h1") or "")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it pushes the page apart"


def test_the_pages_of_what_they_are_instances_and_tags_of(hostile: World, open_tab: Callable[..., Tab]) -> None:
    tab = open_tab(hostile.sidecar)
    for path in ("/services/web", "/services/bad-1", "/services/bad-9", "/services/host-8", "/generations"):
        page = tab.open(path)
        page.evaluate("for (const details of document.querySelectorAll('details')) details.open = true")
        page.wait_for_timeout(500)
        assert_harmless(page)


def test_links_lead_where_they_say(hostile: World, open_tab: Callable[..., Tab]) -> None:
    """A name full of dots, colons and question marks is one name."""
    page = open_tab(hostile.sidecar).open("/")
    for name in (OPEN, QUERY, ADDRESS):
        page.locator("[data-rows]").get_by_role("link", name=name, exact=True).click()
        expect(page.locator("h1")).to_contain_text(name)
        page.go_back()


def test_the_search_and_the_address_are_text(hostile: World, open_tab: Callable[..., Tab]) -> None:
    tab = open_tab(hostile.sidecar)
    page = tab.open(f"/?q={quote(IMAGE)}")
    assert_harmless(page)
    assert page.input_value("input[data-filter]") == IMAGE
    page.fill("input[data-filter]", SCRIPT)
    page.wait_for_url(f"**/?q={quote(SCRIPT, safe='').replace('%20', '+')}")
    assert_harmless(page)
    tab.expect("404")
    page.goto(f"/services/{quote(IMAGE + SCRIPT, safe='')}")
    assert_harmless(page)


def test_bidirectional_text_does_not_reorder_its_neighbours(hostile: World, open_tab: Callable[..., Tab]) -> None:
    """Without isolation an override in an instance's id would turn the words after it around."""
    page = open_tab(hostile.sidecar).open("/services/web")
    cell = page.locator("#instances td", has_text="gnp.exe").first
    assert cell.evaluate("(one) => getComputedStyle(one).unicodeBidi") in ("isolate", "plaintext")
