"""Commands beside a running sidecar, and those that need none."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.consul import ConsulAgent
from tests.harness.load import Load
from tests.harness.nginx import NginxServer
from tests.harness.ports import free_port
from tests.harness.process import wait_steady, wait_until
from tests.harness.sidecar import Sidecar
from tests.integration.certificates import Authority
from tests.integration.site import Site
from tests.integration.waiting import HOST, until

NOWHERE = "127.0.0.1:1"
"""Nobody answers there as Consul."""


@pytest.fixture
def site(consul: ConsulAgent, any_nginx: NginxServer, any_sidecar: Sidecar) -> Iterator[Site]:
    """A running sidecar that serves one service in generation 1."""
    site = Site(consul, any_nginx, any_sidecar, Authority())
    site.register("web", site.app("web-1"), f"route={HOST}", id="web-1")
    site.sidecar.start()
    yield site
    site.close()


def proxygen(site: Site, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return site.sidecar.command(*map(str, arguments))


def served(site: Site, host: str, status: int = 200) -> None:
    wait_steady(lambda: site.ask(host).status == status, what=f"{host} answered with {status}")


def make_generations(site: Site, count: int) -> None:
    """Let so many generations be live one after the other: number 2 adds new2.example.com, and so on."""
    for number in range(2, count + 1):
        site.register(f"new{number}", site.apps[0], f"route=new{number}.example.com")
        wait_until(lambda number=number: site.sidecar.generation() == number, what=f"generation {number}")
        wait_until(lambda number=number: site.sidecar.applies() == number, what=f"generation {number} proven")


# --- status ---------------------------------------------------------------------------------------------------------


def test_status_shows_what_is_served_and_what_is_not(site: Site) -> None:
    site.register("bad", site.apps[0], "route=bad.example.com", "weight=heavy")
    # Its host answers 503 from then on.
    wait_until(lambda: site.sidecar.proven() == [1, 2], what="the quarantine")
    shown = proxygen(site, "status")
    assert shown.returncode == 0
    assert "ready" in shown.stdout
    assert f"{HOST}/" in shown.stdout
    assert "weight" in shown.stdout.partition("quarantined")[2]
    report: Any = json.loads(proxygen(site, "status", "--json").stdout)
    assert report["state"] == "ready"
    assert report["live"]["number"] == site.sidecar.generation()
    assert [item["service"] for item in report["quarantined"]] == ["bad"]
    (instance,) = next(item for item in report["services"] if item["name"] == "web")["variants"][0]["instances"]
    assert (instance["address"], instance["state"]) == (site.apps[0].address, "serving")
    assert report["nginx"]["master"] == site.nginx.pid


def test_a_degraded_sidecar_is_exit_1(site: Site, tmp_path: Path) -> None:
    make_generations(site, 2)
    assert proxygen(site, "rollback").returncode == 0
    shown = proxygen(site, "status")
    assert shown.returncode == 1
    assert "degraded" in shown.stdout
    assert "proxygen release-hold" in shown.stdout


# --- generations ------------------------------------------------------------------------------------------------------


def test_a_rollback_holds_new_plans_until_it_is_released(site: Site) -> None:
    make_generations(site, 3)
    back = proxygen(site, "rollback")
    assert (back.returncode, back.stdout.partition(" (")[0]) == (0, "applied generation 2")
    served(site, "new3.example.com", 404)
    served(site, "new2.example.com")
    site.register("late", site.apps[0], "route=late.example.com")
    wait_until(lambda: any("late" in str(item) for item in site.sidecar.status()["services"]), what="the plan held")
    assert site.ask("late.example.com").status == 404
    assert site.sidecar.generation() == 2
    assert "generation 2" in site.sidecar.status()["hold"]["reason"]
    released = proxygen(site, "release-hold")
    assert released.returncode == 0
    assert released.stdout.startswith("applied generation 4")
    served(site, "late.example.com")
    served(site, "new3.example.com")
    assert site.sidecar.status()["hold"] is None


def test_a_rollback_outlives_the_sidecar(site: Site) -> None:
    """Whoever restarts it must not undo what the operator decided."""
    make_generations(site, 2)
    assert proxygen(site, "rollback", "1").returncode == 0
    site.sidecar.stop()
    site.sidecar.start(ready=False)
    wait_until(lambda: site.sidecar.status()["hold"] is not None, what="the hold after the restart")
    # There is a plan to let through only once Consul was read.
    wait_until(lambda: "new2.example.com" in str(site.sidecar.status()["services"]), what="the plan that is held")
    assert site.sidecar.generation() == 1
    assert site.ask("new2.example.com").status == 404
    assert proxygen(site, "release-hold").returncode == 0
    served(site, "new2.example.com")


@pytest.mark.incident("T60")
def test_while_rolled_back_everybody_tells_first_what_nginx_serves(site: Site) -> None:
    """Also after a restart, when nobody remembers the plan behind the old generation. What is asked for waits."""
    site.register("web", site.app("web-2"), f"route={HOST}", "canary=10%")
    wait_until(lambda: "10.00%" in site.live(), what="the share in the tags")
    old = site.sidecar.generation()
    site.override("web", '{"canary": "30%"}')
    wait_until(lambda: site.sidecar.generation() != old, what="a generation to go back from")
    assert proxygen(site, "rollback", str(old)).returncode == 0
    done = proxygen(site, "canary", "set", "web", "50%")
    assert "canary 10%" in done.stdout.splitlines()[-1]
    assert "to which an operator went back" in done.stderr
    for restarted in (False, True):
        if restarted:
            site.sidecar.stop()
            site.sidecar.start(ready=False)
        canary = {"asked": 5000, "effective": 1000, "waiting": 5000}
        wait_until(lambda canary=canary: canary.items() <= _canary(site).items(), what="both shares")  # type: ignore[misc]
        told = proxygen(site, "status").stdout
        assert f"nginx serves generation {old}, to which an operator went back" in told
        assert "10% (waiting 50%)" in told
        shown = proxygen(site, "canary", "show", "web")
        assert "canary 10%" in shown.stdout.splitlines()[0]
        assert shown.stdout.splitlines()[-1].split() == ["canary", "50%", "10%", "50%"]
        page = site.sidecar.page()
        assert "waiting 50 %" in page
        assert "to which an operator went back" in page
    assert proxygen(site, "release-hold").returncode == 0
    wait_until(lambda: _canary(site)["effective"] == 5000, what="the share that was asked for")
    assert "went back" not in proxygen(site, "canary", "show", "web").stderr


def _canary(site: Site) -> dict[str, Any]:
    """What is told of the canary; nothing before the sidecar knows of it."""
    variants = (each for one in site.sidecar.request("/api/v1/services")[1] for each in one["variants"])
    return next((each for each in variants if each["name"] == "canary"), {})


def test_a_rollback_to_any_generation(site: Site) -> None:
    make_generations(site, 4)
    assert proxygen(site, "rollback", "2").returncode == 0
    assert site.ask("new2.example.com").status == 200
    assert site.ask("new3.example.com").status == 404
    assert proxygen(site, "rollback", "4").returncode == 0
    assert site.ask("new4.example.com").status == 200


def test_a_rollback_that_leads_nowhere_is_refused(site: Site) -> None:
    unknown = proxygen(site, "rollback", "77")
    assert unknown.returncode == 1
    assert "there is no generation 77" in unknown.stderr
    nothing = proxygen(site, "release-hold")
    assert nothing.returncode == 1
    assert "nothing is held" in nothing.stderr
    assert site.ask(HOST).status == 200


def test_history_lists_the_generations_newest_first(site: Site) -> None:
    make_generations(site, 3)
    assert proxygen(site, "rollback", "2").returncode == 0
    rows = [line.split()[:2] for line in proxygen(site, "history").stdout.splitlines()[1:]]
    assert rows == [["3", "proven"], ["2", "live"], ["1", "proven"]]
    reports = json.loads(proxygen(site, "history", "--json").stdout)
    assert [(report["number"], report["live"]) for report in reports] == [(3, False), (2, True), (1, False)]


# --- render, check, diff, snapshot ----------------------------------------------------------------------------------


def test_a_snapshot_renders_to_the_live_bytes_without_consul_or_sidecar(site: Site, tmp_path: Path) -> None:
    site.register("web", site.app("web-2"), f"route={HOST}", "canary=12.5%")
    site.register("db", site.apps[0], "protocol=tcp", f"listen={free_port()}")
    site.override("web", '{"canary": "20%"}')
    wait_until(lambda: "20.00%" in site.live() and "db" in site.live(), what="all of it live")
    taken = proxygen(site, "snapshot", "-o", tmp_path / "now.json")
    assert taken.returncode == 0
    document = json.loads((tmp_path / "now.json").read_text())
    assert document["kv"] == {"proxygen/canary/web": '{"canary": "20%"}'}
    site.sidecar.stop()
    files = ("--catalog", tmp_path / "now.json", "--consul-address", NOWHERE)
    rendered = proxygen(site, "render", *files, "--output", tmp_path / "out")
    assert (rendered.returncode, rendered.stderr) == (0, "")
    assert _files(tmp_path / "out") == _files(site.sidecar.output / "current")
    for command in ("check", "diff"):
        assert proxygen(site, command, *files).returncode == 0
    printed = proxygen(site, "render", *files, "--service", "web").stdout
    assert site.apps[1].address in printed
    assert "db" not in printed


def test_render_never_writes_into_the_live_output(site: Site) -> None:
    before = _files(site.sidecar.output)
    for target in ("", "current", "current/http.d", "generations/000001", "new"):
        refused = proxygen(site, "render", "--output", site.sidecar.output / target)
        assert refused.returncode == 2
        assert "lies in the live output directory" in refused.stderr
    assert proxygen(site, "render").returncode == 0
    assert _files(site.sidecar.output) == before


def test_render_names_the_routed_services_where_the_asked_one_is_none(site: Site) -> None:
    refused = proxygen(site, "render", "--service", "nobody")
    assert refused.returncode == 2
    assert "routed are: web" in refused.stderr


@pytest.mark.parametrize("content", [None, "", "{}", '{"services": []}', "[1, 2"])
def test_a_catalog_file_that_is_none_is_exit_2(site: Site, tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "catalog.json"
    if content is not None:
        file.write_text(content)
    for command in ("render", "check", "diff"):
        refused = proxygen(site, command, "--catalog", file)
        assert refused.returncode == 2
        assert refused.stderr.count("\n") == 1


def test_check_names_what_is_quarantined(site: Site) -> None:
    clean = proxygen(site, "check")
    assert (clean.returncode, clean.stdout) == (0, "1 services pass, 0 quarantined, 0 conflicts\n")
    site.register("bad", site.apps[0], "route=bad.example.com/{")
    site.register("rival", site.apps[0], f"route={HOST}")
    said = proxygen(site, "check")
    assert said.returncode == 1
    assert said.stdout == "2 services pass, 1 quarantined, 1 conflicts\n"
    assert "quarantined" in said.stderr
    assert "bad" in said.stderr
    assert f"service rival does not get {HOST}/: held by service web" in said.stderr


def test_diff_shows_what_a_release_would_change(site: Site) -> None:
    make_generations(site, 2)
    same = proxygen(site, "diff")
    assert (same.returncode, same.stdout) == (0, "0 files change against generation 2: 0 lines added, 0 removed\n")
    assert proxygen(site, "rollback", "1").returncode == 0
    changed = proxygen(site, "diff")
    assert changed.returncode == 1
    assert "+    server_name new2.example.com;" in changed.stdout
    assert "against generation 1" in changed.stdout.splitlines()[-1]


# --- the operator's levers in Consul ----------------------------------------------------------------------------------


async def test_the_canary_lever_is_seen_in_the_measured_split(site: Site) -> None:
    """Set, promoted and aborted: each within three standard deviations of what was asked, and nothing fails."""
    canary = await asyncio.to_thread(site.app, "canary-1")
    site.register("web", canary, f"route={HOST}", "canary=10%")
    await until(lambda: "10.00%" in site.live(), "the share in the tags")
    for arguments, share in (
        (("set", "web", "30%"), 0.3),
        (("promote", "web"), 1.0),
        (("set", "web", "12.5"), 0.125),
        (("abort", "web"), 0.0),
    ):
        applies = site.sidecar.applies()
        done = await asyncio.to_thread(proxygen, site, "canary", *arguments)
        assert done.returncode == 0, done.stderr
        await until(lambda applies=applies: site.sidecar.applies() > applies, "the share applied")
        tally = await Load("127.0.0.1", site.sidecar.http, headers={"Host": HOST}, keepalive=True).send(2000)
        assert tally.failed == 0
        measured = tally.share(lambda name: name == "canary-1")
        assert abs(measured - share) <= 3 * (share * (1 - share) / 2000) ** 0.5
    shown = await asyncio.to_thread(proxygen, site, "canary", "show", "web")
    assert shown.stdout.splitlines()[1].split() == ["canary", "0%", "10%", "0%"]


def test_tags_set_on_a_live_registration_reach_nginx(site: Site) -> None:
    done = proxygen(site, "tags", "set", "web-1", "route=other.example.com/api", "strip-prefix=true")
    assert done.returncode == 0, done.stderr
    wait_steady(lambda: site.ask("other.example.com", "/api/x").status == 200, what="the new route")
    assert site.ask("other.example.com", "/api/x").seen["path"] == "/x"
    unknown = proxygen(site, "tags", "set", "nobody", "canary=5%")
    assert unknown.returncode == 2
    wrong = proxygen(site, "tags", "set", "web-1", "weight=heavy")
    assert wrong.returncode == 1
    assert "nothing was sent" in wrong.stderr
    assert site.ask("other.example.com", "/api/x").status == 200


def _files(directory: Path) -> dict[str, bytes]:
    """Every file that nginx would read, but for the stamp, which no two generations share."""
    found = {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*.conf")}
    return {name: content for name, content in found.items() if not name.endswith("90-stamp.conf")}
