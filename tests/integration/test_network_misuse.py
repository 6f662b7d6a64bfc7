"""What operators, copies of hosts, full disks and hostile members do to a running network, on hosts in namespaces."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from typing import Final

import pytest

from tests.harness import process
from tests.harness.consul import HostConsul
from tests.harness.hosts import Host, Lab
from tests.harness.network import NetworkAgent
from tests.integration.test_network_agent import PATIENCE, PREFIX, Net, is_ready, ours, says, until_status

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(900)]

DEEP: Final = "[" * 20_000 + "]" * 20_000
HOSTILE: Final = {
    "subnets/10.99.200.0-24": f'{{"HostID": "x", "PublicIP": "192.0.2.200", "BackendData": {{"VNI": {DEEP}}}}}',
    "subnets/10.99.201.0-24": f'{{"HostID": "x", "Unknown": {DEEP}}}',
    "subnets/10.99.202.0-24": r'{"HostID": "\u001b[31m", "Node": "\n", "BackendData": {"VNI": 1e400}}',
    "subnets/0.0.0.0-0": '{"HostID": "all", "PublicIP": "192.0.2.203", "BackendType": "vxlan"}',
    "hosts/x": "nonsense",
    "reservations/x": "nonsense",
    "nobody/knows": "nonsense",
    "config": f'{{"Network": "10.99.0.0/16", "Backend": {{"VNI": {DEEP}}}}}',
}
CUT: Final = "table ip cut {\nchain out {\ntype filter hook output priority -10;\ntcp dport 8500 drop;\n}\n}"


@pytest.fixture
def net(lab: Lab, host_consul: HostConsul, make_agent: Callable[..., NetworkAgent]) -> Net:
    net = Net(lab, host_consul, make_agent, "vxlan")
    net.init()
    return net


def test_whatever_is_written_into_consul_the_agents_run_and_routes_stay(net: Net, hosts: list[Host]) -> None:
    net.bring_up(hosts[0], hosts[1])
    net.until_all_reach_all()
    before = [ours(host) for host in hosts[:2]]
    for key, value in HOSTILE.items():
        net.consul.kv_put(f"{PREFIX}/{key}", value)
    for agent in net.agents:
        until_status(agent, says("nested too deep; this host goes on"), what="a config that cannot be read")
        status = agent.status()
        assert status is not None
        for subnet in ("10.99.200.0/24", "10.99.201.0/24", "10.99.202.0/24", "0.0.0.0/0"):
            assert subnet in str(status["problems"])
    assert [ours(host) for host in hosts[:2]] == before
    # The next agent meets the same.
    net.agents[1].kill()
    net.agents[1].start()
    until_status(net.agents[1], says("nested too deep; this host goes on"), what="the same seen by the next agent")
    assert all(agent.running for agent in net.agents)
    assert [ours(host) for host in hosts[:2]] == before
    net.until_all_reach_all()
    for key in HOSTILE:
        net.consul.kv_delete(f"{PREFIX}/{key}")
    net.write_config()
    for agent in net.agents:
        until_status(agent, is_ready, what="ready once it is gone")


def test_a_host_whose_state_was_removed_goes_on_with_the_subnet_that_docker_has(net: Net, hosts: list[Host]) -> None:
    """Neither the state directory nor subnet.env is there, and docker0 would look like somebody else's network."""
    net.bring_up(hosts[0], hosts[1])
    net.until_all_reach_all()
    agent = net.agents[1]
    subnet, before = agent.lease().subnet, ours(hosts[1])
    agent.kill()
    shutil.rmtree(agent.directory / "state")
    agent.subnet_file.unlink()
    agent.start()
    assert agent.lease().subnet == subnet
    until_status(agent, is_ready, what="ready")
    assert ours(hosts[1]) == before
    net.until_all_reach_all()


