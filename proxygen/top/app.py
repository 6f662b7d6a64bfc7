"""The screens of ``proxygen top``: they show what `rows` says, and ask the sidecar again and again."""

from __future__ import annotations

import asyncio
import os
from abc import abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import ClassVar, Final, TypeVar

from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import Screen
from textual.widgets import DataTable, Footer, Input, Static

from proxygen.kit.errors import ProxygenError, SidecarUnavailable, printable
from proxygen.proxy.admin.client import AdminClient
from proxygen.proxy.admin.report import StatusReport
from proxygen.proxy.admin.service_report import ServiceSummary
from proxygen.proxy.record.events import Event
from proxygen.top import rows

REFRESH: Final = 2.0
"""Seconds; figures of traffic move without an event."""

_QUICKEST: Final = 0.25
"""Seconds between two looks, however many events there are."""
_AGAIN: Final = 1.0
_EVENTS_SHOWN: Final = 5

Connect = Callable[[], AbstractAsyncContextManager[AdminClient]]
T = TypeVar("T")


class Top(App[None]):
    """All services, problems first. ``connect`` opens the way to the sidecar."""

    CSS = """
    Static { height: auto; }
    #headline { padding: 0 1; }
    #problems { padding: 0 1; max-height: 8; color: $text-error; }
    #notice { padding: 0 1; }
    #events { padding: 0 1; max-height: 6; color: $text-muted; }
    #find { display: none; height: 1; border: none; }
    #find.shown { display: block; }
    DataTable { height: 1fr; }
    #variants { padding: 0 1; }
    """
    TITLE = "proxygen"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "Quit"),
        Binding("slash", "find", "Find"),
        Binding("s", "sort", "Sort"),
        Binding("g", "generations", "Generations"),
        Binding("escape", "all", "All services", show=False),
    ]

    def __init__(self, connect: Connect) -> None:
        super().__init__()
        self.connect: Final = connect
        self.order = rows.Order.TROUBLE
        self.happened: Final = asyncio.Event()
        self._events: Final[deque[Event]] = deque(maxlen=_EVENTS_SHOWN)
        self._services: tuple[ServiceSummary, ...] = ()
        self._answered: datetime | None = None

    def compose(self) -> ComposeResult:
        yield Static(id="headline")
        yield Static(id="notice")
        yield Static(id="problems")
        yield Input(id="find", placeholder="name or route", compact=True)
        yield table(rows.COLUMNS)
        yield Static(id="events")
        yield Footer()

    def on_mount(self) -> None:
        self.query_one(DataTable).focus()
        self._look()
        self._follow()

    # --- asking

    async def ask(self, question: Callable[[AdminClient], Awaitable[T]]) -> T | None:
        """Return the answer; None where there is none, which is said until there is one again, or where the screens
        are taken down by now: that ends who asked only later."""
        try:
            async with self.connect() as sidecar:
                answer = await question(sidecar)
        except (ProxygenError, OSError) as error:
            since = f" since {self._answered:%H:%M:%S}" if self._answered is not None else ""
            self._notice(f"no answer{since}: {error}")
            return None
        self._answered = datetime.now().astimezone()
        self._notice("")
        return answer if self.is_running else None

    def _notice(self, text: str) -> None:
        if self.is_running:
            say(self.screen_stack[0].query_one("#notice", Static), text, style="bold reverse")

    @work
    async def _look(self) -> None:
        while True:
            self.happened.clear()
            answer = await self.ask(_everything)
            if answer is not None:
                self._show(*answer)
            await asyncio.sleep(_QUICKEST)
            await until(self.happened, REFRESH)

    @work
    async def _follow(self) -> None:
        while True:
            try:
                async with self.connect() as sidecar:
                    # What is kept is told again to each who comes.
                    self._events.clear()
                    async for event in sidecar.events():
                        self._events.append(event)
                        self.happened.set()
            except (SidecarUnavailable, OSError):
                await asyncio.sleep(_AGAIN)

    # --- showing

    def _show(self, status: StatusReport, services: tuple[ServiceSummary, ...]) -> None:
        head = rows.headline(status)
        text = Text.assemble((f" {head.title} ", "bold reverse"), "  ", "  |  ".join(head.lines))
        screen = self.screen_stack[0]
        screen.query_one("#headline", Static).update(text)
        say(screen.query_one("#problems", Static), "\n".join(head.problems))
        say(screen.query_one("#events", Static), "\n".join(rows.event_line(event) for event in self._events))
        self._services = services
        self._arrange()

    def _arrange(self) -> None:
        screen = self.screen_stack[0]
        query = screen.query_one("#find", Input).value
        shown = rows.arrange(self._services, query=query, order=self.order)
        fill(screen.query_one(DataTable), ((service.name, rows.service_cells(service)) for service in shown))

    # --- keys

    def action_find(self) -> None:
        find = self.query_one("#find", Input)
        find.add_class("shown")
        find.focus()

    def action_all(self) -> None:
        find = self.query_one("#find", Input)
        find.value = ""
        find.remove_class("shown")
        self.query_one(DataTable).focus()

    def action_sort(self) -> None:
        self.order = self.order.next
        self.notify(f"sorted by {self.order.value}", timeout=2)
        self._arrange()

    def action_generations(self) -> None:
        self.push_screen(Generations())

    def on_input_changed(self, _event: Input.Changed) -> None:
        self._arrange()

    def on_input_submitted(self, _event: Input.Submitted) -> None:
        self.query_one(DataTable).focus()

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        if event.row_key.value is not None and len(self.screen_stack) == 1:
            self.push_screen(ServiceScreen(event.row_key.value))


