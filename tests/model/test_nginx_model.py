"""The model of nginx against a real one: the same acts on both, and after each the same is served and told."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import pytest

from proxygen.proxy.nginx.stamp import PATH, Stamp
from tests.harness.nginx import NginxServer
from tests.harness.ports import free_port
from tests.harness.tools import NginxBinary
from tests.model.clock import simulated_time
from tests.model.disk import Disk
from tests.model.nginx_model import NginxModel

PATIENCE = 10.0
"""A real nginx tries for 2.5 s to bind a port before it gives a reload up."""


class Nginx(Protocol):
    """What both can be asked."""

    def start(self) -> None: ...
    def kill(self) -> None: ...
    def hang_up(self) -> None: ...
    def freeze(self) -> None: ...
    def thaw(self) -> None: ...
    def seen(self) -> tuple[str, int, int]:
        """Return the site's answer, how many workers accept, and how often nginx gave up."""


class Site:
    """Generations of a small site, in a directory that either includes."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.port, self.stamp_port = free_port(), free_port()
        self._number = 0

    def publish(self, body: str, more: str = "") -> None:
        self._number += 1
        directory = self.output / f"generations/{self._number:06d}"
        (directory / "http.d").mkdir(parents=True)
        (directory / "stream.d").mkdir()
        stamp = Stamp(generation=self._number, digest="0" * 16)
        (directory / "http.d/site.conf").write_text(
            f'server {{ listen 127.0.0.1:{self.port}; location / {{ return 200 "{body}"; }} }}\n{more}\n'
            f"server {{ listen 127.0.0.1:{self.stamp_port}; location = {PATH} {{ return 200 '{stamp}'; }} }}\n"
        )
        aside = self.output / "new"
        aside.symlink_to(f"generations/{self._number:06d}")
        os.rename(aside, self.output / "current")


class Real:
    def __init__(self, server: NginxServer, site: Site) -> None:
        self._server = server
        self._site = site

    def start(self) -> None:
        try:
            self._server.start()
        except (RuntimeError, TimeoutError):
            self._server.kill()

    def kill(self) -> None:
        self._server.kill()

    def hang_up(self) -> None:
        self._server.reload()

    def freeze(self) -> None:
        self._server.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._server.send_signal(signal.SIGCONT)

    def seen(self) -> tuple[str, int, int]:
        accepting = len(self._server.accepting()) if self._server.running else 0
        return self._answer(), accepting, _refusals(self._server.errors())

    def _answer(self) -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._site.port}/", timeout=2) as answer:
                text: str = answer.read().decode()
                return text
        except (urllib.error.URLError, OSError):
            return ""


class Modelled:
    def __init__(self, model: NginxModel, error_log: Path, loop: asyncio.AbstractEventLoop, site: Site) -> None:
        self._model = model
        self._error_log = error_log
        self._loop = loop
        self._site = site

    def start(self) -> None:
        self._model.start()

    def kill(self) -> None:
        self._model.kill()

    def hang_up(self) -> None:
        self._model.hang_up()

    def freeze(self) -> None:
        self._model.freeze()

    def thaw(self) -> None:
        self._model.thaw()

    def seen(self) -> tuple[str, int, int]:
        self._loop.run_until_complete(asyncio.sleep(5))
        loaded = self._model.answer()
        log = self._error_log.read_text() if self._error_log.exists() else ""
        return loaded.answers.get(self._site.port, "") if loaded else "", self._model.accepting, _refusals(log)


def _refusals(log: str) -> int:
    """How often nginx gave up: it says so once, beside each try to bind a port."""
    return sum(" [emerg] " in line and " bind() to " not in line for line in log.splitlines())


@contextmanager
def taken(port: int) -> Iterator[None]:
    with socket.create_server(("127.0.0.1", port)):
        yield


Act = Callable[[Nginx, Site], None]


def acts(other: int) -> list[tuple[str, Act]]:
    """What happens one after the other; ``other`` is a port that somebody else holds."""

    def publish_and_hang_up(body: str, more: str = "") -> Act:
        def act(nginx: Nginx, site: Site) -> None:
            site.publish(body, more)
            nginx.hang_up()

        return act

    def restart(nginx: Nginx, _: Site) -> None:
        nginx.kill()
        nginx.start()

    def several_while_frozen(nginx: Nginx, site: Site) -> None:
        nginx.freeze()
        for body in ("three", "four"):
            site.publish(body)
            nginx.hang_up()

    def start_unbindable(nginx: Nginx, site: Site) -> None:
        nginx.kill()
        site.publish("unbindable", f"server {{ listen 127.0.0.1:{other}; }}")
        nginx.start()

    return [
        ("nothing is published", lambda nginx, _: nginx.start()),
        ("a good file", publish_and_hang_up("one")),
        ("a file that ends too early", publish_and_hang_up("broken", "server {")),
        ("a good file again", publish_and_hang_up("two")),
        ("a port that is taken", publish_and_hang_up("taken", f"server {{ listen 127.0.0.1:{other}; }}")),
        ("a change that nobody is told of", lambda _, site: site.publish("untold")),
        ("the master hangs", several_while_frozen),
        ("it goes on", lambda nginx, _: nginx.thaw()),
        ("a start from the newest", restart),
        ("a start from what cannot be bound", start_unbindable),
        ("a good file while nobody runs", lambda _, site: site.publish("five")),
        ("a start", lambda nginx, _: nginx.start()),
    ]


def what_the_model_does(directory: Path, other: int) -> list[tuple[str, int, int]]:
    site = Site(directory)
    directory.mkdir()
    conf = directory / "nginx.conf"
    conf.write_text(f"events {{ }} http {{ include {directory}/current/http.d/*.conf; }}")
    with simulated_time() as loop:
        model = NginxModel(loop, conf, directory / "error.log", Disk(directory))
        model.faults.taken = {other}
        modelled = Modelled(model, directory / "error.log", loop, site)
        seen = []
        for _, act in acts(other):
            act(modelled, site)
            seen.append(modelled.seen())
    return seen


@pytest.mark.slow
def test_the_model_serves_and_tells_what_a_real_nginx_does(
    nginx_binary: NginxBinary, make_nginx: Callable[..., NginxServer], tmp_path: Path
) -> None:
    other = free_port()
    expected = what_the_model_does(tmp_path / "model", other)
    site = Site(tmp_path / "real")
    site.output.mkdir()
    real = Real(make_nginx(nginx_binary, output=site.output), site)
    with taken(other):
        for (name, act), seen in zip(acts(other), expected, strict=True):
            act(real, site)
            deadline = time.monotonic() + PATIENCE
            while real.seen() != seen:
                assert time.monotonic() < deadline, (name, real.seen(), seen)
                time.sleep(0.05)
