"""The loop beside a real nginx, fed with catalogs by hand, where nginx itself decides, or a real thread.

All else that the loop does is in tests/proxy/test_loop.py, in simulated time.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from proxygen.catalog import Catalog, Instance
from proxygen.kit.aio import Latest
from proxygen.proxy.apply.outcome import Outcome
from proxygen.proxy.apply.publish import current, hold_output, read_generation
from proxygen.proxy.draft import Draft, Drafter
from proxygen.proxy.loop import Reconciler
from proxygen.proxy.pipeline import open_pipeline
from proxygen.settings import Settings, load
from tests.harness.nginx import NginxServer
from tests.harness.ports import free_port
from tests.proxy.plan.catalogs import catalog, instance

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

    def serves(self, text: str) -> bool:
        """Whether a generation with this text in it is proven, and the pass that made it is over."""
        number = self.live
        if number is None or self.reconciler.state.last is None or self.reconciler.state.last.generation != number:
            return False
        generation = read_generation(self.settings.output.directory, number)
        if generation is None or not generation.proven:
            return False
        return text in (generation.path / "http.d/20-servers.conf").read_text()

    async def until(self, condition: Callable[[], object], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert not self.task.done(), "the loop ended"
            assert time.monotonic() < deadline, (self.reconciler.state.last, self.nginx.errors()[-2000:])
            await asyncio.sleep(0.02)


@asynccontextmanager
async def running(nginx: NginxServer, snippets: Path) -> AsyncIterator[Loop]:
    values = {
        "proxy.http_listen": f"127.0.0.1:{free_port()}",
        "proxy.https_listen": f"127.0.0.1:{free_port()}",
        "proxy.snippets": str(snippets),
        "nginx.binary": str(nginx.binary.path),
        "nginx.conf": str(nginx.conf),
        "nginx.prefix": str(nginx.directory),
        "nginx.stamp": f"127.0.0.1:{free_port()}",
        "output.directory": str(nginx.output),
    }
    settings = load(values, environment={})
    catalogs: Latest[Catalog] = Latest()
    with hold_output(nginx.output) as output:
        reconciler = Reconciler(settings, output, await open_pipeline(settings), catalogs, is_fresh=lambda: True)
        task = asyncio.create_task(reconciler.run())
        try:
            yield Loop(nginx, settings, catalogs, reconciler, task)
        finally:
            task.cancel()
            await asyncio.wait({task})


@pytest.fixture
def snippets(tmp_path: Path) -> Path:
    """The operator's fragments, none yet."""
    path = tmp_path / "snippets"
    path.mkdir()
    return path


@pytest.fixture
async def loop(any_nginx: NginxServer, snippets: Path) -> AsyncIterator[Loop]:
    """Generation 1, with the service web, is live."""
    async with running(any_nginx, snippets) as loop:
        loop.put(WEB)
        await loop.until(lambda: loop.outcome is Outcome.APPLIED)
        yield loop


def change(path: Path, text: str, loop: Loop) -> None:
    path.write_text(text)
    loop.reconciler.files_touched()


async def test_a_snippet_that_only_nginx_refuses_costs_no_change_of_the_catalog(loop: Loop, snippets: Path) -> None:
    change(snippets / "http.conf", "client_max_body_size 10x;\n", loop)
    await loop.until(lambda: loop.reconciler.state.files_problem)
    assert "client_max_body_size" in loop.reconciler.state.files_problem
    loop.put(WEB, SHOP)
    await loop.until(lambda: loop.serves("shop.example.com"))


@pytest.mark.incident("T50")
async def test_a_snippet_that_only_a_reload_refuses_costs_no_service(loop: Loop, snippets: Path) -> None:
    """Injects another key for a zone of the same name, which `nginx -t` cannot know, and a new service with it."""
    snippet, zone = snippets / "http.conf", "limit_req_zone {} zone=people:1m rate=9r/s;\n"
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


async def test_a_long_draft_blocks_nobody_else(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The admin API and the watch of Consul share the loop with a cold start of many services."""
    begun, may_end = threading.Event(), threading.Event()
    were_free: list[bool] = []
    draft = Drafter.draft

    def slowly(*arguments: Any, **options: Any) -> Draft:
        begun.set()
        were_free.append(may_end.wait(10))
        return draft(*arguments, **options)

    monkeypatch.setattr(Drafter, "draft", slowly)
    loop.put(WEB, SHOP)
    await loop.until(begun.is_set)
    may_end.set()
    await loop.until(lambda: loop.serves("shop.example.com"))
    assert all(were_free), "the draft blocked who was to end it"
