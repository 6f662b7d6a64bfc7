"""What the sidecar says of nginx's requests, beside what clients saw; everything is real."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.harness import process
from tests.harness.app import App
from tests.harness.consul import ConsulAgent
from tests.harness.load import Load
from tests.harness.nginx import NginxServer
from tests.harness.sidecar import Sidecar
from tests.integration.site import LAYOUTS, Site

HOST = "web.example.com"
REQUESTS = 300
"""Few enough for a busy machine to answer them all within the minute of which the figures tell."""
QUEUE = 10
"""Lines that the kernel keeps for a socket by default; of more a busy machine may lose some."""
BATCH = QUEUE // 2
"""Lines of which even a machine that stands still loses none."""


def heard(sidecar: Sidecar, service: str) -> dict[str, Any]:
    """The traffic of each variant that was heard of; "" is what nginx answered by itself."""
    detail = sidecar.request(f"/api/v1/services/{service}")[1]
    found = {variant["name"]: variant["traffic"] for variant in detail["variants"]} | {"": detail["unserved"]}
    return {name: traffic for name, traffic in found.items() if traffic is not None}


def until_heard(
    sidecar: Sidecar, service: str, requests: int, *, lost: Callable[[], int] = lambda: 0
) -> dict[str, Any]:
    """Wait until that many were told of. ``lost`` is how many of them are known to be lost until now."""

    def is_all() -> bool:
        return sum(float(traffic["requests"]) for traffic in heard(sidecar, service).values()) + lost() >= requests

    process.wait_until(is_all, what=f"{requests} requests heard of")
    return heard(sidecar, service)


def until_heard_or_lost(sidecar: Sidecar, service: str, requests: int) -> None:
    """Of a sidecar that heard of nothing else: where the kernel's queue is as short as it is by default, a busy
    machine loses some."""
    until_heard(sidecar, service, requests, lost=lambda: int(state(sidecar)["lost"]))


def ask(site: Site, service: str, requests: int) -> list[str]:
    """The instances that answered; the sidecar is told of each request, since no queue is too short for a batch."""
    seen: list[str] = []
    while len(seen) < requests:
        expected = told(site.sidecar) + (batch := min(BATCH, requests - len(seen)))
        seen += site.who(f"{service}.example.com", batch)
        process.wait_until(lambda: told(site.sidecar) >= expected, what="the lines")  # noqa: B023
    return seen


def until_planned(sidecar: Sidecar) -> None:
    """Until then nobody can say what a line is about."""
    process.wait_until(lambda: sidecar.request("/api/v1/services/web")[0] == 200, what="the plan after a restart")


def state(sidecar: Sidecar) -> dict[str, Any]:
    found: dict[str, Any] = sidecar.status()["traffic"]
    return found


def told(sidecar: Sidecar) -> int:
    """How many lines came, or are known to be lost."""
    found = state(sidecar)
    return int(found["counted"] + found["lost"])


# --- the same on every nginx and layout


def test_figures_are_the_clients_own_counts(site: Site) -> None:
    """Requests, statuses and the division between variants: exact where nothing was dropped, and never more."""
    before = state(site.sidecar)["lost"]
    site.register("counted", site.app("counted-1"), "route=counted.example.com")
    site.register("counted", (canary := site.app("counted-2")), "route=counted.example.com", "canary=25%")
    site.until_served(canary)
    seen: Counter[tuple[str, int]] = Counter()
    missed, slowest = [float(REQUESTS)], 0.0
    told_before = told(site.sidecar)

    def all_told() -> bool:
        figures = heard(site.sidecar, "counted").values()
        missed[:] = [state(site.sidecar)["lost"] - before]
        return bool(sum(each["requests"] for each in figures) + missed[0] == REQUESTS)

    with site.client() as client:
        for number in range(REQUESTS):
            asked = time.monotonic()
            answer = client.ask("counted.example.com", "/?status=500" if number % 10 == 0 else "/")
            slowest = max(slowest, time.monotonic() - asked)
            seen["canary" if answer.instance == "counted-2" else "stable", answer.status] += 1
            if number % QUEUE == QUEUE - 1:
                process.wait_until(lambda: told(site.sidecar) > told_before + number, what="the lines")  # noqa: B023
    process.wait_until(all_told, what="told and lost lines together")
    assert missed[0] <= REQUESTS / 50
    traffic = heard(site.sidecar, "counted")
    assert traffic.keys() == {"stable", "canary"}
    unit = 10_000 / REQUESTS
    for name, figures in traffic.items():
        own = {f"{status // 100}xx": count for (variant, status), count in seen.items() if variant == name}
        assert figures["classes"].keys() == own.keys()
        assert all(0 <= own[kind] - count <= missed[0] for kind, count in figures["classes"].items())
        assert (figures["requests"], figures["errors"]) == (sum(figures["classes"].values()), figures["classes"]["5xx"])
        assert figures["share"] == pytest.approx(sum(own.values()) * unit, abs=1 + unit * missed[0])
        # They are known to a class of lengths of time, of which the next is up to three times as long.
        assert 0 < figures["p50"] <= figures["p95"] <= figures["p99"] < max(0.1, 3 * slowest)


@LAYOUTS
def test_one_variant_behind_a_host_of_its_own_is_counted(site: Site) -> None:
    """In a virtual server that hosts share, the map says who it was."""
    for number in range(3):
        site.register(f"alone{number}", site.app(f"alone-{number}"), f"route=alone{number}.example.com")
    site.until("alone0.example.com", "alone1.example.com", "alone2.example.com")
    for number in range(3):
        ask(site, f"alone{number}", 5 + number)
        assert until_heard(site.sidecar, f"alone{number}", 5 + number)["stable"]["requests"] == 5 + number


def test_what_nginx_answers_by_itself_is_no_variants(site: Site) -> None:
    site.register("shut", site.app("shut-1"), "route=shut.example.com", "deny=127.0.0.1")
    site.until("shut.example.com")
    assert site.ask("shut.example.com").status == 403
    traffic = until_heard(site.sidecar, "shut", 1)
    assert traffic.keys() == {""}
    assert traffic[""]["classes"] == {"4xx": 1}


def test_a_request_that_two_servers_were_asked_for_counts_once(site: Site) -> None:
    site.register("tired", (dead := site.app("tired-1")), "route=tired.example.com", "max-fails=0", "retries=2")
    site.register("tired", (alive := site.app("tired-2")), "route=tired.example.com", "max-fails=0", "retries=2")
    site.until_served(dead, alive)
    dead.stop()
    ask(site, "tired", 20)
    stable = until_heard(site.sidecar, "tired", 20)["stable"]
    assert stable["requests"] == 20
    assert stable["retried"] == 10


def test_a_canary_that_nginx_passes_over_is_seen_by_who_stands_in(site: Site) -> None:
    """After its first failure nginx does not even ask it: no error, no retry, and stable's answers in its place."""
    site.register("faint", stable := site.app("faint-1"), "route=faint.example.com")
    site.register("faint", canary := site.app("faint-2"), "route=faint.example.com", "canary=50%")
    site.until_served(stable, canary)
    ask(site, "faint", 100)
    heard = until_heard(site.sidecar, "faint", 100)
    assert heard["canary"]["backed_up"] == 0
    canary.stop()
    assert set(ask(site, "faint", 100)) == {"faint-1"}
    heard = until_heard(site.sidecar, "faint", 200)
    before, after = heard["canary"]["requests"], heard["canary"]["backed_up"]
    assert after > 20
    assert heard["canary"]["errors"] == 0
    # One for each worker, and perhaps one more where the first window ends.
    assert heard["canary"]["retried"] < after / 2
    assert heard["stable"]["backed_up"] == 0
    assert before > after


