from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from proxygen.proxy.admin.report import (
    ApplyReport,
    ConditionReport,
    ConsulReport,
    HoldReport,
    KeptInstanceReport,
    State,
    StatusReport,
)
from proxygen.proxy.admin.server import serving
from proxygen.proxy.admin.service_report import ConflictReport
from proxygen.settings import AdminSettings
from tests.cli.conftest import Proxygen
from tests.proxy.admin.sidecar import STATUS, RememberingSidecar


@pytest.fixture
def sidecar(short_directory: Path) -> Iterator[RememberingSidecar]:
    """A sidecar that answers on the unix socket of ``short_directory``, in a thread of its own."""
    remembering = RememberingSidecar()
    started, loop = threading.Event(), asyncio.new_event_loop()
    ended = asyncio.Event()

    async def serve() -> None:
        async with serving(remembering, AdminSettings(listen="off"), short_directory):
            started.set()
            await ended.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert started.wait(10)
    yield remembering
    loop.call_soon_threadsafe(ended.set)
    thread.join(10)
    loop.close()


def test_status_shows_state_shares_and_what_is_left_out(
    proxygen: Proxygen, sidecar: RememberingSidecar, short_directory: Path
) -> None:
    ended = proxygen("status", "--output", str(short_directory))
    assert (ended.code, ended.err) == (0, "")
    for fact in ("ready", "42 since 2026-01-01", "applied generation 42 (0.50s)", "127.0.0.1:8500", "1.22.1"):
        assert fact in ended.out
    rows = [line.split() for line in ended.out.splitlines()]
    assert ["web", "canary", "0%", "(asked", "10%)", "1/1", "app.example.com/"] in rows
    assert ["stable", "100%", "(asked", "90%)", "0/0"] in rows
    assert "evil\\nname" in ended.out


def test_status_as_json_is_the_whole_report(
    proxygen: Proxygen, sidecar: RememberingSidecar, short_directory: Path
) -> None:
    body = json.loads(proxygen("status", "--json", "--output", str(short_directory)).out)
    assert set(body) == set(StatusReport.__dataclass_fields__)


@pytest.mark.parametrize("state", [State.STARTING, State.DEGRADED])
def test_status_that_is_not_ready_is_code_1_and_says_why(
    proxygen: Proxygen, sidecar: RememberingSidecar, short_directory: Path, state: State
) -> None:
    sidecar.report = replace(
        STATUS,
        state=state,
        reasons=("Consul has not answered",),
        live=None,
        last_apply=None,
        consul=ConsulReport(address="c:1", problem="connection refused"),
        hold=HoldReport(
            reason="all services vanished",
            since="2026-01-01",
            instances=(KeptInstanceReport(service="shop", node="n1", id="shop-7", address="192.0.2.7:80"),),
        ),
    )
    ended = proxygen("status", "--output", str(short_directory))
    assert ended.code == 1
    for fact in (state, "Consul has not answered", "none is live", "never answered; connection refused", "vanished"):
        assert fact in ended.out
    assert ["shop", "n1", "shop-7", "192.0.2.7:80"] in [line.split() for line in ended.out.splitlines()]


def test_status_and_top_say_the_same_of_the_same_sidecar(
    proxygen: Proxygen, sidecar: RememberingSidecar, short_directory: Path
) -> None:
    kept = KeptInstanceReport(service="shop", node="n1", id="shop-7", address="192.0.2.7:80")
    sidecar.report = replace(
        STATUS,
        state=State.DEGRADED,
        reasons=("the last apply was rejected: no",),
        last_apply=ApplyReport(outcome="rejected", reason="no", cause="web changed", durations={"check": 0.5}),
        consul=ConsulReport(address="c:1", freshness=2.5, problem="connection refused"),
        conflicts=(ConflictReport(route="app.example.com/", holder="web", loser="shop"),),
        hold=HoldReport(reason="all services vanished", since="2026-01-01", instances=(kept,)),
        conditions=(ConditionReport(topic="settings", text="the newest settings are refused"),),
        warnings=("nginx is old",),
    )
    status, top = (
        proxygen(*command, "--output", str(short_directory)).out for command in (("status",), ("top", "--once"))
    )
    facts = [re.split(r": +", line, maxsplit=1)[1] for line in _paragraph(status)[1:]]
    assert [fact for fact in facts if fact not in top] == []
    for cells in (
        (r"evil\nname", "proxygen.route=;", "no host"),
        ("app.example.com/", "web", "shop"),
        ("shop", "n1", "shop-7", "192.0.2.7:80"),
    ):
        for said in (status, top):
            assert any(all(cell in line for cell in cells) for line in said.splitlines()), (cells, said)
    assert "web changed" in status
    assert all(share in said for share in ("0% (asked 10%)", "100% (asked 90%)") for said in (status, top))


def _paragraph(text: str) -> list[str]:
    return text.partition("\n\n")[0].splitlines()


@pytest.mark.parametrize("command", ["status", "rollback", "release-hold"])
def test_without_a_sidecar_is_code_1_and_one_line(command: str, proxygen: Proxygen, short_directory: Path) -> None:
    ended = proxygen(command, "--output", str(short_directory), "--admin-listen", "off")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith("proxygen: no sidecar answers")
    assert ended.err.count("\n") == 1


def test_rollback_names_the_generation_or_leaves_it_to_the_sidecar(
    proxygen: Proxygen, sidecar: RememberingSidecar, short_directory: Path
) -> None:
    assert proxygen("rollback", "7", "--output", str(short_directory)).out == "applied generation 7\n"
    assert proxygen("rollback", "--output", str(short_directory)).out == "applied generation 41\n"
    assert sidecar.rollbacks == [7, None]
    assert proxygen("rollback", "0", "--output", str(short_directory)).code == 2
    refused = proxygen("rollback", "13", "--output", str(short_directory))
    assert refused.code == 1
    assert "there is no generation 13" in refused.err


def test_release_hold_is_code_1_when_nothing_is_held(
    proxygen: Proxygen, sidecar: RememberingSidecar, short_directory: Path
) -> None:
    sidecar.held = True
    assert proxygen("release-hold", "--output", str(short_directory)).code == 0
    ended = proxygen("release-hold", "--output", str(short_directory))
    assert ended.code == 1
    # Before it stands the audit line of the sidecar, which is this process here.
    assert ended.err.splitlines()[-1] == "proxygen: nothing is held"
