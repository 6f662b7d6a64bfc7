"""T80: nginx closes an idle connection to an instance before the instance does, so that no request meets its end."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import pairwise
from typing import Final

import pytest

from tests.conformance.case import Sent
from tests.conformance.instance import Record, Scripted
from tests.conformance.sending import exchange, unique
from tests.conformance.site import Service, Site, proxied
from tests.harness.tools import NginxBinary

_SHORTEST: Final = 5.0
"""Seconds after which common servers close an idle connection: Node's default; gunicorn's is 2 and can be set."""
_IDLE: Final = 1.0
"""The limit of the instance that requests are aimed at."""
_HOST: Final = "req.example.com"


@pytest.fixture(scope="module")
def site(binary: NginxBinary, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with ExitStack() as stack:
        record = Record()
        patient = stack.enter_context(Scripted("patient", record))
        hasty = stack.enter_context(Scripted("hasty", record, idle=_IDLE))
        services = [
            Service(name="usual", tags=(f"route=usual.{_HOST}",), ports=(patient.port,)),
            Service(name="aimed", tags=(f"route=aimed.{_HOST}", "keepalive-timeout=200ms"), ports=(hasty.port,)),
        ]
        directory = tmp_path_factory.mktemp(f"idle-{binary.name}")
        yield stack.enter_context(proxied(binary, directory, services, record))


def _ask(site: Site, service: str) -> int:
    """Send one request and return the connection on which it reached the instance."""
    name = unique(service)
    assert exchange(site, f"{service}.{_HOST}", Sent(), "http", name=name).status == 200
    return site.record.of(name)[0].connection


def test_a_connection_is_kept_for_the_next_request(site: Site) -> None:
    """On one of two workers, and where the machine is not too busy for a second."""
    asked = [_ask(site, "usual") for _ in range(20)]
    assert any(connection == following for connection, following in pairwise(asked))


def test_nginx_closes_an_idle_connection_before_any_common_server_would(site: Site) -> None:
    assert site.record.wait_closed(_ask(site, "usual"), _SHORTEST)


def test_no_post_meets_the_end_of_a_connection_at_which_it_is_aimed(site: Site) -> None:
    chosen = random.Random(80)
    pauses = [chosen.uniform(_IDLE - 0.02, _IDLE + 0.02) for _ in range(32)]

    def aim(pause: float) -> int | None:
        _ask(site, "aimed")
        time.sleep(pause)
        return exchange(site, f"aimed.{_HOST}", Sent(method="POST", body=b"x"), "http").status

    with ThreadPoolExecutor(16) as threads:
        assert set(threads.map(aim, pauses)) == {200}