def test_no_request_forges_a_line(site: Site) -> None:
    """Whatever a client writes into path, headers, method or host, it is not in what the sidecar is told."""
    site.register("forged", site.app("forged-1"), "route=forged.example.com")
    site.until("forged.example.com")
    before = state(site.sidecar)
    for evil in (
        "GET /%0a<190>proxygen:%2010000%20http://x%20200%200.1 HTTP/1.1\r\nHost: forged.example.com\r\n",
        'GET /?q="10000 HTTP/1.1\r\nHost: forged.example.com\r\nUser-Agent: : 1 svc_x 200 0.1\r\n',
        "G: 1 svc 200 0.1 / HTTP/1.1\r\nHost: forged.example.com\r\n",
        "GET / HTTP/1.1\r\nHost: forged.example.com: 10000 svc 200\r\n",
        "GET / HTTP/1.1\r\nHost: forged.example.com\r\nproxygen_upstream: svc_x\r\nX: \x01\x02\xff\r\n",
    ):
        with socket.create_connection(("127.0.0.1", site.sidecar.http), timeout=5) as connection:
            connection.sendall(f"{evil}Connection: close\r\n\r\n".encode("latin-1"))
            while connection.recv(4096):
                pass
    site.who("forged.example.com", 1)
    traffic = until_heard(site.sidecar, "forged", 1)
    after = state(site.sidecar)
    assert (after["malformed"], after["unknown"]) == (before["malformed"], before["unknown"])
    assert traffic.keys() == {"stable"}
    assert traffic["stable"]["requests"] <= 6


