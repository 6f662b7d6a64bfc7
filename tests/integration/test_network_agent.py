"""The agent of a host as a process, on hosts in namespaces with a real Consul."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest

from proxygen.network.records import Attributes, subnet_key, write_value
from tests.harness import process
from tests.harness.consul import HostConsul
from tests.harness.hosts import Host, Lab
from tests.harness.network import NetworkAgent

pytestmark = pytest.mark.timeout(900)

PREFIX = "proxygen/network"
NETWORK = "10.99.0.0/16"
PATIENCE = 180.0
"""Seconds; two cores may be busy with anything."""


class Net:
    """Hosts with agents, and one Consul for all of them, on the first host."""

    def __init__(self, lab: Lab, consul: HostConsul, make: Callable[..., NetworkAgent], backend: str) -> None:
        self.lab = lab
        self.consul = consul
        self.backend = backend
        self._make = make
        self.agents: list[NetworkAgent] = []

    def init(self) -> None:
        self.consul.kv_put(f"{PREFIX}/settled", "new")
        self.write_config()

    def write_config(self, **changed: object) -> None:
        config = {"Network": NETWORK, "Backend": {"Type": self.backend}, **changed}
        self.consul.kv_put(f"{PREFIX}/config", json.dumps(config))

    def agent(self, host: Host, **settings: object) -> NetworkAgent:
        address = {"consul.address": f"{self.consul.host.address}:8500"}
        knobs = {f"network.{name}": value for name, value in settings.items()}
        self.agents.append(self._make(host, {**address, **knobs}))
        return self.agents[-1]

    def bring_up(self, *hosts: Host, **settings: object) -> None:
        """Start agents, then bridges with a container each."""
        started = [self.agent(host, **settings) for host in hosts]
        for agent in started:
            agent.start()
        for agent in started:
            agent.start_docker()
            agent.host.container()

    def until_all_reach_all(self) -> None:
        containers = [container for agent in self.agents for container in agent.host.containers]
        for one in containers:
            for other in containers:
                if one is not other:
                    one.until_pings(other.address, timeout=PATIENCE)

    def put_lease(self, number: int, address: str) -> None:
        """Write the lease of a host that is away."""
        subnet = IPv4Network(f"10.99.{number}.0/24")
        data = {"VNI": 1, "VtepMAC": f"0a:00:00:00:00:{number:02x}"} if self.backend == "vxlan" else None
        attributes = Attributes(
            node=f"away{number}", public_ip=IPv4Address(address), backend_type=self.backend, backend_data=data
        )
        self.consul.kv_put(f"{PREFIX}/{subnet_key(subnet)}", write_value(f"away{number}", attributes, 1))

    def drop_lease(self, number: int) -> None:
        self.consul.kv_delete(f"{PREFIX}/{subnet_key(IPv4Network(f'10.99.{number}.0/24'))}")


def ours(host: Host) -> set[str]:
    """Return the subnets to which a host has routes of ours."""
    return {str(route["dst"]) for route in host.routes("proto", "225")}


def until_routes(agent: NetworkAgent, wanted: set[str]) -> None:
    host = agent.host
    try:
        process.wait_until(lambda: ours(host) == wanted, what=f"routes of {host.label}", timeout=PATIENCE)
        assert agent.running
    except TimeoutError as error:
        found = f"{sorted(ours(host))} and not {sorted(wanted)}"
        raise TimeoutError(f"{error}: {found}\n{agent.command('status').stdout}\n{agent.tail()}") from error


def until_status(agent: NetworkAgent, condition: Callable[[dict[str, Any]], object], *, what: str) -> None:
    def holds() -> object:
        status = agent.status()
        return status is not None and condition(status)

    try:
        process.wait_until(holds, what=what, timeout=PATIENCE)
    except TimeoutError as error:
        raise TimeoutError(f"{error}: {agent.command('status').stdout}\n{agent.tail()}") from error


def is_ready(status: dict[str, Any]) -> bool:
    return status["state"] == "ready"


def says(words: str) -> Callable[[dict[str, Any]], object]:
    return lambda status: status["state"] == "degraded" and words in str(status["problems"])


@pytest.fixture
def consul(host_consul: HostConsul) -> HostConsul:
    return host_consul


@pytest.fixture(params=["host-gw", "vxlan"])
def net(request: pytest.FixtureRequest, lab: Lab, consul: HostConsul, make_agent: Callable[..., NetworkAgent]) -> Net:
    net = Net(lab, consul, make_agent, request.param)
    net.init()
    return net


@pytest.fixture
def tunnel(lab: Lab, consul: HostConsul, make_agent: Callable[..., NetworkAgent]) -> Net:
    """Where more than routes is made on a host."""
    net = Net(lab, consul, make_agent, "vxlan")
    net.init()
    return net


@pytest.fixture
def plain(lab: Lab, consul: HostConsul, make_agent: Callable[..., NetworkAgent]) -> Net:
    """Where it does not matter how packets cross hosts."""
    net = Net(lab, consul, make_agent, "host-gw")
    net.init()
    return net


@pytest.mark.slow
def test_a_host_that_joins_is_reached_and_one_that_leaves_for_good_is_withdrawn(
    net: Net, hosts: list[Host], record_property: Callable[[str, object], None]
) -> None:
    net.bring_up(*hosts)
    net.until_all_reach_all()
    joins = net.lab.host()
    begin = time.monotonic()
    net.bring_up(joins)
    hosts[1].containers[0].until_pings(joins.containers[0].address, timeout=PATIENCE)
    record_property(f"seconds until a host that joins is reached ({net.backend})", time.monotonic() - begin)
    net.until_all_reach_all()

    leaves = net.agents[2]
    subnet = str(leaves.lease().subnet)
    assert leaves.stop() == 0
    assert subnet in ours(hosts[0]), "the end of the agent is not the end of the lease"
    released = leaves.command("release")
    assert (released.returncode, released.stdout) == (0, f"released: {subnet}\n"), released.stderr
    assert ours(hosts[2]) == set()
    assert not leaves.subnet_file.exists()
    for host in (hosts[0], hosts[1], joins):
        process.wait_until(lambda host=host: subnet not in ours(host), what="withdrawal", timeout=PATIENCE)  # type: ignore[misc]


@pytest.mark.slow
@pytest.mark.faults
def test_without_consul_routes_stay_and_are_looked_after_by_an_agent_that_was_started_since(
    tunnel: Net, hosts: list[Host]
) -> None:
    tunnel.bring_up(*hosts)
    tunnel.until_all_reach_all()
    agent, host = tunnel.agents[1], hosts[1]
    subnet, before = agent.lease().subnet, ours(host)
    tunnel.consul.kill()
    agent.kill()
    host.ip("route", "flush", "proto", "225")
    agent.start()
    until_routes(tunnel.agents[1], before)
    tunnel.until_all_reach_all()
    until_status(agent, says("unconfirmed"), what="a lease that Consul does not confirm")
    assert agent.command("status").returncode == 1
    tunnel.consul.start()
    for each in tunnel.agents:
        until_status(each, is_ready, what="ready again with Consul")
    assert agent.lease().subnet == subnet
    assert ours(host) == before


@pytest.mark.slow
@pytest.mark.faults
def test_after_kill_at_any_moment_the_kernel_is_as_it_should_be_and_nothing_of_others_was_touched(
    net: Net, hosts: list[Host]
) -> None:
    """Leases come and go all the time, so that the agent is killed at work.

    On a slow machine it may see so few of the changes that the last ones together look like a loss; that is soon over.
    """
    chance = random.Random(5)
    host = hosts[1]
    foreign = [
        ("add", "10.99.250.0/24", "via", "192.0.2.3", "proto", "static"),
        ("add", "10.77.0.0/16", "via", "192.0.2.3", "proto", "boot"),
        ("add", "blackhole", "10.66.0.0/16", "proto", "186"),
    ]
    net.bring_up(hosts[0], hosts[1], hold="2s")
    for route in foreign:
        host.ip("route", *route)
    others = [route for route in host.routes() if route.get("protocol") != "225"]
    present: set[int] = set()
    for _ in range(8):
        for number in chance.sample(range(100, 130), 6):
            if number in present:
                net.drop_lease(number)
            else:
                net.put_lease(number, f"192.0.2.{number}")
            present ^= {number}
        time.sleep(chance.uniform(0.0, 0.4))
        net.agents[1].kill()
        host.ip("route", "replace", f"10.99.{chance.randrange(100, 130)}.0/24", "via", "192.0.2.9", "proto", "225")
        net.agents[1].start()
        time.sleep(chance.uniform(0.2, 1.2))
    wanted = {f"10.99.{number}.0/24" for number in present} | {str(net.agents[0].lease().subnet)}
    until_routes(net.agents[1], wanted)
    until_status(net.agents[1], says("overlaps 10.99.250.0/24"), what="the foreign route inside Network")
    assert [route for route in host.routes() if route.get("protocol") != "225"] == others
    host.ip("route", "del", "10.99.250.0/24")
    until_status(net.agents[1], is_ready, what="ready")
    net.until_all_reach_all()


@pytest.mark.slow
def test_bad_input_is_refused_with_the_reason_and_the_running_data_plane_stays(plain: Net, hosts: list[Host]) -> None:
    plain.bring_up(hosts[0], hosts[1])
    plain.put_lease(100, "192.0.2.100")
    agent, host = plain.agents[1], hosts[1]
    wanted = {"10.99.100.0/24", str(plain.agents[0].lease().subnet)}
    until_routes(plain.agents[1], wanted)
    for config, words in (
        ({"Backend": {"Type": "carrier-pigeon"}}, "'carrier-pigeon' is none of"),
        ({"Network": "10.98.0.0/16"}, "Network was changed"),
        ({"Network": "10.99.0.0/30"}, "too small"),
        ({"Backend": {"Type": "alloc"}}, "Backend was changed"),
    ):
        plain.write_config(**config)
        until_status(agent, says(words), what=words)
        assert ours(host) == wanted
    plain.write_config()
    until_status(agent, is_ready, what="the old config")
    plain.consul.kv_put(f"{PREFIX}/subnets/10.99.100.0-24", "{broken")
    until_status(agent, says("10.99.100.0/24"), what="a lease that does not parse")
    assert ours(host) == wanted
    # An agent that is started by then knows as much as the one before.
    plain.write_config(Network="10.98.0.0/16")
    agent.kill()
    agent.start()
    until_status(agent, says("Network was changed"), what="a Network that containers do not live in")
    assert ours(host) == wanted
    plain.until_all_reach_all()


@pytest.mark.slow
def test_after_a_loss_of_consuls_data_each_host_gets_its_own_subnet_again_and_no_route_was_gone(
    plain: Net, hosts: list[Host]
) -> None:
    plain.bring_up(*hosts)
    plain.until_all_reach_all()
    before = {agent: (agent.lease().subnet, ours(agent.host)) for agent in plain.agents}
    plain.consul.kv_delete(PREFIX, recurse=True)
    for agent in plain.agents:
        until_status(agent, says("held until"), what="a loss that is held")
    plain.write_config()
    for agent in plain.agents:
        until_status(agent, is_ready, what="ready")
    assert {agent: (agent.lease().subnet, ours(agent.host)) for agent in plain.agents} == before


@pytest.mark.slow
def test_a_loss_while_no_agent_looked_is_held_too_and_believed_once_it_has_lasted(
    plain: Net, hosts: list[Host]
) -> None:
    away = range(100, 106)
    agent = plain.agent(hosts[1], hold="20s")
    agent.start()
    for number in away:
        plain.put_lease(number, f"192.0.2.{number}")
    until_routes(agent, {f"10.99.{number}.0/24" for number in away})
    agent.kill()
    for number in away:
        plain.drop_lease(number)
    agent.start()
    until_status(agent, says("held until"), what="a loss that is held")
    assert ours(hosts[1]) == {f"10.99.{number}.0/24" for number in away}
    until_routes(agent, set())
    until_status(agent, is_ready, what="ready")


@pytest.mark.slow
def test_another_backend_counts_from_each_agents_next_start_and_leaves_nothing_of_the_one_before(
    plain: Net, hosts: list[Host]
) -> None:
    plain.bring_up(hosts[0], hosts[1])
    plain.until_all_reach_all()
    subnets = [agent.lease().subnet for agent in plain.agents]
    for backend in ("vxlan", "alloc"):
        plain.write_config(Backend={"Type": backend})
        for agent in plain.agents:
            until_status(agent, says("Backend was changed"), what="the config is refused for now")
        for agent in plain.agents:
            assert agent.stop() == 0
            agent.start()
        for agent in plain.agents:
            until_status(agent, is_ready, what=f"ready with {backend}")
        if backend != "alloc":
            plain.until_all_reach_all()
        devices = [link for link in json.loads(hosts[1].ip("-json", "link")) if link["ifname"].startswith("px")]
        assert bool(devices) == (backend == "vxlan")
    assert [ours(host) for host in hosts[:2]] == [set(), set()]
    assert [agent.lease().subnet for agent in plain.agents] == subnets


@pytest.mark.slow
def test_a_host_with_another_address_keeps_its_subnet_and_is_reached_there(net: Net, hosts: list[Host]) -> None:
    net.bring_up(hosts[0], hosts[1])
    net.until_all_reach_all()
    subnet = net.agents[1].lease().subnet
    hosts[1].ip("address", "del", "192.0.2.2/24", "dev", Host.LINK)
    hosts[1].ip("address", "add", "192.0.2.77/24", "dev", Host.LINK)
    net.until_all_reach_all()
    until_status(
        net.agents[0], lambda status: "'192.0.2.77'" in str(status["members"]), what="the new address in the lease"
    )
    for agent in net.agents:
        until_status(agent, is_ready, what="ready")
    assert net.agents[1].lease().subnet == subnet


@pytest.mark.slow
@pytest.mark.incident("T72")
def test_a_host_behind_a_router_that_translates_is_reached_at_its_public_address(
    tunnel: Net, hosts: list[Host]
) -> None:
    """As with flannel's --public-ip: it is told to the others as it is, and packets come to the host's own address. The
    interface is found by a pattern."""
    behind, other = hosts[:2]
    public = "203.0.113.7"
    other.ip("route", "add", public, "via", str(behind.address))
    chain = "add table ip router; add chain ip router in { type nat hook prerouting priority -100; }"
    behind.run("nft", f"{chain}; add rule ip router in ip daddr {public} dnat to {behind.address}")
    tunnel.bring_up(behind, public_ip=public, interface=f"wlan9,~^{Host.LINK}$")
    tunnel.bring_up(other)
    until_status(tunnel.agents[1], lambda status: f"'{public}'" in str(status["members"]), what="the public address")
    tunnel.until_all_reach_all()
    for agent in tunnel.agents:
        until_status(agent, is_ready, what="ready")


@pytest.mark.slow
def test_an_agent_that_is_stopped_leaves_routes_and_cleanup_removes_them_and_no_others(
    tunnel: Net, hosts: list[Host]
) -> None:
    tunnel.bring_up(hosts[0], hosts[1])
    tunnel.until_all_reach_all()
    agent, host = tunnel.agents[1], hosts[1]
    subnet = agent.lease().subnet
    busy = agent.command("cleanup")
    assert busy.returncode == 1
    assert "stop it first" in busy.stderr
    assert agent.stop() == 0
    host.ip("route", "add", "10.77.0.0/16", "via", "192.0.2.3", "proto", "static")
    tunnel.until_all_reach_all()
    stopped = agent.command("status")
    assert stopped.returncode == 1
    assert "none runs on this host" in stopped.stdout
    cleaned = agent.command("cleanup")
    assert cleaned.returncode == 0, cleaned.stderr
    assert ours(host) == set()
    assert [link for link in json.loads(host.ip("-json", "link")) if link["ifname"].startswith("px")] == []
    assert any(route["dst"] == "10.77.0.0/16" for route in host.routes())
    assert "proxygen" not in host.run("nft", "list", "ruleset").lower()
    assert not agent.subnet_file.exists()
    agent.start()
    assert agent.lease().subnet == subnet
    tunnel.until_all_reach_all()


def refused(agent: NetworkAgent) -> str:
    """Return what ``proxygen network up`` says when it ends by itself, with 2."""
    ended = agent.command("up", timeout=PATIENCE)
    assert ended.returncode == 2, ended.stdout + ended.stderr
    return ended.stderr


def test_a_host_that_cannot_be_in_the_network_is_refused_before_anything_is_changed(
    plain: Net, hosts: list[Host]
) -> None:
    host = hosts[1]
    agent = plain.agent(host)
    host.ip("route", "add", "10.99.7.0/24", "via", "192.0.2.3")
    assert "overlaps 10.99.7.0/24" in refused(agent)
    host.ip("route", "del", "10.99.7.0/24")
    plain.write_config(Backend={"Type": "udp"})
    assert "'udp' is none of" in refused(agent)
    plain.write_config(Network="10.99.0.0/29")
    assert "too small" in refused(agent)
    assert plain.consul.get(f"/v1/kv/{PREFIX}/subnets/?keys") is None
    assert ours(host) == set()
    assert host.run("nft", "list", "ruleset").strip() == ""


def test_the_agent_waits_for_what_may_come(plain: Net, hosts: list[Host]) -> None:
    """Consul, the config, the host's own link: a unit need not be started in any order."""
    host, agent = hosts[1], plain.agent(hosts[1])
    plain.consul.kv_delete(f"{PREFIX}/config")
    host.ip("link", "set", Host.LINK, "down")
    agent.start()
    until_status(agent, lambda status: "does not answer" in str(status["reason"]), what="waiting for Consul")
    host.ip("link", "set", Host.LINK, "up")
    until_status(agent, lambda status: "network init" in str(status["reason"]), what="waiting for the config")
    plain.write_config()
    assert agent.lease(timeout=PATIENCE).network == IPv4Network(NETWORK)


