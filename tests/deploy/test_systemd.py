"""The page's installation on a fresh host, word for word, and what systemd then makes of restarts, stops and reboots.

The tests share one host, and each leaves it serving.
"""

from __future__ import annotations

import asyncio
import json
import re

import pytest

from tests.harness.systemd_host import ROOT, SystemdHost
from tests.harness.systemd_site import CHECKOUT, SETTINGS, drop_in, get, nothing_fails, wait, wait_ready

pytestmark = pytest.mark.slow


async def systemctl(host: SystemdHost, *arguments: str) -> None:
    await asyncio.to_thread(host.systemctl, *arguments)


@pytest.fixture(scope="module")
def host(installed_host: SystemdHost) -> SystemdHost:
    return installed_host


def test_the_page_leads_to_a_served_request(host: SystemdHost) -> None:
    assert get(host) == 200
    assert host.wait_until_booted() == "running", host.systemctl("--failed")
    assert host.show("proxygen", "StatusText").startswith("ready; generation ")
    assert host.show("proxygen", "NRestarts") == "0"


def install_units(host: SystemdHost) -> None:
    host.shell(f"install -m 644 {CHECKOUT}/deploy/systemd/*.service /etc/systemd/system/")


def test_systemd_finds_no_fault_in_the_units(host: SystemdHost) -> None:
    install_units(host)
    for name in units():
        assert host.run("systemd-analyze", "verify", f"/etc/systemd/system/{name}") == ""


def units() -> list[str]:
    return sorted(path.name for path in (ROOT / "deploy" / "systemd").glob("*.service"))


@pytest.mark.parametrize("unit", ["proxygen", "proxygen-network", "proxygen-registrator"])
def test_no_unit_is_more_exposed_than_the_page_says(host: SystemdHost, unit: str) -> None:
    """``systemd-analyze security``: 0 is a service that may nothing, 10 one that may all."""
    page = (ROOT / "docs" / "how-to" / "run-under-systemd.md").read_text(encoding="utf-8")
    named = re.search(rf"^\| `{unit}\.service` .*\| (\d\.\d) \|$", page, re.MULTILINE)
    assert named, f"no score of {unit} on the page"
    install_units(host)
    said = host.run("systemd-analyze", "--no-pager", "security", f"{unit}.service", check=False)
    found = re.search(r"Overall exposure level for \S+: (\d+\.\d)", said)
    assert found, said[-500:]
    assert float(found[1]) <= float(named[1])


_PROBE = """\
import json, os, pathlib

def attempt(do):
    try:
        do()
    except OSError as error:
        return type(error).__name__
    return "done"

def fields(*names):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines) if name in names}

pathlib.Path("/var/lib/proxygen/probe.json").write_text(json.dumps({
    "status": fields("CapBnd", "CapEff", "CapAmb", "NoNewPrivs", "Seccomp"),
    "uid": os.getuid(),
    "logs": sorted(os.listdir("/var/log")),
    "shadow": attempt(lambda: open("/etc/shadow").close()),
    "conf": attempt(lambda: open("/etc/nginx/conf.d/mine.conf", "w").close()),
    "own settings": attempt(lambda: open("/etc/proxygen/proxygen.toml", "a").close()),
    "nginx's real log": attempt(lambda: open("/var/log/nginx-itself/error.log", "a").close()),
    "nginx's real log, read": attempt(lambda: open("/var/log/nginx-itself/error.log").close()),
    "a log for nginx -t": attempt(lambda: open("/var/log/nginx/access.log", "a").close()),
    "home": attempt(lambda: os.listdir("/root")),
    "chown": attempt(lambda: os.chown("/var/lib/proxygen/probe.json", 0, 0)),
}))
"""


def test_the_sidecar_may_what_it_needs_and_nothing_else(host: SystemdHost) -> None:
    """As a program sees it that systemd starts beside it, in the same sandbox."""
    host.write("/opt/probe.py", _PROBE)
    drop_in(host, "probe", "[Service]\nExecStartPost=/usr/bin/python3 /opt/probe.py\n")
    host.systemctl("restart", "proxygen")
    drop_in(host, "probe", "")
    seen = json.loads(host.read("/var/lib/proxygen/probe.json"))
    kill_and_bind = f"{1 << 5 | 1 << 10:016x}"
    assert seen.pop("status") == {
        "CapBnd": kill_and_bind,
        "CapEff": kill_and_bind,
        "CapAmb": kill_and_bind,
        "NoNewPrivs": "1",
        "Seccomp": "2",
    }
    assert seen.pop("uid") == int(host.run("id", "-u", "proxygen"))
    assert seen == {
        "logs": ["nginx", "nginx-itself"],
        "shadow": "PermissionError",
        "conf": "OSError",  # a read-only file system
        "own settings": "PermissionError",
        "nginx's real log": "PermissionError",
        "nginx's real log, read": "done",
        "a log for nginx -t": "done",
        "home": "PermissionError",
        "chown": "PermissionError",
    }


def test_a_reload_takes_new_settings_and_keeps_those_before_where_they_are_wrong(host: SystemdHost) -> None:
    before, settings = host.show("proxygen", "MainPID"), host.read("/etc/proxygen/proxygen.toml")
    _reload_with(host, settings + "\n[output]\nkeep = 0\n", "settings refused, the old ones stay: output.keep = 0")
    _reload_with(host, settings + "\n[output]\nkeep = 12\n", "ready; generation ")
    _reload_with(host, settings + "\n", "ready; generation ")
    assert "settings changed keys=['output.keep']" in host.journal("proxygen")
    assert host.show("proxygen", "MainPID") == before


