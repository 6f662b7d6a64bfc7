"""A thousand services on one page: it comes at once, the search is quick, and changes do not make it stutter.

Times on a busy machine only ever err upwards: of several attempts the best one tells what the page costs, and each is
divided by how much longer than alone the browser takes for the same work just then.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.world import World
from tests.harness.beside import beside_nginx
from tests.harness.browser import LARGE, Sighting, Tab
from tests.harness.outside import OutsideNode
from tests.integration.certificates import Authority

pytestmark = pytest.mark.slow

SERVICES = 1000
FIRST_VIEW_BAR = 1000
"""Milliseconds from the navigation to the first content."""
LONG_TASK_BAR = 200
"""Milliseconds that the page may be deaf to its reader while it takes in a change."""
SEARCH_BAR = 200
"""Milliseconds from a key until all rows are hidden or shown."""

LEAST_ATTEMPTS, MOST_ATTEMPTS = 3, 12
"""How often a time is taken: the least, and the most where it is over its bar till then."""
SHOWN = "document.querySelectorAll('[data-rows] > [data-name]:not([hidden])').length"

Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The real parts with a thousand services, each with a route of its own."""
    settings = {"reload.gap": "0ms", "log.level": "info"}
    with ExitStack() as stack:
        parts = stack.enter_context(beside_nginx(tmp_path_factory.mktemp("many"), settings))
        world = World(parts.consul, parts.nginx, parts.sidecar, Authority())
        stack.callback(world.close)
        port = world.app("many").port
        names = {f"service-{number:04}": port for number in range(SERVICES)}
        OutsideNode([parts.consul]).register_many(names, lambda name: [f"route={name}.example.com"])
        parts.sidecar.start(ready=False)
        parts.sidecar.wait_ready(60.0)
        yield world


def test_the_first_view_comes_within_a_second(
    many: World, browser: Browser, open_tab: Callable[..., Tab], record_property: Record
) -> None:
    """With an empty cache each time."""

    def attempt() -> float:
        page = open_tab(many.sidecar).open("/")
        view = first_view(page)
        slowed = slowdown(page)
        # It would go on to read itself again every few seconds, beside the next attempt.
        page.goto("about:blank")
        print(f"\nfirst view of {SERVICES} services: {view}, slowed {slowed:.1f} times", end="")
        return view["first contentful paint"] / slowed

    best = best_of(attempt, FIRST_VIEW_BAR)
    record_property("first contentful paint, ms", best)
    assert best < FIRST_VIEW_BAR


def best_of(attempt: Callable[[], float], bar: float) -> float:
    """Take the time until it is below the bar, a few times in any case."""
    best = float("inf")
    for number in range(1, MOST_ATTEMPTS + 1):
        best = min(best, attempt())
        if number >= LEAST_ATTEMPTS and best < bar:
            break
    return best


def slowdown(page: Page) -> float:
    """Return how many times longer than undisturbed the browser works now: the mean of many short pieces of the same
    work over the shortest of them, which nothing came between."""
    factor: float = page.evaluate(
        """() => {
          const took = [];
          for (let piece = 0; piece < 60; piece++) {
            const began = performance.now();
            let sum = 0;
            for (let step = 0; step < 2e6; step++) sum += step % 7;
            took.push(performance.now() - began);
          }
          return took.reduce((a, b) => a + b) / took.length / Math.min(...took);
        }"""
    )
    return factor


def first_view(page: Page) -> dict[str, int]:
    assert page.evaluate(SHOWN) == SERVICES
    found: dict[str, int] = page.evaluate(
        """async () => {
          const paint = await new Promise((resolve) => {
            new PerformanceObserver((list, observer) => {
              const entry = list.getEntriesByName("first-contentful-paint")[0];
              if (entry) { observer.disconnect(); resolve(entry.startTime); }
            }).observe({type: "paint", buffered: true});
          });
          const [navigation] = performance.getEntriesByType("navigation");
          return {
            "first contentful paint": Math.round(paint),
            "first byte": Math.round(navigation.responseStart),
            "last byte": Math.round(navigation.responseEnd),
            "interactive": Math.round(navigation.domInteractive),
            "KB": Math.round(navigation.encodedBodySize / 1024),
            "KB unpacked": Math.round(navigation.decodedBodySize / 1024),
          };
        }"""
    )
    return found


