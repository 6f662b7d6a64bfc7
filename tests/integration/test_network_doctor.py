"""The doctor on real hosts: what is broken for real is found, nothing else is, and the cure it names cures it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest

from proxygen.network.doctor.beside import read_frr
from proxygen.settings import NetworkSettings
from tests.harness import process
from tests.harness.consul import HostConsul
from tests.harness.frr import FrrRouter
from tests.harness.hosts import Host, Lab
from tests.harness.network import NetworkAgent

# Most tests share two hosts.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.xdist_group("doctor")]

AGENT = "proxygen network up"
OF_THE_MACHINE = {"networkd", "network-manager", "docker"}
"""Checks of what runs on the machine that the tests run on, which is no namespace's matter."""


@dataclass(frozen=True, slots=True)
class Found:
    """A finding."""

    check: str
    severity: str
    text: str
    cure: str


def table(name: str, where: str, rule: str) -> str:
    """Return a table of nft with one chain."""
    return f"table inet {name} {{\n chain f {{\n type filter hook {where}; {rule};\n }}\n}}\n"


class Clinic:
    """Two hosts with a network and a container each."""

    def __init__(self, lab: Lab, backend: str, **settings: object) -> None:
        self.lab = lab
        self.one, self.two = lab.hosts(2)
        self.consul = HostConsul(self.one, servers=[self.one])
        self.backend = backend
        knobs: dict[str, object] = {
            "consul.address": f"{self.one.address}:8500",
            # The firewall is what tests break.
            "network.forward_rules": False,
            "network.interface": Host.LINK,
            # A busy machine may stand still for longer than the harness's; then hosts would count as away.
            "network.ttl": "30s",
            **{f"network.{name}": value for name, value in settings.items()},
        }
        self.routers = [FrrRouter(host, "bgpd") for host in (self.one, self.two) if backend == "frr-bgp"]
        self.agents = [
            NetworkAgent(host, {**_place(router), **knobs})
            for host, router in zip_longest((self.one, self.two), self.routers)
        ]

    def begin(self) -> None:
        """Make the network, on which no host is yet."""
        self.consul.start()
        config = {"Network": "10.99.0.0/16", "Backend": {"Type": self.backend}}
        self.consul.kv_put("proxygen/network/settled", "new")
        self.consul.kv_put("proxygen/network/config", json.dumps(config))

    def open(self) -> None:
        self.begin()
        for router in self.routers:
            router.start()
        for agent in self.agents:
            agent.start()
        for agent in self.agents:
            agent.start_docker()
            agent.host.container()
        self.one.containers[0].until_pings(self.two.containers[0].address, timeout=180.0)

    def close(self) -> None:
        for agent in self.agents:
            agent.kill()
        for router in self.routers:
            router.stop()
        self.consul.remove()

    def stop_agents(self) -> None:
        """Leave hosts as they are: nobody mends now what tests break."""
        for agent in self.agents:
            assert agent.stop() == 0

    def report(self) -> tuple[dict[str, Any], list[Found]]:
        """Return what `proxygen network doctor --json` prints on the first host, and its findings on the namespace."""
        asked = self.agents[0].command("doctor", "--json")
        assert asked.returncode in (0, 1), asked.stderr
        report = json.loads(asked.stdout)
        findings = [Found(**finding) for finding in report["findings"]]
        assert (asked.returncode == 0) is all(finding.severity != "error" for finding in findings)
        return report, [finding for finding in findings if finding.check not in OF_THE_MACHINE]

    def examine(self) -> list[Found]:
        """Return all findings but that there is no agent, if that was stopped."""
        return [found for found in self.report()[1] if found.check != "lease"]

    def let_agent_mend(self) -> None:
        """Do as cures say: start the first host's agent. Stop it once it has carried."""
        agent = self.agents[0]
        agent.start()
        process.wait_until(self._is_mended, what="a mended network", timeout=180.0)
        assert agent.stop() == 0

    def _is_mended(self) -> bool:
        # What is superfluous goes last.
        is_clean = not self.one.routes("10.99.250.0/24")
        return is_clean and self.one.ping(self.two.containers[0].address)


def _place(router: FrrRouter | None) -> dict[str, object]:
    """Return where a host's FRR is, as settings."""
    if router is None:
        return {}
    place = router.place
    return {
        "network.frr_reload": str(place.reload),
        "network.frr_sockets": str(place.sockets),
        "network.frr_directory": str(place.directory),
    }


def open_clinic(directory: Path, backend: str) -> Iterator[Clinic]:
    with Lab(directory) as lab:
        clinic = Clinic(lab, backend)
        try:
            clinic.open()
            yield clinic
        finally:
            clinic.close()


