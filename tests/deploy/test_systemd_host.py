"""The host that other tests install things on behaves as a machine with systemd does."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable

import pytest

from tests.harness.systemd_host import SystemdHost

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def host(make_host: Callable[..., SystemdHost]) -> SystemdHost:
    return make_host()


def test_systemd_is_process_1_and_runs_units(host: SystemdHost) -> None:
    assert host.wait_until_booted() == "running"
    assert host.read("/proc/1/comm") == "systemd"
    assert urllib.request.urlopen(f"http://{host.address}", timeout=5).status == 200


def test_a_reboot_keeps_the_disk_and_the_journal_and_empties_run(host: SystemdHost) -> None:
    host.write("/etc/kept", "kept", mode=0o640, owner="www-data")
    host.write("/run/gone", "gone")
    boot = host.read("/proc/1/stat")
    host.reboot()
    assert host.run("stat", "--format=%a %U", "/etc/kept") == "640 www-data"
    assert host.run("ls", "/run/gone", check=False).endswith("No such file or directory")
    assert host.read("/proc/1/stat") != boot
    assert "Started" in host.journal("nginx", boot=False)
    assert host.is_active("nginx")


def test_consul_keeps_what_it_knows_over_a_reboot(host: SystemdHost) -> None:
    host.install_consul()
    host.start_consul()
    host.run("consul", "kv", "put", "greeting", "hello")
    host.reboot()
    assert not host.is_active("consul")
    host.start_consul()
    assert host.run("consul", "kv", "get", "greeting") == "hello"
