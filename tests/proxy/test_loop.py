"""The loop beside a real nginx, fed with catalogs by hand: nothing ends it, and one trouble stays one trouble."""

from __future__ import annotations

import asyncio
import itertools
import socket
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from proxygen.catalog import Catalog, Health, Instance
from proxygen.kit.aio import Latest
from proxygen.kit.errors import CatalogUnavailable, OutputUnusable
from proxygen.proxy.apply.outcome import Outcome
from proxygen.proxy.apply.publish import current, hold_output, read_generation
from proxygen.proxy.draft import Draft, Drafter
from proxygen.proxy.loop import Reconciler
from proxygen.proxy.pipeline import open_pipeline
from proxygen.settings import Settings, load
from tests.harness.nginx import NginxServer
from tests.harness.ports import free_port
from tests.harness.tools import NginxBinary
from tests.proxy.plan.catalogs import catalog, instance

SHIPPED = Path(__file__).parents[2] / "templates/location.conf.j2"

WEB = instance("web", 1, "route=web.example.com", address="127.0.0.1")
SHOP = instance("shop", 2, "route=shop.example.com", address="127.0.0.1")


@dataclass(frozen=True, slots=True)
class Loop:
    """A reconciler at work."""

    nginx: NginxServer
    settings: Settings
    catalogs: Latest[Catalog]
    reconciler: Reconciler
    task: asyncio.Task[None]

    def put(self, *instances: Instance) -> None:
        self.catalogs.put(catalog(*instances))

    @property
    def outcome(self) -> Outcome | None:
        return self.reconciler.state.last.outcome if self.reconciler.state.last else None

    @property
    def reason(self) -> str:
        return self.reconciler.state.last.reason if self.reconciler.state.last else ""

    @property
    def live(self) -> int | None:
        return current(self.settings.output.directory)

    def health_of(self, name: str) -> Health | None:
        """As the newest plan has it, of a service's first instance."""
        found = self.reconciler.state.plan.services if self.reconciler.state.plan else ()
        return next((service.instances[0].health for service in found if service.name == name), None)

    @property
    def warnings(self) -> list[str]:
        found = self.reconciler.state.plan.services if self.reconciler.state.plan else ()
        return [warning for service in found for warning in service.warnings]

    def serves(self, text: str) -> bool:
        """Whether a generation with this text in it is proven, and the pass that made it is over."""
        number = self.live
        if number is None or self.reconciler.state.last is None or self.reconciler.state.last.generation != number:
            return False
        generation = read_generation(self.settings.output.directory, number)
        if generation is None or not generation.proven:
            return False
        return text in (generation.path / "http.d/20-servers.conf").read_text()

    def reloads(self) -> int:
        return self.nginx.errors().count("(SIGHUP) received")

    async def until(self, condition: Callable[[], object], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert not self.task.done(), "the loop ended"
            assert time.monotonic() < deadline, (self.reconciler.state.last, self.nginx.errors()[-2000:])
            await asyncio.sleep(0.02)


@asynccontextmanager
async def running(
    nginx: NginxServer, *, is_fresh: Callable[[], bool] = lambda: True, **knobs: object
) -> AsyncIterator[Loop]:
    values = {
        "proxy.http_listen": f"127.0.0.1:{free_port()}",
        "proxy.https_listen": f"127.0.0.1:{free_port()}",
        "nginx.binary": str(nginx.binary.path),
        "nginx.conf": str(nginx.conf),
        "nginx.prefix": str(nginx.directory),
        "nginx.stamp": f"127.0.0.1:{free_port()}",
        "output.directory": str(nginx.output),
        **{name.replace("__", "."): str(value) for name, value in knobs.items()},
    }
    settings = load(values, environment={})
    catalogs: Latest[Catalog] = Latest()
    with hold_output(nginx.output) as output:
        reconciler = Reconciler(settings, output, await open_pipeline(settings), catalogs, is_fresh=is_fresh)
        task = asyncio.create_task(reconciler.run())
        try:
            yield Loop(nginx, settings, catalogs, reconciler, task)
        finally:
            task.cancel()
            await asyncio.wait({task})


@pytest.fixture
def server(any_nginx_binary: NginxBinary, make_nginx: Callable[..., NginxServer]) -> NginxServer:
    """Not started."""
    return make_nginx(any_nginx_binary)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The operator's template of a location, in a directory of his own."""
    (tmp_path / "templates").mkdir()
    return tmp_path / "templates/location.conf.j2"


@pytest.fixture
async def loop(server: NginxServer, own: Path, tmp_path: Path) -> AsyncIterator[Loop]:
    """Generation 1, with the service web, is live."""
    (tmp_path / "snippets").mkdir()
    server.start()
    async with running(server, proxy__templates=own.parent, proxy__snippets=tmp_path / "snippets") as loop:
        loop.put(WEB)
        await loop.until(lambda: loop.outcome is Outcome.APPLIED)
        yield loop


# --- nothing ends the loop --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [b"# {{ 1 / 0 }}\n", b"# {{ (location.proxy.nothing / 1000) | q }}\n", b"# caf\xe9\n"],
    ids=["division", "nothing-there", "latin-1"],
)
async def test_a_template_that_fails_like_a_program_ends_nothing(server: NginxServer, own: Path, text: bytes) -> None:
    """It is there from the start, so there is no older one to go on with; the mended one is enough."""
    await asyncio.to_thread(own.write_bytes, text)
    server.start()
    async with running(server, proxy__templates=own.parent) as loop:
        loop.put(WEB)
        await loop.until(lambda: loop.outcome is Outcome.REJECTED)
        assert "location.conf.j2" in loop.reason
        change(own, SHIPPED.read_text(), loop)
        await loop.until(lambda: loop.serves("web.example.com"))