@pytest.fixture(scope="module")
def vxlan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clinic]:
    """Hosts without agents. Each test leaves them as they were, by the cures that it is told."""
    for clinic in open_clinic(tmp_path_factory.mktemp("vxlan") / "lab", "vxlan"):
        clinic.stop_agents()
        yield clinic


@pytest.mark.parametrize("backend", ["vxlan", "host-gw", "frr-bgp"])
def test_a_host_that_is_well_has_no_findings_and_every_check_is_accounted_for(tmp_path: Path, backend: str) -> None:
    for clinic in open_clinic(tmp_path / "lab", backend):
        report, findings = clinic.report()

        assert findings == []
        outcomes = {one["check"]: one["outcome"] for one in report["examined"]}
        assert outcomes["reach"] == outcomes["data-plane"] == outcomes["duplicate-address"] == "checked"
        assert all(one["reason"] for one in report["examined"])
        text = clinic.agents[0].command("doctor")
        assert text.returncode == 0
        assert set(outcomes) <= set(text.stdout.split())

        # As a security group does that lets hosts talk and not containers.
        clinic.two.run("nft", table("group", "prerouting priority -310", "ip saddr 10.99.0.0/16 drop"))
        clinic.two.run("nft", table("port", "input priority -310", "udp dport 8472 drop"))
        (lost,) = clinic.examine()
        assert lost.check == "reach"


BROKEN = {
    "sysctl -w net.ipv4.ip_forward=0": ("forwarding", "error"),
    "sysctl -w net.ipv4.conf.all.rp_filter=1": ("rp-filter", "warning"),
    "ip route add 10.0.0.0/8 dev eth0": ("overlap", "error"),
    "ip route add 10.99.200.0/25 dev eth0": ("one-owner", "error"),
    # As Docker does.
    "iptables -P FORWARD DROP; iptables -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT": (
        "firewall",
        "error",
    ),
    f"nft '{table('strict', 'forward priority 10', 'policy drop')}'": ("firewall", "error"),
}


def test_what_is_broken_is_found_each_once_and_each_cure_cures(vxlan: Clinic) -> None:
    for broken in BROKEN:
        vxlan.one.run("sh", "-c", broken)

    found = vxlan.examine()
    assert sorted((one.check, one.severity) for one in found) == sorted(BROKEN.values())
    for one in found:
        vxlan.one.run("sh", "-c", one.cure.rpartition("or: ")[2])

    assert vxlan.examine() == []


def test_the_direction_in_which_udp_is_lost_is_told(vxlan: Clinic) -> None:
    """The other host drops what comes, or what it sends: from here only probes can tell."""
    told = {}
    for hook in ("input", "output"):
        vxlan.two.run("nft", table("oneway", f"{hook} priority 0", "udp dport 8472 drop"))
        (found,) = vxlan.examine()
        told[hook] = found.text
        vxlan.two.run("nft", "delete", "table", "inet", "oneway")

    assert "UDP 8472 from here to 192.0.2.2 is lost" in told["input"]
    assert "UDP 8472 from 192.0.2.2 to here is lost" in told["output"]


def test_a_firewall_here_that_shuts_the_backends_port_is_named_beside_what_comes_of_it(vxlan: Clinic) -> None:
    vxlan.one.run("iptables", "-A", "INPUT", "-p", "udp", "--dport", "8472", "-j", "DROP")

    port, reach = vxlan.examine()
    assert (port.check, reach.check) == ("backend-port", "reach")
    assert "to here is lost" in reach.text

    vxlan.one.run("sh", "-c", port.cure)
    assert vxlan.examine() == []


def test_a_path_that_carries_less_than_containers_may_send_is_found(vxlan: Clinic) -> None:
    """Something between the hosts, such as a provider's tunnel, whose ends both believe in 1500; then, this device."""
    vxlan.two.run("nft", table("narrow", "input priority 0", "udp dport 8472 udp length > 1400 drop"))
    (between,) = vxlan.examine()
    assert between.check == "reach"
    assert "not to packets of 1450 bytes" in between.text
    vxlan.two.run("nft", "delete", "table", "inet", "narrow")

    vxlan.one.ip("link", "set", "pxvx1", "mtu", "1300")
    device, reach = vxlan.examine()
    assert (device.check, reach.check) == ("mtu", "reach")
    vxlan.one.run("sh", "-c", device.cure)
    assert vxlan.examine() == []


def test_a_host_that_is_down_is_told_from_a_port_that_is_shut(vxlan: Clinic) -> None:
    vxlan.two.cut()
    (found,) = vxlan.examine()
    vxlan.two.mend()
    vxlan.one.until_pings(vxlan.two.address)

    assert found.check == "reach"
    assert "192.0.2.2 does not answer either" in found.text