def test_the_search_is_quick(many: World, open_tab: Callable[..., Tab], record_property: Record) -> None:
    """Each key hides and shows rows at once; the server is asked when the typing ends."""
    page = open_tab(many.sidecar).open("/")
    times = [search(page, text) for text in ("s", "service-0", "service-01", "service-012", "")]
    slowed = slowdown(page)
    print(
        f"\nsearch among {SERVICES} services, ms by key: {[round(each) for each in times]}, slowed {slowed:.1f} times"
    )
    record_property("search, ms", round(max(times)))
    assert sorted(times)[len(times) // 2] / slowed < SEARCH_BAR
    page.fill("input[data-filter]", "service-0123")
    page.wait_for_url("**/?q=service-0123")
    page.locator("[data-rows] > [data-name]").nth(1).wait_for(state="detached")
    assert page.locator("[data-rows] > [data-name]").count() == 1
    page.fill("input[data-filter]", "0456.example")
    page.locator("[data-rows] > [data-name]", has_text="service-0456").wait_for()
    page.fill("input[data-filter]", "")
    page.locator("[data-rows] > [data-name]").nth(SERVICES - 1).wait_for(state="attached")


def search(page: Page, text: str) -> float:
    """Type, and return the milliseconds until the browser has laid out what is left."""
    took: float = page.evaluate(
        """(text) => {
          const input = document.querySelector("input[data-filter]");
          const began = performance.now();
          input.value = text;
          input.dispatchEvent(new Event("input", {bubbles: true}));
          document.querySelector("[data-rows]").getBoundingClientRect();
          return performance.now() - began;
        }""",
        text,
    )
    shown = sum(text in f"service-{number:04}" for number in range(SERVICES))
    assert page.evaluate(SHOWN) == shown
    return took


def test_changes_do_not_make_it_stutter(many: World, open_tab: Callable[..., Tab], record_property: Record) -> None:
    page = open_tab(many.sidecar).open("/")
    page.evaluate(
        """() => {
          window.tasks = [];
          new PerformanceObserver((list) => {
            for (const entry of list.getEntries()) window.tasks.push(entry.duration);
          }).observe({type: "longtask"});
        }"""
    )
    numbers = count()

    def attempt() -> float:
        name = f"another-{next(numbers)}"
        sighting = Sighting(page, f"document.querySelector('#services').textContent.includes('{name}')")
        changed = time.time()
        many.register(name, many.app(name), f"route={name}.example.com")
        late = sighting.wait() - changed
        # What is still to come of this change: the events that follow it, and the layout.
        page.wait_for_timeout(700)
        tasks = page.evaluate("window.tasks.splice(0)")
        slowed = slowdown(page)
        # That was a long task itself, and is told of a moment later.
        page.evaluate("new Promise((resolve) => setTimeout(resolve, 100)).then(() => window.tasks.splice(0))")
        print(f"\none of {SERVICES} more: seen after {late:.2f} s; slowed {slowed:.1f} times; over 50 ms: {tasks}")
        return float(max(tasks, default=0.0)) / slowed

    best = best_of(attempt, LONG_TASK_BAR)
    record_property("worst task of the best attempt, ms", round(best))
    assert best < LONG_TASK_BAR


def test_a_reader_at_the_end_of_the_list_stays_there(many: World, open_tab: Callable[..., Tab]) -> None:
    """Though a row comes in far above."""
    page = open_tab(many.sidecar).open("/")
    last = page.locator("[data-rows] > [data-name]").last
    last.scroll_into_view_if_needed()
    page.wait_for_timeout(500)
    name = "another-first"
    sighting = Sighting(page, f"document.querySelector('#services').textContent.includes('{name}')")
    many.register(name, many.app(name), f"route={name}.example.com")
    sighting.wait()
    page.wait_for_timeout(500)
    box = last.bounding_box()
    assert box is not None
    assert 0 <= box["y"] <= LARGE["height"], box


def test_where_no_token_is_set_the_page_says_that_nothing_may_be_changed(
    many: World, open_tab: Callable[..., Tab]
) -> None:
    tab = open_tab(many.sidecar)
    tab.expect("403")
    page = tab.open("/generations")
    page.locator("form[data-steer] button").first.click()
    page.locator("dialog.confirm").locator("button[value=ok]").click()
    page.locator("#token-dialog").wait_for(state="visible")
    page.keyboard.type("whatever it is")
    page.keyboard.press("Enter")
    expect(page.locator("#steer-answer")).to_contain_text("admin.token")
    assert many.sidecar.status()["hold"] is None