def test_one_agent_at_a_time(plain: Net, hosts: list[Host]) -> None:
    agent = plain.agent(hosts[1])
    agent.start()
    agent.lease()
    second = agent.command("up")
    assert second.returncode == 1
    assert f"process {agent.pid}" in second.stderr


def test_a_network_is_created_once_and_by_a_config_that_can_be_used(
    lab: Lab, consul: HostConsul, make_agent: Callable[..., NetworkAgent]
) -> None:
    net = Net(lab, consul, make_agent, "vxlan")
    agent = net.agent(consul.host)
    small = agent.command("init", "--network", "10.99.0.0/29")
    assert (small.returncode, consul.get(f"/v1/kv/{PREFIX}/?keys")) == (2, None)
    made = agent.command("init", "--network", NETWORK, "--subnet-len", "26", "--option", "DirectRouting=true")
    assert made.returncode == 0, made.stderr
    written = consul.get(f"/v1/kv/{PREFIX}/config?raw")
    assert written == {"Network": NETWORK, "SubnetLen": 26, "Backend": {"Type": "vxlan", "DirectRouting": True}}
    again = agent.command("init", "--network", "10.98.0.0/16")
    assert again.returncode == 1
    assert "has a network already" in again.stderr
    assert consul.get(f"/v1/kv/{PREFIX}/config?raw") == written


