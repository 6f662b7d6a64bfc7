"""The other units on a host that was installed by the page, and a Consul that asks for a token."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.harness.bases import DEBIAN
from tests.harness.engine import Engine
from tests.harness.systemd_host import SystemdHost
from tests.harness.systemd_site import CHECKOUT, SETTINGS, drop_in, get, wait

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def host(installed_host: SystemdHost) -> SystemdHost:
    host = installed_host
    host.shell(f"install -m 644 {CHECKOUT}/deploy/systemd/*.service /etc/systemd/system/")
    host.systemctl("daemon-reload")
    return host


@contextmanager
def changed(host: SystemdHost, path: str, old: str, new: str) -> Iterator[None]:
    """Have a file say something else for a while; its owner and mode stay."""
    before = host.read(path) + "\n"
    assert old in before
    host.run("tee", path, stdin=before.replace(old, new))
    try:
        yield
    finally:
        host.run("tee", path, stdin=before)


def powers(host: SystemdHost, unit: str) -> set[int]:
    """Return the numbers of the capabilities that a unit's process has or may ever get."""
    status = host.read(f"/proc/{host.show(unit, 'MainPID')}/status")
    masks = {line.split()[0]: int(line.split()[1], 16) for line in status.splitlines() if line.startswith("Cap")}
    return {number for number in range(64) if (masks["CapBnd:"] | masks["CapPrm:"]) >> number & 1}


def test_the_network_is_ready_with_its_subnet_and_its_end_takes_nothing_away(host: SystemdHost) -> None:
    host.run("apt-get", "install", "--yes", "--no-install-recommends", "nftables", "iptables", timeout=600)
    host.run("proxygen", "network", "init", "--network", "10.99.0.0/16", "--backend", "vxlan", "--config", SETTINGS)
    host.systemctl("start", "proxygen-network")
    subnet = host.read("/run/proxygen/subnet.env")
    assert "FLANNEL_SUBNET=10.99." in subnet, "written by the time that the unit is active"
    wait(lambda: host.show("proxygen-network", "StatusText").startswith("ready; subnet 10.99."), "ready")
    assert powers(host, "proxygen-network") == {12, 13}, "NET_ADMIN and NET_RAW"
    assert "PROXYGEN-FORWARD" in host.run("iptables", "-S")
    assert host.read("/proc/sys/net/ipv4/ip_forward") == "1"
    host.systemctl("stop", "proxygen-network")
    assert host.read("/run/proxygen/subnet.env") == subnet
    assert "vxlan" in host.run("ip", "-details", "link", "show", "type", "vxlan")


def test_the_registrator_registers_containers_as_a_user_without_powers(
    host: SystemdHost, yard: Engine, host_network: str
) -> None:
    host.shell("groupadd --force docker && chgrp docker /srv/engine.sock && chmod 660 /srv/engine.sock")
    labels = ("name=boxed", "port=80", "announce=container")
    with changed(host, SETTINGS, "[network]", '[registrator]\nengine = "unix:///srv/engine.sock"\n\n[network]'):
        host.systemctl("start", "proxygen-registrator")
        assert host.show("proxygen-registrator", "StatusText").startswith("0 containers registered")
        given = [f"--label=proxygen.{label}" for label in labels]
        yard.call("run", "--detach", "--name=boxed", f"--network={host_network}", *given, DEBIAN, "sleep", "600")
        try:
            wait(lambda: "boxed" in host.run("consul", "catalog", "services"), "the container in Consul")
            wait(
                lambda: host.show("proxygen-registrator", "StatusText").startswith("1 containers registered"),
                "the unit's status",
            )
            assert powers(host, "proxygen-registrator") == set()
            user = host.run("stat", "--format=%U", f"/proc/{host.show('proxygen-registrator', 'MainPID')}")
            assert user == "proxygen-registrator"
        finally:
            yard.call("rm", "--force", "--time=0", "boxed")
        wait(lambda: "boxed" not in host.run("consul", "catalog", "services"), "it gone")
    host.systemctl("stop", "proxygen-registrator")


def test_a_token_reaches_the_sidecar_that_its_user_cannot_read_from_disk(host: SystemdHost) -> None:
    wait(lambda: get(host) == 200, "the service registered")
    master = str(uuid.uuid4())
    acl = {"enabled": True, "default_policy": "deny", "tokens": {"master": master, "agent": master}}
    host.write("/etc/consul/acl.json", json.dumps({"acl": acl}))
    host.systemctl("restart", "consul")
    manager = {"CONSUL_HTTP_TOKEN": master}
    wait(
        lambda: host.name in host.run("consul", "catalog", "nodes", environment=manager, check=False),
        "Consul with ACLs",
    )
    try:
        host.systemctl("restart", "proxygen")
        wait(lambda: "token lacks a rule" in host.journal("proxygen"), "a sidecar without a token")
        assert get(host) == 200, "what was served before goes on"
        token = _make_token(host, manager)
        host.run("install", "-d", "-m", "700", "/etc/credstore")
        host.write("/etc/credstore/proxygen.consul.token", token, mode=0o600)
        drop_in(host, "token", "[Service]\nEnvironment=PROXYGEN_CONSUL_TOKEN_FILE=%d/consul.token\n")
        host.systemctl("restart", "proxygen")
        wait(lambda: host.show("proxygen", "StatusText").startswith("ready; "), "ready")
        assert get(host) == 200
        command = ("setpriv", "--reuid=proxygen", "--regid=proxygen", "--init-groups", "cat")
        assert "Permission denied" in host.run(*command, "/etc/credstore/proxygen.consul.token", check=False)
        assert token not in host.journal()
        drop_in(host, "token", "")
    finally:
        host.run("rm", "-f", "/etc/consul/acl.json", "/etc/credstore/proxygen.consul.token")
        host.systemctl("restart", "consul")


def _make_token(host: SystemdHost, manager: dict[str, str]) -> str:
    """Make one as docs/how-to/acl-policy.md says, with the least that the sidecar needs."""
    rules = f"@{CHECKOUT}/deploy/acl/sidecar.hcl"
    host.run("consul", "acl", "policy", "create", "-name=proxygen-sidecar", f"-rules={rules}", environment=manager)
    created = host.run(
        *("consul", "acl", "token", "create", "-policy-name=proxygen-sidecar", "-format=json"), environment=manager
    )
    return str(json.loads(created)["SecretID"])
