"""A browser and what it looks at: a real Consul, a real nginx, a real sidecar and instances that answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.browser.world import TOKENS, World
from tests.harness.beside import beside_nginx
from tests.harness.browser import Tab, chromium
from tests.harness.sidecar import Sidecar
from tests.integration.certificates import Authority


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep a module's tests in one process: they share a world."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.xdist_group(f"browser {item.path.stem}"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for a module, whose tests have contexts of their own. No longer: while it is open, Playwright has a loop that
    runs, and no test of asyncio could follow in the same process."""
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def world(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """All parts, with the service ``web``: two stable instances and a canary that gets 10 %."""
    directory = tmp_path_factory.mktemp("world")
    (directory / "tokens").write_text(TOKENS)
    (directory / "tokens").chmod(0o600)
    settings = {"admin.tokens_file": str(directory / "tokens"), "reload.gap": "0ms"}
    with ExitStack() as stack:
        parts = stack.enter_context(beside_nginx(directory, settings))
        world = World(parts.consul, parts.nginx, parts.sidecar, Authority())
        stack.callback(world.close)
        world.register_web()
        parts.sidecar.start()
        world.listen()
        yield world


@pytest.fixture
def tabs() -> Iterator[list[Tab]]:
    """The tabs of this test; at the end none may have complained."""
    tabs: list[Tab] = []
    yield tabs
    for tab in tabs:
        tab.close()
    for tab in tabs:
        tab.assert_content()


@pytest.fixture
def open_tab(browser: Browser, tabs: list[Tab]) -> Callable[..., Tab]:
    """Open tabs of a sidecar's page, with Playwright's options for a context."""

    def opened(sidecar: Sidecar, **context: object) -> Tab:
        tabs.append(Tab(browser, f"http://127.0.0.1:{sidecar.admin}", **context))
        return tabs[-1]

    return opened