async def test_what_nobody_thought_of_is_a_rejection_and_is_tried_again(
    loop: Loop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Injects a directory for temporary files that is gone, as good as full or read-only."""
    with monkeypatch.context() as broken:
        broken.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
        loop.put(WEB, SHOP)
        await loop.until(lambda: loop.outcome is Outcome.REJECTED)
        assert "No such file or directory" in loop.reason
        assert loop.live == 1
    await loop.until(lambda: loop.serves("shop.example.com"))


# --- files that cannot be used ----------------------------------------------------------------------------------------


def _broken_templates() -> Iterator[tuple[str, str, str]]:
    shipped = SHIPPED.read_text()
    yield "syntax", "{% if %}", "location.conf.j2:1"
    yield "undefined", "{{ location.flavour | q }}", "flavour"
    yield (
        "first-gate",
        shipped.replace("{% if location.redirect %}", "nonsense on;\n{% if location.redirect %}"),
        "nonsense",
    )
    yield "second-gate", shipped.replace("{% if location.redirect %}", "root;\n{% if location.redirect %}"), "root"


@pytest.mark.parametrize(
    ("template", "said"),
    [pytest.param(template, said, id=name) for name, template, said in _broken_templates()],
)
async def test_a_broken_template_costs_no_change_of_the_catalog(
    loop: Loop, own: Path, template: str, said: str
) -> None:
    """The files before stay in force, whole and with the reason told, until a file changes again."""
    change(own, template, loop)
    await loop.until(lambda: loop.reconciler.state.files_problem)
    assert said in loop.reconciler.state.files_problem
    loop.put(WEB, SHOP)
    await loop.until(lambda: loop.serves("shop.example.com"))
    assert loop.reconciler.state.files_problem
    assert loop.reconciler.state.plan is not None
    assert not loop.reconciler.state.plan.quarantined
    change(own, SHIPPED.read_text() + "# mended\n", loop)
    await loop.until(lambda: loop.serves("# mended"))
    assert not loop.reconciler.state.files_problem


def change(path: Path, text: str, loop: Loop) -> None:
    path.write_text(text)
    loop.reconciler.files_touched()


async def test_a_broken_template_is_told_apart_from_an_absent_nginx(loop: Loop, own: Path) -> None:
    """Both at once: each has its own reason, and nginx's return is enough for the catalog to go on."""
    loop.nginx.kill()
    change(own, "{{ location.flavour | q }}", loop)
    await loop.until(lambda: loop.outcome is Outcome.REJECTED)
    assert "flavour" in loop.reconciler.state.files_problem
    assert "nginx" in loop.reason
    loop.nginx.start()
    loop.put(WEB, SHOP)
    await loop.until(lambda: loop.serves("shop.example.com"))
    assert "flavour" in loop.reconciler.state.files_problem
    change(own, SHIPPED.read_text(), loop)
    await loop.until(lambda: not loop.reconciler.state.files_problem)


async def test_files_that_are_mended_while_nginx_is_away_are_no_problem_any_more(loop: Loop, own: Path) -> None:
    change(own, "{% if %}", loop)
    await loop.until(lambda: loop.reconciler.state.files_problem)
    loop.nginx.kill()
    change(own, SHIPPED.read_text() + "# mended\n", loop)
    await loop.until(lambda: loop.outcome is Outcome.REJECTED)
    loop.nginx.start()
    await loop.until(lambda: loop.serves("# mended"))
    assert not loop.reconciler.state.files_problem


async def test_a_snippet_that_only_nginx_refuses_costs_no_change_of_the_catalog(loop: Loop, tmp_path: Path) -> None:
    change(tmp_path / "snippets/http.conf", "client_max_body_size 10x;\n", loop)
    await loop.until(lambda: loop.reconciler.state.files_problem)
    assert "client_max_body_size" in loop.reconciler.state.files_problem
    loop.put(WEB, SHOP)
    await loop.until(lambda: loop.serves("shop.example.com"))


@pytest.mark.incident("T50")
async def test_a_snippet_that_only_a_reload_refuses_costs_no_service(loop: Loop, tmp_path: Path) -> None:
    """Injects another key for a zone of the same name, which `nginx -t` cannot know, and a new service with it."""
    snippet, zone = tmp_path / "snippets/http.conf", "limit_req_zone {} zone=people:1m rate=9r/s;\n"
    change(snippet, zone.format("$binary_remote_addr"), loop)
    await loop.until(lambda: loop.live == 2 and loop.outcome is Outcome.APPLIED)
    loop.put(WEB, SHOP)
    change(snippet, zone.format("$host"), loop)
    await loop.until(lambda: loop.reconciler.state.files_problem)
    await loop.until(lambda: loop.serves("shop.example.com"))
    assert "people" in loop.reconciler.state.files_problem
    assert loop.reconciler.state.plan is not None
    assert not loop.reconciler.state.plan.quarantined
    change(snippet, zone.format("$binary_remote_addr"), loop)
    await loop.until(lambda: not loop.reconciler.state.files_problem)


@pytest.mark.incident("T63")
@pytest.mark.parametrize("broken", ["nonsense on;\n", "{{ nothing_of_that_name }}\n"])
async def test_a_broken_stamp_template_costs_no_change_of_the_catalog(loop: Loop, own: Path, broken: str) -> None:
    """What plans and what delivers belong together: both go back to the templates before."""
    stamp = own.with_name("stamp.conf.j2")
    shipped = SHIPPED.with_name(stamp.name).read_text()
    change(stamp, broken + shipped, loop)
    await loop.until(lambda: loop.reconciler.state.files_problem)
    loop.put(WEB, SHOP)
    await loop.until(lambda: loop.serves("shop.example.com"))
    assert loop.reconciler.state.files_problem
    change(stamp, "# mended\n" + shipped, loop)
    await loop.until(lambda: not loop.reconciler.state.files_problem)
    loop.put(WEB)
    await loop.until(lambda: loop.live == 4)


async def test_a_broken_nginx_conf_is_no_trouble_of_the_other_files(loop: Loop) -> None:
    """No older one can stand in for it: nginx itself would not start with it, so nothing is changed."""
    whole = loop.nginx.conf.read_text()
    change(loop.nginx.conf, whole + "nonsense;\n", loop)
    loop.put(WEB, SHOP)
    await loop.until(lambda: loop.outcome is Outcome.REJECTED)
    assert "nonsense" in loop.reason
    assert not loop.reconciler.state.files_problem
    assert loop.live == 1
    change(loop.nginx.conf, whole, loop)
    await loop.until(lambda: loop.serves("shop.example.com"))


async def test_a_service_that_is_refused_with_any_files_does_not_stand_in_the_way_of_the_new_ones(
    loop: Loop, own: Path
) -> None:
    """Injects a service and a template in one go, where the service is refused with the template before, too."""
    bad = instance("bad", 4, "route=admin.example.com", address="127.0.0.1")
    conf = loop.nginx.conf.read_text()
    listen = loop.settings.proxy.http_listen[0]
    own_server = f"http {{\n    server {{ listen {listen}; server_name admin.example.com; }}\n"
    change(loop.nginx.conf, conf.replace("http {\n", own_server), loop)
    await loop.until(lambda: loop.reconciler.pipeline.conf and "admin" in str(loop.reconciler.pipeline.conf.texts))
    loop.put(WEB, bad)
    change(own, SHIPPED.read_text() + "# mended\n", loop)
    await loop.until(lambda: loop.serves("# mended"))
    assert loop.reconciler.state.plan is not None
    assert [quarantine.service for quarantine in loop.reconciler.state.plan.quarantined] == ["bad"]
    assert not loop.reconciler.state.files_problem


# --- refused services -------------------------------------------------------------------------------------------------


async def test_a_refused_service_whose_health_flaps_costs_the_others_nothing(loop: Loop) -> None:
    """Injects a port that is taken: one reload stumbles over it, and its checks have no say in when the next does."""
    with taken_port() as port:
        db = instance("db", 3, "protocol=tcp", f"listen={port}", address="127.0.0.1")
        loop.put(WEB, SHOP, db)
        await loop.until(lambda: loop.serves("shop.example.com"))
        before = loop.reloads()
        for number, health in zip(range(10), itertools.cycle([Health.CRITICAL, Health.PASSING]), strict=False):
            loop.put(WEB, SHOP, replace(db, health=health, modify_index=number))
            await asyncio.sleep(0.15)
        assert loop.reloads() == before
        loop.put(WEB, SHOP, db, instance("new", 4, "route=new.example.com"))
        await loop.until(lambda: loop.serves("new.example.com"))
        assert loop.reloads() == before + 1


@contextmanager
def taken_port() -> Iterator[int]:
    with socket.create_server(("0.0.0.0", free_port())) as taken:
        yield taken.getsockname()[1]


# --- without a catalog ------------------------------------------------------------------------------------------------


async def test_nginx_that_comes_before_consul_is_enough_to_be_live(server: NginxServer) -> None:
    """Both are away at the start: what is on disk is proven once nginx serves it, whatever Consul does."""
    stamp = f"127.0.0.1:{free_port()}"
    server.start()
    async with running(server, nginx__stamp=stamp) as loop:
        loop.put(WEB)
        await loop.until(lambda: loop.outcome is Outcome.APPLIED)
    server.stop()
    async with running(server, nginx__stamp=stamp) as loop:
        await loop.until(lambda: loop.outcome is Outcome.REJECTED)
        assert loop.reconciler.state.live_since is None
        server.start()
        await loop.until(lambda: loop.reconciler.state.live_since is not None)
        assert loop.outcome in (Outcome.APPLIED, Outcome.UNCHANGED)


async def test_what_is_unchecked_is_looked_at_again_once_consul_can_be_asked(
    server: NginxServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Injects a Consul that cannot be asked while the limit ends, and then says what it said before: no new catalog."""
    monkeypatch.setattr("proxygen.proxy.drafting._LEAST_PAUSE", 0.2)
    is_fresh = False
    checked = replace(WEB, speaks=True)
    server.start()
    async with running(server, is_fresh=lambda: is_fresh, guard__hold="500ms") as loop:
        loop.put(checked, *FLEET[1:])
        await loop.until(lambda: loop.outcome is Outcome.APPLIED)
        loop.put(replace(checked, health=Health.CRITICAL, unchecked=True, speaks=False), *FLEET[1:])
        await loop.until(lambda: loop.health_of("web") is Health.PASSING and loop.warnings)
        passes = loop.reconciler.begun
        await loop.until(lambda: loop.reconciler.begun > passes + 4)
        assert loop.health_of("web") is Health.PASSING
        is_fresh = True
        await loop.until(lambda: loop.health_of("web") is Health.CRITICAL)
        assert not loop.warnings


# --- what is live -----------------------------------------------------------------------------------------------------


async def test_what_is_only_published_is_not_live(server: NginxServer) -> None:
    """Injects an nginx that never ran, and an operator who goes back to where he is: that asks nginx nothing."""
    async with running(server) as loop:
        loop.put(WEB)
        await loop.until(lambda: loop.outcome is Outcome.REJECTED and loop.live == 1)
        assert (await loop.reconciler.roll_back(None)).outcome is Outcome.UNCHANGED
        assert (loop.reconciler.state.live, loop.reconciler.state.live_since) == (None, None)
        server.start()
        await loop.until(lambda: loop.reconciler.state.live == 1)


async def test_what_waits_for_nginx_is_not_live_before_it_is_back(loop: Loop) -> None:
    """Injects the end of nginx: the next generation is published, and what was served last stays what is live."""
    since = loop.reconciler.state.live_since
    loop.nginx.kill()
    loop.put(WEB, SHOP)
    await loop.until(lambda: loop.outcome is Outcome.REJECTED and loop.live == 2)
    assert (await loop.reconciler.roll_back(2)).outcome is Outcome.UNCHANGED
    assert (loop.reconciler.state.live, loop.reconciler.state.live_since) == (1, since)
    loop.nginx.start()
    await loop.until(lambda: loop.reconciler.state.live == 2)
    assert loop.reconciler.state.live_since != since


async def test_where_the_stamp_is_asked_for_elsewhere_a_pinned_generation_is_not_live(server: NginxServer) -> None:
    """Injects another nginx.stamp and the end of nginx: what is pinned cannot tell that it is served."""
    server.start()
    async with running(server) as loop:
        for instances in ((WEB,), (WEB, SHOP)):
            loop.put(*instances)
            await loop.until(lambda: loop.reconciler.state.live == len(instances))  # noqa: B023
        assert (await loop.reconciler.roll_back(None)).outcome is Outcome.APPLIED
    server.kill()
    async with running(server) as loop:
        loop.put(WEB, SHOP)
        await loop.until(lambda: loop.outcome is Outcome.HELD)
        assert loop.reconciler.state.live is None


# --- rollback ---------------------------------------------------------------------------------------------------------


async def test_a_catalog_that_comes_while_something_is_finished_is_the_first_that_is_carried(
    server: NginxServer,
) -> None:
    """What waits for the next pass with a catalog must not wait for two."""
    server.start()
    async with running(server) as loop:
        await loop.until(lambda: loop.reconciler.state.last is not None)
        assert (loop.reconciler.begun, loop.reconciler.carried) == (0, 0)
        loop.put(WEB)
        await loop.until(lambda: loop.reconciler.begun == 1)
        assert loop.reconciler.carried == 0
        await loop.until(lambda: loop.reconciler.carried == 1)
        assert loop.live == 1


async def test_a_rollback_that_nginx_does_not_live_to_see_is_a_step_a_pin_and_is_finished(loop: Loop) -> None:
    """Injects the end of nginx: its next start reads the generation that the operator asked for, and it stays."""
    loop.put(WEB, SHOP)
    await loop.until(lambda: loop.serves("shop.example.com"))
    loop.nginx.kill()
    step = await loop.reconciler.roll_back(None)
    assert (step.outcome, step.generation, loop.live, loop.reconciler.state.pinned) == (Outcome.REJECTED, 1, 1, 1)
    assert loop.reconciler.state.last is not None
    loop.nginx.start()
    await loop.until(lambda: loop.outcome is Outcome.HELD)
    assert (loop.live, loop.reconciler.state.pinned) == (1, 1)
    assert (await loop.reconciler.release_hold()).outcome is Outcome.APPLIED
    assert loop.serves("shop.example.com")


async def test_a_rollback_that_ends_where_it_began_pins_nothing(loop: Loop) -> None:
    with pytest.raises(OutputUnusable, match="no generation 7"):
        await loop.reconciler.roll_back(7)
    assert (await loop.reconciler.roll_back(1)).outcome is Outcome.UNCHANGED
    assert loop.reconciler.state.pinned is None
    loop.put(WEB, SHOP)
    await loop.until(lambda: loop.serves("shop.example.com"))


async def test_a_hold_that_is_released_before_consul_was_read_is_released(server: NginxServer) -> None:
    server.start()
    async with running(server) as loop:
        for instances in ((WEB,), (WEB, SHOP)):
            loop.put(*instances)
            await loop.until(lambda: loop.outcome is Outcome.APPLIED)
            await asyncio.sleep(0.5)
        assert (await loop.reconciler.roll_back(None)).outcome is Outcome.APPLIED
        assert loop.reconciler.state.pinned == 1
    async with running(server) as loop:
        assert loop.reconciler.state.pinned == 1
        with pytest.raises(CatalogUnavailable):
            await loop.reconciler.release_hold()
        assert loop.reconciler.state.pinned is None


# --- many services ----------------------------------------------------------------------------------------------------


async def test_a_long_draft_blocks_nobody_else(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The admin API and the watch of Consul share the loop with a cold start of many services."""
    begun, may_end = threading.Event(), threading.Event()
    draft = Drafter.draft

    def slowly(*arguments: Any, **options: Any) -> Draft:
        begun.set()
        assert may_end.wait(60), "whom the draft blocks comes never to end it"
        return draft(*arguments, **options)

    monkeypatch.setattr(Drafter, "draft", slowly)
    loop.put(WEB, SHOP)
    await loop.until(begun.is_set)
    may_end.set()
    await loop.until(lambda: loop.serves("shop.example.com"))


# --- holds ------------------------------------------------------------------------------------------------------------

FLEET = tuple(
    instance(name, number, f"route={name}.example.com", address="127.0.0.1")
    for number, name in enumerate(("web", "shop", "cart", "mail"), start=1)
)


async def test_a_mass_loss_is_held_and_released(loop: Loop) -> None:
    loop.put(*FLEET)
    await loop.until(lambda: loop.serves("mail.example.com") and loop.outcome is Outcome.APPLIED)
    live = loop.live
    loop.put(WEB)
    await loop.until(lambda: loop.outcome is Outcome.HELD)
    assert "3 of 4 servers" in loop.reason
    assert loop.live == live
    assert loop.reconciler.state.held_since is not None
    step = await loop.reconciler.release_hold()
    assert step.outcome is Outcome.APPLIED
    assert not loop.serves("mail.example.com")
    assert loop.reconciler.state.holds == ()
    assert loop.reconciler.state.held_since is None


async def test_what_is_not_held_goes_live_during_a_hold(loop: Loop) -> None:
    loop.put(*FLEET)
    await loop.until(lambda: loop.serves("mail.example.com"))
    loop.put(WEB)
    await loop.until(lambda: loop.outcome is Outcome.HELD)
    loop.put(WEB, instance("news", 9, "route=news.example.com", address="127.0.0.1"))
    await loop.until(lambda: loop.serves("news.example.com"))
    assert loop.serves("mail.example.com")
    assert loop.reconciler.state.holds


async def test_a_hold_ends_by_itself_after_its_time(server: NginxServer) -> None:
    server.start()
    async with running(server, guard__hold="2s") as loop:
        loop.put(*FLEET)
        await loop.until(lambda: loop.serves("mail.example.com"))
        loop.put(WEB)
        await loop.until(lambda: loop.outcome is Outcome.HELD)
        await loop.until(lambda: loop.outcome is Outcome.APPLIED and not loop.serves("mail.example.com"))


async def test_a_hold_does_not_end_while_consul_cannot_be_asked(server: NginxServer) -> None:
    server.start()
    async with running(server, is_fresh=lambda: False, guard__hold="100ms") as loop:
        loop.put(*FLEET)
        await loop.until(lambda: loop.serves("mail.example.com"))
        loop.put(WEB)
        await loop.until(lambda: loop.outcome is Outcome.HELD)
        await asyncio.sleep(0.5)
        loop.put(WEB, instance("news", 9, "route=news.example.com", address="127.0.0.1"))
        await loop.until(lambda: loop.serves("news.example.com"))
        assert loop.serves("mail.example.com")


async def test_a_hold_ends_once_consul_can_be_asked_again(server: NginxServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Injects a Consul that cannot be asked while the time is over, and then says what it said before."""
    monkeypatch.setattr("proxygen.proxy.drafting._LEAST_PAUSE", 0.2)
    is_fresh = False
    server.start()
    async with running(server, is_fresh=lambda: is_fresh, guard__hold="100ms") as loop:
        loop.put(*FLEET)
        await loop.until(lambda: loop.serves("mail.example.com"))
        loop.put(WEB)
        await loop.until(lambda: loop.outcome is Outcome.HELD)
        await asyncio.sleep(0.5)
        assert loop.reconciler.state.holds
        is_fresh = True
        await loop.until(lambda: loop.outcome is Outcome.APPLIED and not loop.serves("mail.example.com"))


# --- the catalog on disk ----------------------------------------------------------------------------------------------


async def test_losses_are_told_across_a_restart(server: NginxServer) -> None:
    server.start()
    stamp = f"127.0.0.1:{free_port()}"
    async with running(server, nginx__stamp=stamp) as loop:
        loop.put(*FLEET)
        await loop.until(lambda: loop.serves("mail.example.com"))
        await loop.until(lambda: (loop.settings.output.directory / "state/catalog.json").exists())
    async with running(server, nginx__stamp=stamp) as loop:
        loop.put(WEB)
        await loop.until(lambda: loop.reconciler.state.holds and loop.outcome is Outcome.APPLIED)
        assert loop.serves("mail.example.com")


async def test_a_start_without_consul_goes_on_from_the_catalog_on_disk(
    server: NginxServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxygen.proxy.loop.PATIENCE", 0.2)
    server.start()
    (tmp_path / "snippets").mkdir()
    knobs = {"nginx__stamp": f"127.0.0.1:{free_port()}", "proxy__snippets": tmp_path / "snippets"}
    async with running(server, **knobs) as loop:
        loop.put(*FLEET)
        await loop.until(lambda: loop.serves("mail.example.com"))
        await loop.until(lambda: (loop.settings.output.directory / "state/catalog.json").exists())
        assert loop.reconciler.state.stale_since is None
    (tmp_path / "snippets/server.conf").write_text("add_header X-Changed-While-Consul-Was-Down yes;\n")
    async with running(server, **knobs) as loop:
        await loop.until(lambda: loop.serves("X-Changed-While-Consul-Was-Down"))
        assert loop.serves("mail.example.com")
        assert loop.reconciler.state.stale_since is not None
        loop.put(*FLEET, SHOP)
        await loop.until(lambda: loop.reconciler.state.stale_since is None)


async def test_a_catalog_older_than_the_live_generation_is_not_gone_back_to(
    server: NginxServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill between the proof and the saving leaves that."""
    monkeypatch.setattr("proxygen.proxy.loop.PATIENCE", 0.2)
    server.start()
    stamp = f"127.0.0.1:{free_port()}"
    async with running(server, nginx__stamp=stamp) as loop:
        loop.put(WEB)
        await loop.until(lambda: loop.serves("web.example.com"))
        file = loop.settings.output.directory / "state/catalog.json"
        await loop.until(file.exists)
        old = file.read_bytes()
        loop.put(WEB, SHOP)
        await loop.until(lambda: loop.serves("shop.example.com") and file.read_bytes() != old)
    file.write_bytes(old)
    async with running(server, nginx__stamp=stamp) as loop:
        await asyncio.sleep(1.0)
        assert loop.serves("shop.example.com") or loop.reconciler.state.last is not None
        assert loop.reconciler.state.plan is None
        assert loop.live == 2


# --- the governor -----------------------------------------------------------------------------------------------------


async def test_a_flood_of_changes_costs_a_bounded_number_of_reloads(server: NginxServer) -> None:
    server.start()
    async with running(server, reload__gap="10ms", reload__burst=2, reload__interval="1s") as loop:
        started = time.monotonic()
        for number in itertools.count(1):
            loop.put(WEB, instance("shop", 1 + number % 250, "route=shop.example.com"))
            await asyncio.sleep(0.05)
            took = time.monotonic() - started
            if took > 3 and loop.reloads() >= 5:
                break
        # The first came without waiting; each after the burst had to earn its time.
        assert loop.reloads() <= 1 + 2 + took + 1