def test_the_operators_own_log_goes_on(site: Site) -> None:
    """A log beside it must not end the one that nginx.conf names."""
    site.register("logged", site.app("logged-1"), "route=logged.example.com")
    site.until("logged.example.com")
    site.ask("logged.example.com", "/to-be-found")
    log = site.nginx.directory / "access.log"
    process.wait_until(lambda: "/to-be-found" in log.read_text(), what="the request in the operator's log")


# --- what happens to the sidecar must not happen to nginx


@pytest.fixture
def apps() -> Any:
    with App("stable-1") as stable, App("canary-1") as canary:
        yield stable, canary


@pytest.fixture
def start(
    consul: ConsulAgent,
    any_nginx: NginxServer,
    make_sidecar: Callable[..., Sidecar],
    apps: tuple[App, App],
) -> Callable[..., tuple[NginxServer, Sidecar]]:
    """One service of two variants, and a sidecar with these settings."""

    def begin(**traffic: object) -> tuple[NginxServer, Sidecar]:
        sidecar = make_sidecar(consul, any_nginx, **{f"traffic__{name}": value for name, value in traffic.items()})
        consul.register("web", port=apps[0].port, tags=[f"proxygen.route={HOST}"])
        consul.register("web", port=apps[1].port, tags=[f"proxygen.route={HOST}", "proxygen.canary=10%"])
        sidecar.start()
        return any_nginx, sidecar

    return begin


async def send(sidecar: Sidecar, requests: int, *, clients: int = 2) -> None:
    tally = await Load("127.0.0.1", sidecar.http, headers={"Host": HOST}, clients=clients).send(requests)
    assert (tally.ok, tally.failed) == (requests, 0)


async def test_nginx_neither_waits_nor_complains_without_a_sidecar_and_figures_go_on_with_the_next(
    start: Callable[..., tuple[NginxServer, Sidecar]],
) -> None:
    """Stopped or killed: nginx would write an alert for each request that it cannot tell of."""
    nginx, sidecar = start()
    await send(sidecar, 100)
    until_heard_or_lost(sidecar, "web", 100)
    for end in (sidecar.stop, sidecar.kill):
        end()
        before = nginx.errors()
        await send(sidecar, 100)
        assert "syslog" not in nginx.errors()[len(before) :]
        sidecar.start()
        until_planned(sidecar)
        # In batches that no queue is too short for.
        for number in range(1, 100 // BATCH + 1):
            await send(sidecar, BATCH)
            until_heard_or_lost(sidecar, "web", number * BATCH)
        # Each worker's first line still goes to the socket that is gone.
        assert state(sidecar)["counted"] >= 90


async def test_what_a_sidecar_that_stands_still_misses_is_counted(
    start: Callable[..., tuple[NginxServer, Sidecar]],
) -> None:
    """Its socket's queue fills, nginx drops line after line and delays no request; its error log has the number."""
    _, sidecar = start()
    await send(sidecar, 50)
    until_heard_or_lost(sidecar, "web", 50)
    os.kill(sidecar.pid, signal.SIGSTOP)
    try:
        # A request that waited for it would never be answered.
        await send(sidecar, 1500)
    finally:
        os.kill(sidecar.pid, signal.SIGCONT)

    def all_told() -> bool:
        found = state(sidecar)
        return found["lost"] is not None and found["lost"] > 0 and found["counted"] + found["lost"] == 1550

    process.wait_until(all_told, what="counted and lost lines together")
    assert state(sidecar)["full"] >= 1


async def test_a_sample_is_scaled_back(start: Callable[..., tuple[NginxServer, Sidecar]]) -> None:
    """Within five standard deviations of a binomial sample, for all requests and for each variant alike."""
    _, sidecar = start(sample=20)
    await send(sidecar, 2000)
    seen: list[Any] = []

    def is_told() -> bool:
        # The last lines may still come between the two answers, and after them.
        seen[:] = heard(sidecar, "web"), state(sidecar)["counted"]
        traffic, lines = seen
        is_a_fifth = abs(lines - 400) < 5 * (2000 * 0.2 * 0.8) ** 0.5
        return is_a_fifth and sum(figures["requests"] for figures in traffic.values()) == lines * 5

    await asyncio.to_thread(process.wait_until, is_told, what="a fifth of the lines")
    traffic, lines = seen
    assert abs(traffic["canary"]["share"] / 10_000 - 0.1) < 5 * (0.1 * 0.9 / lines) ** 0.5


async def test_without_a_sample_nothing_of_it_is_there(
    start: Callable[..., tuple[NginxServer, Sidecar]], tmp_path: Path
) -> None:
    nginx, sidecar = start(sample=0)
    await send(sidecar, 10)
    assert heard(sidecar, "web") == {}
    assert not list(nginx.output.glob("traffic*"))
    written = "".join(path.read_text() for path in (nginx.output / "current").glob("http.d/*.conf"))
    assert "proxygen_upstream" not in written