def _reload_with(host: SystemdHost, settings: str, expected: str) -> None:
    host.run("tee", SETTINGS, stdin=settings)
    host.systemctl("reload", "proxygen")
    try:
        wait(lambda: host.show("proxygen", "StatusText").startswith(expected), expected)
    except TimeoutError as error:
        raise TimeoutError(f"{error}: {host.show('proxygen', 'StatusText')}") from error
    wait(lambda: host.is_active("proxygen"), "the unit active again")


async def test_a_restart_under_load_loses_nothing(host: SystemdHost) -> None:
    before = host.show("proxygen", "MainPID")
    async with nothing_fails(host):
        for _ in range(3):
            await systemctl(host, "restart", "proxygen")
    assert host.show("proxygen", "MainPID") != before


async def test_a_frozen_sidecar_is_started_anew_and_nginx_serves_on(host: SystemdHost) -> None:
    drop_in(host, "watchdog", "[Service]\nWatchdogSec=4s\n")
    host.systemctl("restart", "proxygen")
    before = host.show("proxygen", "MainPID")
    async with nothing_fails(host):
        await asyncio.sleep(6)
        assert host.show("proxygen", "MainPID") == before, "it beats in time"
        await systemctl(host, "kill", "--signal=SIGSTOP", "proxygen")
        for _ in range(150):
            if await asyncio.to_thread(_runs_anew, host, before):
                break
            await asyncio.sleep(0.2)
    assert _runs_anew(host, before), host.journal("proxygen")[-2000:]
    assert "Watchdog timeout" in host.journal("proxygen")
    drop_in(host, "watchdog", "")
    host.systemctl("restart", "proxygen")


def _runs_anew(host: SystemdHost, before: str) -> bool:
    return host.is_active("proxygen") and host.show("proxygen", "MainPID") not in {before, "0"}


@pytest.mark.parametrize("command", [("restart", "nginx"), ("kill", "--signal=SIGKILL", "--kill-who=main", "nginx")])
def test_an_nginx_that_is_restarted_or_killed_serves_what_it_served(
    host: SystemdHost, command: tuple[str, ...]
) -> None:
    before = host.show("nginx", "MainPID")
    host.systemctl(*command)
    wait(lambda: host.show("nginx", "MainPID") not in {before, "0"} and get(host) == 200, "nginx back")
    see_a_change_get_through(host)


def test_nginx_does_without_root(host: SystemdHost) -> None:
    unit = "/etc/systemd/system/nginx.service.d/unprivileged.conf"
    host.run("cp", f"{CHECKOUT}/deploy/systemd/nginx/unprivileged.conf", unit)
    host.systemctl("daemon-reload")
    host.systemctl("restart", "nginx")
    try:
        assert host.run("stat", "--format=%U", f"/proc/{host.show('nginx', 'MainPID')}") == "www-data"
        assert get(host) == 200
        see_a_change_get_through(host)
    finally:
        host.run("rm", unit)
        host.systemctl("daemon-reload")
        host.systemctl("restart", "nginx")
    see_a_change_get_through(host)


def see_a_change_get_through(host: SystemdHost) -> None:
    """A reload is asked for, and proven."""
    tag = "-tag=proxygen.route=again.example.com"
    host.run("consul", "services", "register", "-name=again", "-port=9001", "-address=127.0.0.1", tag)
    wait(lambda: get(host, {"Host": "again.example.com"}) == 200, "a change at the new master")
    host.run("consul", "services", "deregister", "-id=again")
    wait_ready(host)


def test_why_nginx_refused_a_reload_is_quoted_from_its_own_log(host: SystemdHost) -> None:
    """nginx -t lets a taken port pass; the reload fails, and only nginx's real log says why."""
    host.run("systemd-run", "--unit=taken", "/usr/bin/python3", "-m", "http.server", "9555")
    wait(lambda: ":9555" in host.run("ss", "-ltn"), "the port taken")
    host.run(
        "consul",
        "services",
        "register",
        "-name=streams",
        "-port=9001",
        "-address=127.0.0.1",
        "-tag=proxygen.route=/",
        "-tag=proxygen.protocol=tcp",
        "-tag=proxygen.listen=9555",
        check=False,
    )
    try:
        wait(lambda: "bind() to 0.0.0.0:9555 failed" in host.journal("proxygen"), "the reason in the log")
        assert get(host) == 200
    finally:
        host.systemctl("stop", "taken")
        host.run("consul", "services", "deregister", "-id=streams")
    wait_ready(host)


def test_after_a_reboot_without_consul_nginx_serves_from_disk(host: SystemdHost) -> None:
    host.systemctl("disable", "consul")
    host.reboot()
    assert not host.is_active("consul")
    wait(lambda: get(host) == 200, "the service from disk")
    wait(lambda: host.is_active("proxygen"), "the unit active without Consul")
    assert "Consul has not been read since the start" in host.show("proxygen", "StatusText")
    host.start_consul()
    wait(lambda: host.show("proxygen", "StatusText").startswith("ready; "), "Consul's word again")
    # It left Consul as the host went down, and is back once it has found Consul again.
    wait(lambda: get(host) == 200, "the service registered again")
