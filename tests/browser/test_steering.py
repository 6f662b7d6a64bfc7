"""What an operator does on the page: with a token, and never over somebody else's head."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.world import TOKEN, World, stamp
from tests.harness import process
from tests.harness.browser import Sighting, Tab

pytestmark = pytest.mark.slow

SHARE = "input[data-share=canary]"
ANSWER = "#steer-answer"


@pytest.fixture
def page(world: World, open_tab: Callable[..., Tab]) -> Page:
    """The page of ``web``, whose canary the operators gave 20 %."""
    give(world, "20%")
    return open_tab(world.sidecar).open("/services/web")


def give(world: World, share: str) -> None:
    world.override("web", f'{{"canary": "{share}"}}')
    wanted = round(float(share.rstrip("%")) * 100)

    def is_given() -> bool:
        found = canary(world)
        return found["asked"] == found["effective"] == wanted

    process.wait_until(is_given, what=f"the canary at {share}", timeout=30)


def canary(world: World) -> dict[str, Any]:
    detail = world.sidecar.request("/api/v1/services/web")[1]
    found: dict[str, Any] = next(variant for variant in detail["variants"] if variant["name"] == "canary")
    return found


def change(page: Page, share: str) -> None:
    page.fill(SHARE, share)
    page.locator("form[data-steer]", has=page.locator(SHARE)).locator("button").click()


def enter(page: Page, token: str) -> None:
    page.locator("#token-dialog").wait_for(state="visible")
    page.keyboard.type(token)
    page.keyboard.press("Enter")


def test_a_share_that_is_changed_on_the_page_is_followed_by_the_measured_one(world: World, page: Page) -> None:
    """From 20 % to 60 %: asked for, in effect within a second of the apply, and then measured under load."""
    with world.load() as load:
        process.wait_until(lambda: 1000 < measured(world) < 3000, what="20 % measured", timeout=60)
        sighting = Sighting(page, "document.querySelector('#variants').textContent.includes('60 %')")
        changed = time.time()
        change(page, "60")
        enter(page, TOKEN)
        seen = sighting.wait()
        steered = stamp(world.event("steered", after=changed))
        applied = stamp(world.event("applied", "web", after=steered))
        print(
            f"\nshare change: on the page {seen - steered:.2f} s after it was asked for, live {applied - steered:.2f} s"
        )
        assert seen - applied < 1.0
        expect(page.locator(ANSWER)).not_to_be_empty()
        process.wait_until(lambda: 5500 < measured(world) < 6500, what="60 % measured", timeout=90)
        bar = page.locator("#variants .card", has_text="canary").locator("dl.shares")
        expect(bar).to_contain_text(re.compile(r"measured\s*(5[5-9]|6[0-5])(\.\d+)? %"), timeout=15_000)
    assert load.tally.failed == 0


def measured(world: World) -> int:
    traffic = canary(world)["traffic"]
    return int(traffic["share"] or 0) if traffic else 0


def test_the_audit_names_the_operator(world: World, page: Page) -> None:
    changed = time.time()
    change(page, "21")
    enter(page, TOKEN)
    expect(page.locator("#steering .notice[data-answer]")).to_have_text("The shares are set.")
    event = world.event("steered", after=changed)
    assert "ann" in event["text"]
    expect(page.locator("#events")).to_contain_text("ann")
    # Else the next test could take what was so before for what it gives.
    process.wait_until(lambda: canary(world)["asked"] == 2100, what="the change", timeout=30)


def test_a_wrong_token_is_refused_and_asked_for_again(world: World, page: Page, tabs: list[Tab]) -> None:
    tabs[0].expect("401")
    change(page, "50")
    enter(page, "a-token-that-is-wrong")
    expect(page.locator(ANSWER)).to_contain_text("token")
    expect(page.locator("#token-dialog [data-problem]")).to_contain_text("token")
    assert page.locator("#token-dialog").is_visible()
    assert canary(world)["asked"] == 2000
    page.keyboard.press("Escape")
    expect(page.locator("#token-dialog")).to_be_hidden()
    assert page.evaluate("Object.keys(sessionStorage).length") == 0


def test_a_lost_race_is_told_with_what_is_so_now(world: World, page: Page, tabs: list[Tab]) -> None:
    """Two operators looked at 20 %; the second one's change is not made, and he sees the first one's."""
    tabs[0].expect("412")
    change(page, "50")
    # Meanwhile, while the token is typed.
    give(world, "30%")
    enter(page, TOKEN)
    expect(page.locator(ANSWER)).to_contain_text("412")
    expect(page.locator(ANSWER)).to_contain_text("canary was 20 and is 30")
    assert canary(world)["asked"] == 3000
    assert page.input_value(SHARE) == "50"
    change(page, "50")
    process.wait_until(lambda: canary(world)["asked"] == 5000, what="the second attempt", timeout=30)


@pytest.mark.incident("T62")
def test_what_was_typed_before_somebody_elses_change_overwrites_it_not(
    world: World, page: Page, tabs: list[Tab]
) -> None:
    """The page shows the new share by itself, beside what is typed; that was meant for the old one."""
    tabs[0].expect("412")
    page.fill(SHARE, "50")
    give(world, "30%")
    expect(page.locator("#steering")).to_contain_text("30 % by operators")
    assert page.input_value(SHARE) == "50"
    page.locator("form[data-steer]", has=page.locator(SHARE)).locator("button").click()
    enter(page, TOKEN)
    expect(page.locator(ANSWER)).to_contain_text("canary 30%")
    assert canary(world)["asked"] == 3000
    change(page, "50")
    process.wait_until(lambda: canary(world)["asked"] == 5000, what="the second attempt", timeout=30)


def test_the_next_change_builds_on_ones_own_though_the_page_lags_behind(world: World, page: Page) -> None:
    """What it reads in between was drawn before the sidecar saw the first one."""
    former = page.evaluate("fetch(location.pathname, {headers: {'X-Proxygen-Part': 'live'}}).then((one) => one.text())")
    page.route("**/services/web", lambda route: route.fulfill(body=former, content_type="text/html"))
    change(page, "41")
    enter(page, TOKEN)
    for share, then in ((4100, "42"), (4200, "43")):
        process.wait_until(lambda share=share: canary(world)["asked"] == share, what=f"{share}", timeout=30)  # type: ignore[misc]
        expect(page.locator(ANSWER)).to_contain_text("set")
        change(page, then)
    process.wait_until(lambda: canary(world)["asked"] == 4300, what="the third change", timeout=30)


def test_promote_and_abort(world: World, page: Page) -> None:
    page.get_by_role("button", name=re.compile("promote", re.I)).click()
    confirm(page)
    enter(page, TOKEN)
    process.wait_until(lambda: canary(world)["asked"] == 10_000, what="promoted", timeout=30)
    page.get_by_role("button", name=re.compile("abort", re.I)).click()
    confirm(page)
    process.wait_until(lambda: canary(world)["asked"] == 0, what="aborted", timeout=30)


def confirm(page: Page) -> None:
    dialog = page.locator("dialog.confirm")
    if dialog.count():
        dialog.locator("button[value=ok]").click()


def is_back(world: World) -> bool:
    """Whether nginx serves the generation that the operator went back to."""
    status = world.sidecar.status()
    return bool(status["hold"]) and status["hold"]["pinned"] == status["live"]["number"]


def test_a_rollback_is_asked_for_twice_and_a_hold_is_released(world: World, open_tab: Callable[..., Tab]) -> None:
    # A service that changes often waits, and a newcomer does not wait for it.
    process.wait_until(lambda: canary(world)["effective"] == canary(world)["asked"], what="the last share", timeout=30)
    world.register("newer", world.app("newer-1"), "route=newer.example.com")
    process.wait_until(lambda: world.ask("newer.example.com").status == 200, what="the newest service", timeout=30)
    page = open_tab(world.sidecar).open("/generations")
    page.get_by_role("button", name=re.compile("roll back|go back", re.I)).first.click()
    dialog = page.locator("dialog.confirm")
    expect(dialog.get_by_role("button", name=re.compile(r"Roll back to generation \d+"))).to_be_visible()
    dialog.get_by_role("button", name="Cancel").click()
    expect(dialog).to_have_count(0)
    page.get_by_role("button", name=re.compile("roll back|go back", re.I)).first.click()
    confirm(page)
    enter(page, TOKEN)
    # Pinned before it is live: what is done to the page in between is done to something else, and refused (412).
    process.wait_until(lambda: is_back(world), what="the rollback", timeout=30)
    page.goto("/")
    page.get_by_role("button", name=re.compile("release|let", re.I)).first.click()
    confirm(page)
    process.wait_until(lambda: not world.sidecar.status()["hold"], what="the end of the hold", timeout=30)


def test_the_token_is_nowhere_but_in_this_tab(world: World, page: Page, open_tab: Callable[..., Tab]) -> None:
    change(page, "22")
    enter(page, TOKEN)
    process.wait_until(lambda: canary(world)["asked"] == 2200, what="the change", timeout=30)
    assert page.context.cookies() == []
    assert page.evaluate("Object.keys(localStorage).length") == 0
    assert TOKEN not in page.content()
    page.get_by_role("button", name=re.compile("forget", re.I)).click()
    assert page.evaluate("Object.keys(sessionStorage).length") == 0
    change(page, "23")
    page.locator("#token-dialog").wait_for(state="visible")
    page.keyboard.press("Escape")
    assert canary(world)["asked"] == 2200