def test_another_size_of_subnets_is_for_newcomers_alone(net: Net, hosts: list[Host]) -> None:
    net.bring_up(hosts[0], hosts[1])
    subnets = [agent.lease().subnet for agent in net.agents]
    net.write_config(SubnetLen=26)
    net.bring_up(hosts[2])
    newcomer = net.agents[2].lease().subnet
    assert newcomer.prefixlen == 26
    assert not any(newcomer.overlaps(subnet) for subnet in subnets)
    net.agents[0].kill()
    net.agents[0].start()
    for agent in net.agents:
        until_status(agent, is_ready, what="ready")
    assert [agent.lease().subnet for agent in net.agents] == [*subnets, newcomer]
    net.until_all_reach_all()


def test_hosts_that_cannot_reach_consul_for_longer_than_their_session_lives_lose_nothing(
    net: Net, hosts: list[Host]
) -> None:
    """Two of three, whose packets to Consul are dropped without a word."""
    net.bring_up(*hosts)
    net.until_all_reach_all()
    subnets = [agent.lease().subnet for agent in net.agents]
    routes = [ours(host) for host in hosts]
    for host in hosts[1:]:
        host.run("nft", CUT)
    for agent in net.agents[1:]:
        until_status(agent, says("unconfirmed"), what="a lease that Consul does not confirm")
    until_status(
        net.agents[0],
        lambda status: not any(member["lives"] for member in status["members"]),
        what="the end of both sessions",
    )
    net.until_all_reach_all()
    assert [ours(host) for host in hosts] == routes
    for host in hosts[1:]:
        host.run("nft", "delete", "table", "ip", "cut")
    for agent in net.agents:
        until_status(agent, is_ready, what="ready again")
    assert [agent.lease().subnet for agent in net.agents] == subnets
    assert [ours(host) for host in hosts] == routes
    net.until_all_reach_all()


def test_a_copy_of_a_host_is_refused_and_the_host_does_not_notice(net: Net, hosts: list[Host]) -> None:
    """The copy has everything: the machine id, the state directory and subnet.env. Its kernel was booted anew."""
    net.bring_up(hosts[0], hosts[1])
    net.until_all_reach_all()
    original = net.agents[1]
    before = ours(hosts[0])
    copy = net.agent(hosts[2], host_id=f"id-of-{hosts[1].label}", node="copy")
    for directory in ("state", "run"):
        shutil.copytree(original.directory / directory, copy.directory / directory)
    for name in ("lease.json", "known.json"):
        file = copy.directory / "state" / name
        file.write_text(json.dumps({**json.loads(file.read_text()), "boot": "another"}))
    copy.start()
    until_status(copy, says("give each host a machine id of its own"), what="the copy's conflict")
    assert ours(hosts[2]) == set()
    assert ours(hosts[0]) == before
    until_status(original, is_ready, what="the original as ready as before")
    net.agents.remove(copy)
    net.until_all_reach_all()


def test_an_agent_without_room_on_its_disk_carries_packets_all_the_same(net: Net, hosts: list[Host]) -> None:
    net.bring_up(hosts[0])
    host, agent = hosts[1], net.agent(hosts[1])
    state = agent.directory / "state"
    agent.subnet_file.parent.mkdir()
    # It hints at a subnet, which is to be remembered.
    agent.subnet_file.write_text(
        "FLANNEL_NETWORK=10.99.0.0/16\nFLANNEL_SUBNET=10.99.77.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n"
    )
    hinted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) - 3600
    os.utime(agent.subnet_file, (hinted, hinted))
    up = f"exec {sys.executable} -m proxygen network up --config {agent.config}"
    full = f"mkdir {state}; mount -t tmpfs -o size=8k t {state}; head -c 8192 /dev/zero > {state}/fill; {up}"
    running = host.start("unshare", "--mount", "sh", "-c", full, log="full.log")
    process.wait_until(lambda: len(ours(host)) == 1, what="the route to the first host", timeout=PATIENCE)
    assert running.poll() is None
    assert "No space left" in (host.directory / "full.log").read_text()
