"""The pictures of the manual: taken anew by ``PROXYGEN_SCREENSHOTS=1 tests/run tests/browser/test_screenshots.py``."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.browser.world import World
from tests.harness import process
from tests.harness.app import App
from tests.harness.browser import PHONE, Tab
from tests.harness.load import Load

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not os.environ.get("PROXYGEN_SCREENSHOTS"), reason="only where PROXYGEN_SCREENSHOTS is set"),
]

IMAGES = Path(__file__).parents[2] / "docs" / "images"
MOST_BYTES = 200_000
SERVICES = ("accounts", "billing", "catalog", "checkout", "images", "mail", "search", "sessions", "stock")


@pytest.fixture(scope="module")
def shop(world: World) -> Iterator[World]:
    """A shop with a canary that is worse than what it is to follow, and two teams' mistakes."""
    for number, name in enumerate(SERVICES):
        for copy in range(1 + number % 3):
            world.register(name, world.app(f"{name}-{copy + 1}"), f"route=shop.example.com/{name}")
    canary = world.app("search-canary")
    world.register("search", canary, "route=shop.example.com/search", "canary=20%")
    world.register("reports", world.app("reports-1"), "route=reports.example.com", "rate=often")
    world.register("old-mail", world.app("old-mail-1"), "route=shop.example.com/mail")
    world.register("stock", world.app("stock-9"), "route=shop.example.com/stock", status="critical")
    world.until_status(lambda status: status["quarantined"] and status["conflicts"], "the mistakes")
    loads = [
        Load("127.0.0.1", world.sidecar.http, path=f"/{path}", headers={"Host": "shop.example.com"}, **options)
        for path, options in (
            ("search?q=lamp", {"clients": 3, "pause": 0.03}),
            ("checkout", {"clients": 1, "pause": 0.05}),
            ("images/1", {"clients": 2, "pause": 0.04}),
            ("accounts", {"clients": 1, "pause": 0.1}),
        )
    ]
    threads = [threading.Thread(target=send, args=(load,)) for load in loads]
    for thread in threads:
        thread.start()
    try:
        some_minutes(world, canary)
        yield world
    finally:
        for load in loads:
            load.stop()
        for thread in threads:
            thread.join(20)


def send(load: Load) -> None:
    asyncio.run(load.send(1_000_000))


def some_minutes(world: World, canary: App) -> None:
    """Two minutes in which the canary fails for a while and slows down."""
    for second in range(120):
        canary.status = 500 if 70 <= second < 100 and second % 4 == 0 else 200
        canary.delay = 0.02 + 0.03 * (second > 60)
        threading.Event().wait(1)
    process.wait_until(lambda: len(history(world)) > 20, what="two minutes of figures", timeout=60)


def history(world: World) -> list[float]:
    variants = world.sidecar.request("/api/v1/services/search")[1]["variants"]
    found = variants[0]["history"]
    return list(found["requests"]) if found else []


@pytest.mark.parametrize(
    ("name", "path", "look"),
    [
        ("overview-light", "/", {"color_scheme": "light"}),
        ("overview-dark", "/", {"color_scheme": "dark"}),
        ("overview-phone", "/", {"color_scheme": "light", "viewport": PHONE}),
        ("service", "/services/search", {"color_scheme": "light", "viewport": {"width": 1280, "height": 1500}}),
        ("generations", "/generations", {"color_scheme": "light"}),
    ],
)
def test_take(shop: World, open_tab: Callable[..., Tab], name: str, path: str, look: dict[str, Any]) -> None:
    page = open_tab(shop.sidecar, **look).open(path)
    if path == "/generations":
        open_a_diff(page)
    page.wait_for_timeout(1000)
    IMAGES.mkdir(exist_ok=True)
    picture = IMAGES / f"{name}.png"
    page.screenshot(path=picture)
    assert picture.stat().st_size < MOST_BYTES


def open_a_diff(page: Page) -> None:
    page.locator("details[data-src] > summary").nth(1).click()
    page.locator("details[data-src] [data-fetched]").first.wait_for()