class Beneath(Screen[None]):
    """A screen that shows one thing anew while it is open."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss", "Back"), Binding("q", "app.quit", "Quit")]

    app: Top

    def on_mount(self) -> None:
        self._look()

    @work
    async def _look(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(_QUICKEST)
            await until(self.app.happened, REFRESH)

    async def ask(self, question: Callable[[AdminClient], Awaitable[T]]) -> T | None:
        """Return the answer; None where there is none, or where this screen was left before it came."""
        answer = await self.app.ask(question)
        return answer if self.is_running else None

    @abstractmethod
    async def look(self) -> None:
        """Ask, and show the answer."""


class ServiceScreen(Beneath):
    """One service: its variants and their last minutes, its instances."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.service = name

    def compose(self) -> ComposeResult:
        yield Static(id="headline")
        yield Static(id="problems")
        yield VerticalScroll(Static(id="variants"))
        yield table(rows.INSTANCE_COLUMNS)
        yield Footer()

    async def look(self) -> None:
        answer = await self.ask(lambda sidecar: _wrapped(sidecar.service(self.service)))
        if answer is None:
            return
        (detail,) = answer
        name = printable(self.service)
        if detail is None:
            say(self.query_one("#headline", Static), f"{name} is not routed any more", style="bold reverse")
            return
        routes = printable(" ".join(detail.routes))
        text = Text.assemble((f" {name} ", "bold reverse"), f"  {detail.state}  |  {routes}")
        self.query_one("#headline", Static).update(text)
        say(self.query_one("#problems", Static), "\n".join(rows.detail_problems(detail)))
        say(self.query_one("#variants", Static), "\n".join(rows.variant_lines(detail)))
        found = rows.instance_cells(detail)
        fill(self.query_one(DataTable), ((f"{number}", cells) for number, cells in enumerate(found)))


class Generations(Beneath):
    """The generations on disk, newest first."""

    def compose(self) -> ComposeResult:
        yield Static(Text(" generations ", style="bold reverse"), id="headline")
        yield table(rows.GENERATION_COLUMNS)
        yield Footer()

    async def look(self) -> None:
        found = await self.ask(lambda sidecar: sidecar.generations())
        if found is not None:
            fill(self.query_one(DataTable), ((f"{each.number}", rows.generation_cells(each)) for each in found))


async def _everything(sidecar: AdminClient) -> tuple[StatusReport, tuple[ServiceSummary, ...]]:
    return await sidecar.status(), await sidecar.services()


async def _wrapped(answer: Awaitable[T]) -> tuple[T]:
    """Tell None that was answered from no answer."""
    return (await answer,)


async def until(event: asyncio.Event, longest: float) -> None:
    try:
        async with asyncio.timeout(longest):
            await event.wait()
    except TimeoutError:
        pass


def table(columns: Sequence[str]) -> DataTable[Text]:
    made: DataTable[Text] = DataTable(cursor_type="row", zebra_stripes=not os.environ.get("NO_COLOR"))
    for column in columns:
        made.add_column(column, key=column)
    return made


def fill(shown: DataTable[Text], wanted: Iterable[tuple[str, Sequence[str]]]) -> None:
    """Bring a table to these rows, by key. Only cells that differ are touched while the rows stay the same ones."""
    found = list(wanted)
    if [key for key, _ in found] == [key.value for key in shown.rows]:
        for key, cells in found:
            for column, (old, new) in enumerate(zip(shown.get_row(key), cells, strict=True)):
                if old.plain != new:
                    shown.update_cell(key, shown.ordered_columns[column].key, Text(new), update_width=True)
        return
    chosen = shown.coordinate_to_cell_key(shown.cursor_coordinate).row_key.value if shown.row_count else None
    shown.clear()
    for key, cells in found:
        shown.add_row(*(Text(cell) for cell in cells), key=key)
    if chosen is not None and chosen in shown.rows:
        shown.move_cursor(row=shown.get_row_index(chosen))


def say(where: Static, text: str, style: str = "") -> None:
    """Show a text as it is: what stands in a name is no markup."""
    where.update(Text(text, style=style))
    where.display = bool(text)
