"""The agent is killed at work while FRR carries the routes."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator

import pytest

from tests.harness import process
from tests.harness.consul import HostConsul
from tests.harness.frr import FrrRouter
from tests.harness.hosts import Host, Lab
from tests.harness.network import NetworkAgent
from tests.integration.test_network_agent import PATIENCE, Net, is_ready, until_status

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(900)]


@pytest.fixture
def routers(hosts: list[Host]) -> Iterator[list[FrrRouter]]:
    routers = [FrrRouter(host, "bgpd") for host in hosts[:2]]
    try:
        for router in routers:
            router.start()
        yield routers
    finally:
        for router in routers:
            router.stop()


def test_after_kill_at_any_moment_frr_is_as_it_should_be_and_nothing_of_others_was_touched(
    lab: Lab,
    hosts: list[Host],
    host_consul: HostConsul,
    routers: list[FrrRouter],
    make_agent: Callable[..., NetworkAgent],
) -> None:
    """Leases come and go all the time, so that the agent is killed while frr-reload.py runs, among others."""
    net = Net(lab, host_consul, make_agent, "frr-bgp")
    net.init()
    for host, router in zip(hosts[:2], routers, strict=True):
        place = router.place
        # One that is killed before it looked finds most of the others gone at once, and holds them.
        net.agent(
            host,
            hold="2s",
            frr_reload=str(place.reload),
            frr_sockets=str(place.sockets),
            frr_directory=str(place.directory),
        ).start()
    for agent in net.agents:
        agent.start_docker()
        agent.host.container()
    net.until_all_reach_all()
    chance = random.Random(7)
    host, agent, router = hosts[1], net.agents[1], routers[1]
    host.ip("route", "add", "10.77.0.0/16", "via", "192.0.2.3", "proto", "static")
    others = host.routes("proto", "static") + host.routes("proto", "kernel")
    present: set[int] = set()
    for _ in range(6):
        for number in chance.sample(range(100, 120), 5):
            if number in present:
                net.drop_lease(number)
            else:
                net.put_lease(number, f"192.0.2.{number}")
            present ^= {number}
        time.sleep(chance.uniform(0.0, 1.0))
        agent.kill()
        agent.start()
        time.sleep(chance.uniform(0.5, 2.5))
    wanted = {f"192.0.2.{number}" for number in present} | {str(hosts[0].address)}

    process.wait_until(
        lambda: set(router.peers()) == wanted, what="the neighbours of those who are there", timeout=PATIENCE
    )
    until_status(agent, is_ready, what="ready")
    net.until_all_reach_all()
    assert host.routes("proto", "static") + host.routes("proto", "kernel") == others