def test_a_killed_agents_lease_is_released_and_one_that_another_session_locks_is_not(
    plain: Net, hosts: list[Host]
) -> None:
    # Its session outlives it by far.
    agent = plain.agent(hosts[1], ttl="120s")
    agent.start()
    subnet = agent.lease().subnet
    agent.kill()
    (agent.directory / "state" / "lease.json").rename(agent.directory / "lease.json")
    refused = agent.command("release")
    assert refused.returncode == 1
    assert "locked by another session" in refused.stderr
    assert agent.subnet_file.exists()
    (agent.directory / "lease.json").rename(agent.directory / "state" / "lease.json")
    released = agent.command("release")
    assert (released.returncode, released.stdout) == (0, f"released: {subnet}\n"), released.stderr
    assert plain.consul.get(f"/v1/kv/{PREFIX}/subnets/?keys") is None
    assert plain.consul.get(f"/v1/kv/{PREFIX}/hosts/?keys") is None
    assert not agent.subnet_file.exists()


def test_docker_is_told_of_the_lease(plain: Net, hosts: list[Host], tmp_path: Path) -> None:
    agent = plain.agent(hosts[1])
    agent.start()
    bridge = agent.lease().bridge
    daemon = tmp_path / "daemon.json"
    done = agent.command("docker", "render", "--output", daemon)
    assert done.returncode == 0, done.stderr
    assert json.loads(daemon.read_text()) == {
        "bip": str(bridge),
        "mtu": 1500,
        "ip-masq": True,
    }
    options = (agent.subnet_file.parent / "docker_opts.env").read_text()
    assert f'DOCKER_OPT_BIP="--bip={bridge}"' in options


def test_its_metrics_tell_how_the_hosts_part_is(plain: Net) -> None:
    """Asked on the host itself, at its loopback."""
    first, second = plain.consul.host, plain.lab.host()
    plain.bring_up(first, metrics="127.0.0.1:9105")
    plain.bring_up(second)
    url = "http://127.0.0.1:9105/metrics"
    ask = f"import urllib.request; print(urllib.request.urlopen({url!r}, timeout=5).read().decode())"

    def told() -> str:
        command = [*first.within, sys.executable, "-c", ask]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout

    for line in (
        'proxygen_network_state{state="ready"} 1.0',
        'proxygen_network_lease{standing="held"} 1.0',
        'proxygen_network_members{lives="true"} 1.0',
    ):
        process.wait_until(lambda line=line: line in told().splitlines(), what=line, timeout=PATIENCE)  # type: ignore[misc]
