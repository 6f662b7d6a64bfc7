"""The screens, driven by keys, over a real admin API on a unix socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from textual.dom import DOMNode
from textual.pilot import Pilot
from textual.widgets import DataTable, Input, Static
from textual.worker import get_current_worker

from proxygen.proxy.admin.client import AdminClient, connect
from proxygen.proxy.admin.report import State
from proxygen.proxy.admin.server import serving
from proxygen.proxy.record.events import Kind
from proxygen.settings import AdminSettings
from proxygen.top.app import Generations, ServiceScreen, Top
from tests.proxy.admin.sidecar import STATUS, WEB, RememberingSidecar

SETTINGS = AdminSettings(listen="off")
SIZE = (80, 24)


@pytest.fixture
def sidecar() -> RememberingSidecar:
    return RememberingSidecar()


@pytest.fixture
async def app(sidecar: RememberingSidecar, short_directory: Path) -> AsyncIterator[Top]:
    async with serving(sidecar, SETTINGS, short_directory):
        yield Top(lambda: connect(SETTINGS, short_directory))


async def until(pilot: Pilot[None], condition: Callable[[], object], what: str) -> None:
    try:
        async with asyncio.timeout(15):
            while not condition():
                await pilot.pause(0.05)
    except TimeoutError:
        raise AssertionError(f"not seen: {what}") from None


def text(app: Top, name: str) -> str:
    return str(app.screen.query_one(f"#{name}", Static).render())


def cells(app: Top) -> list[list[str]]:
    shown = app.screen.query_one(DataTable)
    return [[cell.plain for cell in shown.get_row(key)] for key in shown.rows]


async def test_the_first_look_tells_how_it_is(app: Top) -> None:
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: cells(app), "services")
        assert "healthy" in text(app, "headline")
        assert "generation 42" in text(app, "headline")
        assert "quarantined: evil" in text(app, "problems")
        assert cells(app)[0][:3] == ["web", "served", "2/4"]


async def test_what_changes_is_shown_and_what_happens_is_told(app: Top, sidecar: RememberingSidecar) -> None:
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: cells(app), "services")
        sidecar.report = replace(STATUS, state=State.DEGRADED, reasons=("Consul is [bold]gone[/]",))
        sidecar.listed = (replace(WEB, state="nobody"), replace(WEB, name="[red]shop[/]\x1b[2J"))
        sidecar.events.append(Kind.CONSUL_LOST, "no [leader]")
        await until(pilot, lambda: "degraded" in text(app, "headline"), "the new state")
        await until(pilot, lambda: "no [leader]" in text(app, "events"), "the event")
        assert "Consul is [bold]gone[/]" in text(app, "problems")
        assert {row[0] for row in cells(app)} == {"web", r"[red]shop[/]\x1b[2J"}


async def test_a_search_narrows_and_escape_widens(app: Top, sidecar: RememberingSidecar) -> None:
    sidecar.listed = tuple(replace(WEB, name=f"service-{number}") for number in range(20))
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: len(cells(app)) == 20, "services")
        await pilot.press("slash", *"ice-7")
        await until(pilot, lambda: [row[0] for row in cells(app)] == ["service-7"], "the one")
        await pilot.press("escape")
        await until(pilot, lambda: len(cells(app)) == 20, "all")
        assert app.screen.query_one("#find", Input).value == ""


async def test_the_chosen_row_stays_chosen_while_others_come(app: Top, sidecar: RememberingSidecar) -> None:
    sidecar.listed = (replace(WEB, name="b"), replace(WEB, name="d"))
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: len(cells(app)) == 2, "services")
        await pilot.press("down")
        sidecar.listed = tuple(replace(WEB, name=name) for name in "abcd")
        await until(pilot, lambda: len(cells(app)) == 4, "four services")
        shown = app.screen.query_one(DataTable)
        assert shown.get_row_at(shown.cursor_row)[0].plain == "d"


async def test_enter_opens_a_service_g_the_generations_and_escape_goes_back(app: Top) -> None:
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: cells(app), "services")
        await pilot.press("enter")
        await until(
            pilot, lambda: isinstance(app.screen, ServiceScreen) and "served" in text(app, "headline"), "the service"
        )
        await pilot.press("escape")
        await until(pilot, lambda: len(app.screen_stack) == 1, "the list again")
        await pilot.press("g")
        await until(pilot, lambda: isinstance(app.screen, Generations) and cells(app), "generations")
        assert cells(app)[0][0] == "42"


class Late:
    """A way to the sidecar whose answers to somebody come only when what is shown was taken down."""

    def __init__(self, directory: Path) -> None:
        self.app = Top(self.connect)
        self.is_held = asyncio.Event()
        self.has_come = False
        self._held: DOMNode | None = None
        self._directory = directory

    def hold(self, asker: DOMNode) -> None:
        self._held = asker
        self.app.happened.set()

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[AdminClient]:
        async with connect(SETTINGS, self._directory) as client:
            yield client
        if self._held is get_current_worker().node:
            screen = self.app.screen
            self.is_held.set()
            while screen.query("#headline"):  # noqa: ASYNC110 - nothing tells that it went
                await asyncio.sleep(0)
            self.has_come = True


async def test_an_answer_that_comes_while_the_screens_go_is_for_nobody(
    sidecar: RememberingSidecar, short_directory: Path
) -> None:
    late = Late(short_directory)
    async with serving(sidecar, SETTINGS, short_directory), late.app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: cells(late.app), "services")
        late.hold(late.app)
        await until(pilot, late.is_held.is_set, "the answer under way")
    assert late.has_come


async def test_an_answer_that_comes_while_its_screen_goes_is_for_nobody(
    sidecar: RememberingSidecar, short_directory: Path
) -> None:
    late = Late(short_directory)
    async with serving(sidecar, SETTINGS, short_directory), late.app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: cells(late.app), "services")
        await pilot.press("enter")
        await until(
            pilot, lambda: isinstance(late.app.screen, ServiceScreen) and text(late.app, "headline"), "the service"
        )
        late.hold(late.app.screen)
        await until(pilot, late.is_held.is_set, "the answer under way")
        await pilot.press("escape")
        await until(pilot, lambda: late.has_come, "the answer")
        assert len(late.app.screen_stack) == 1


async def test_a_sidecar_that_is_gone_is_said_and_its_return_seen(
    sidecar: RememberingSidecar, short_directory: Path
) -> None:
    app = Top(lambda: connect(SETTINGS, short_directory))
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: "no answer" in text(app, "notice"), "that nobody answers")
        async with serving(sidecar, SETTINGS, short_directory):
            await until(pilot, lambda: cells(app), "services")
            assert not app.screen.query_one("#notice", Static).display
        await until(pilot, lambda: "no answer since" in text(app, "notice"), "that nobody answers any more")
        assert cells(app)[0][0] == "web"