def test_another_machine_with_this_hosts_address_is_found_by_its_mac(vxlan: Clinic) -> None:
    double = vxlan.lab.host("double")
    double.ip("address", "add", f"{vxlan.one.address}/24", "dev", Host.LINK)
    mac = json.loads(double.ip("-json", "link", "show", Host.LINK))[0]["address"]

    found = next(one for one in vxlan.examine() if one.check == "duplicate-address")
    assert found.severity == "error"
    assert mac in found.text

    double.cut()
    # Whom the other host believes to have the address is a matter of chance by now.
    vxlan.two.ip("neigh", "flush", "dev", Host.LINK)
    vxlan.one.until_pings(vxlan.two.address)
    assert vxlan.examine() == []


PLANES = {
    "entries that are wrong": (
        "ip route add 10.99.250.0/24 via 192.0.2.9 proto 225; ip route del $(ip route show proto 225 dev pxvx1)",
        {"stale", "data-plane"},
    ),
    "a neighbour is gone": (
        "ip neigh del $(ip neigh show dev pxvx1 nud permanent | cut -d' ' -f1) dev pxvx1",
        {"data-plane"},
    ),
    # With the link down the kernel drops its routes and neighbours.
    "the device is down": ("ip link set pxvx1 down", {"device", "data-plane"}),
    "the device is gone": ("ip link delete pxvx1", {"device"}),
}


@pytest.mark.parametrize("case", PLANES)
def test_a_data_plane_that_is_not_what_leases_say_is_found_and_the_agent_mends_it(vxlan: Clinic, case: str) -> None:
    broken, checks = PLANES[case]
    vxlan.one.run("sh", "-c", broken)

    found = vxlan.examine()
    assert {one.check for one in found} == checks
    assert all(AGENT in one.cure for one in found)

    vxlan.let_agent_mend()
    assert vxlan.examine() == []


def test_leases_that_cannot_be_are_found(vxlan: Clinic) -> None:
    """A copied machine that got an id of its own and not an address; and a key that somebody wrote by hand."""
    lease = {"PublicIP": str(vxlan.two.address), "BackendType": "vxlan", "HostID": "copy", "Node": "copy"}
    keys = {
        "proxygen/network/subnets/10.99.251.0-24": {**lease, "BackendData": {"VNI": 1, "VtepMAC": "02:00:00:00:00:99"}},
        "proxygen/network/subnets/10.99.252.0-24": {},
    }
    for key, value in keys.items():
        vxlan.consul.kv_put(key, json.dumps(value))
    found = {one.check: one for one in vxlan.examine()}
    for key in keys:
        vxlan.consul.kv_delete(key)

    assert str(vxlan.two.address) in found["identity"].text
    assert found["config"].cure.endswith("consul kv delete proxygen/network/subnets/10.99.252.0-24")


def test_without_consul_the_host_is_looked_at_all_the_same(vxlan: Clinic) -> None:
    vxlan.one.sysctl("net.ipv4.ip_forward", 0)
    vxlan.consul.pause()
    try:
        found = {one.check for one in vxlan.examine()}
    finally:
        vxlan.consul.resume()
        vxlan.one.sysctl("net.ipv4.ip_forward", 1)

    assert found == {"consul", "forwarding"}


def test_frr_that_does_not_run_is_found_and_which_of_its_daemons_is_missing(lab: Lab) -> None:
    sockets = Path("/var/run/frr") / "none"
    clinic = Clinic(lab, "frr-bgp", frr_sockets=str(sockets), frr_reload="/nowhere/frr-reload.py")
    try:
        clinic.begin()
        daemons, reload = clinic.examine()
    finally:
        clinic.close()

    assert (daemons.check, daemons.severity) == (reload.check, reload.severity) == ("frr", "error")
    assert "zebra, staticd, bgpd" in daemons.text
    assert "frr-pythontools" in reload.cure


def test_frr_that_runs_is_seen_by_its_daemons(lab: Lab) -> None:
    router = FrrRouter(lab.host("router"), "bgpd")
    settings = NetworkSettings(frr_sockets=router.place.sockets, frr_reload=router.place.reload)
    try:
        router.start()
        found = asyncio.run(read_frr(settings))
    finally:
        router.stop()

    assert (found.daemons, found.has_reload) == ({"zebra", "staticd", "bgpd"}, True)


@pytest.mark.skipif(Path("/sys/module/wireguard").exists(), reason="this kernel has WireGuard, which is to be missed")
def test_a_kernel_without_the_backends_device_is_found(lab: Lab) -> None:
    clinic = Clinic(lab, "wireguard")
    try:
        clinic.begin()
        (found,) = clinic.examine()
    finally:
        clinic.close()

    assert (found.check, found.severity) == ("module", "error")
    assert "modprobe wireguard" in found.cure
