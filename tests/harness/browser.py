"""A real Chromium, pages that must not complain, and how long after an event they show it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Error, Page, sync_playwright

from tests.harness.tools import missing

LARGE: Final = {"width": 1280, "height": 900}
PHONE: Final = {"width": 390, "height": 844}

_LINKS_CHANGED: Final = "net::ERR_NETWORK_CHANGED"
"""With which Chromium ends whatever it is loading when a link of the machine gets or loses an address, such as that of
a container which another test starts. It says nothing of the page."""

_QUIET: Final = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)

_TELL_OF_VIOLATIONS: Final = """
document.addEventListener("securitypolicyviolation", (event) => {
  console.error(`CSP: ${event.violatedDirective} refused ${event.blockedURI} from ${event.sourceFile}`);
});
"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless browser with an empty profile. Skip where there is none."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        missing("Chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(_QUIET))
        try:
            yield browser
        finally:
            browser.close()


class Tab:
    """A tab of one sidecar's page. Whatever the browser complains of is kept, for `assert_content`."""

    def __init__(self, browser: Browser, base: str, **context: Any) -> None:
        context.setdefault("viewport", LARGE)
        self.context: Final[BrowserContext] = browser.new_context(base_url=base, **context)
        self.base: Final = base
        self.complaints: Final[list[str]] = []
        self.requests: Final[list[str]] = []
        """The address of each request that the page made."""
        self.dialogs: Final[list[str]] = []
        """What the browser's own dialogs said: alert, confirm, prompt."""
        self._expected: Final[list[str]] = []
        self._cut_off = 0
        self.context.add_init_script(_TELL_OF_VIOLATIONS)
        self.page: Final[Page] = self.context.new_page()
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(f"page error: {error}"))
        self.page.on("requestfailed", self._failed)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("dialog", self._dismiss)

    def _hear(self, message: Any) -> None:
        if message.type in ("error", "warning") and _LINKS_CHANGED not in message.text:
            self.complaints.append(f"console {message.type}: {message.text}")

    def _failed(self, request: Any) -> None:
        # A page that is left aborts what it was reading; so does the page itself when it stops following the events.
        if request.failure == _LINKS_CHANGED:
            self._cut_off += 1
        elif request.failure != "net::ERR_ABORTED":
            self.complaints.append(f"request failed: {request.url} {request.failure}")

    def _dismiss(self, dialog: Any) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def expect(self, pattern: str) -> None:
        """Let the browser complain of this: of an answer 412 that the test provokes, for instance."""
        self._expected.append(pattern)

    def assert_content(self) -> None:
        """Fail when the browser had anything to complain of, or asked anybody but the sidecar."""
        unexpected = [
            text for text in self.complaints if not any(re.search(pattern, text) for pattern in self._expected)
        ]
        assert not unexpected, "\n".join(unexpected)
        foreign = [url for url in self.requests if not url.startswith((f"{self.base}/", "data:"))]
        assert not foreign, "\n".join(foreign)
        assert not self.dialogs

    def open(self, path: str = "/") -> Page:
        """Go there, and wait until the page follows the events."""
        for last in (False, False, True):
            before = self._cut_off
            try:
                with self.page.expect_response(lambda answer: answer.url.endswith("/api/v1/events")):
                    answer = self.page.goto(path)
            except Error:
                if last or self._cut_off == before:
                    raise
            else:
                assert answer is not None
                assert answer.ok, f"{path}: {answer.status} {answer.text()[:2000]}"
                break
        return self.page

    def findings(self, *, least: str = "serious") -> list[str]:
        """What axe finds that is at least so grave, one line each."""
        grave = ("minor", "moderate", "serious", "critical")
        found = Axe().run(self.page).response["violations"]
        return [
            f"{item['impact']} {item['id']}: {item['help']}: {[node['html'][:300] for node in item['nodes'][:3]]}"
            for item in found
            if grave.index(item["impact"]) >= grave.index(least)
        ]

    def close(self) -> None:
        self.context.close()


class Sighting:
    """When a condition first came true on the page, by the page's own clock.

    ``condition`` is an expression of JavaScript. The page must not be reloaded meanwhile, and that is checked.
    """

    def __init__(self, page: Page, condition: str) -> None:
        self._page: Final = page
        self._condition: Final = condition
        page.evaluate(
            f"""() => {{
              const met = () => {condition};
              if (met()) throw new Error("it is so already");
              window.sighting = new Promise((resolve) => {{
                const observer = new MutationObserver(() => {{
                  if (!met()) return;
                  observer.disconnect();
                  resolve(Date.now());
                }});
                observer.observe(document, {{subtree: true, childList: true, characterData: true, attributes: true}});
              }});
            }}"""
        )

    def wait(self, timeout: float = 30.0) -> float:
        """Return the moment, seconds since 1970."""
        # Playwright's own waiting compiles text, which the page's Content-Security-Policy forbids.
        seen: float = self._page.evaluate(
            """(patience) => Promise.race([
              window.sighting, new Promise((resolve) => setTimeout(resolve, patience, 0))
            ])""",
            timeout * 1000,
        )
        assert seen, f"not seen within {timeout:g} s: {self._condition}\n{self._page.inner_text('body')[:5000]}"
        return seen / 1000
