"""`proxygen network frr render` and `apply`, for those who look or run FRR without the agent."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.harness.consul import HostConsul
from tests.harness.frr import FrrRouter
from tests.harness.hosts import Host, Lab
from tests.harness.network import NetworkAgent
from tests.integration.test_network_agent import Net

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

AWAY = "192.0.2.117"


@pytest.fixture
def router(hosts: list[Host]) -> Iterator[FrrRouter]:
    router = FrrRouter(hosts[0], "bgpd")
    try:
        router.start()
        yield router
    finally:
        router.stop()


def test_what_consul_holds_is_shown_and_applied_once(
    lab: Lab,
    hosts: list[Host],
    host_consul: HostConsul,
    router: FrrRouter,
    make_agent: Callable[..., NetworkAgent],
) -> None:
    """Nothing is applied while the agent runs, which would undo it; showing changes nothing."""
    net = Net(lab, host_consul, make_agent, "frr-bgp")
    net.init()
    place = router.place
    agent = net.agent(
        hosts[0], frr_reload=str(place.reload), frr_sockets=str(place.sockets), frr_directory=str(place.directory)
    )
    agent.start()
    subnet = agent.lease().subnet
    refused = agent.command("frr", "apply")
    assert refused.returncode == 1
    assert str(agent.pid) in refused.stderr
    assert agent.stop() == 0

    net.put_lease(117, AWAY)
    shown = agent.command("frr", "render")
    assert shown.returncode == 0, shown.stderr
    assert f"neighbor {AWAY} " in shown.stdout
    assert f"network {subnet}" in shown.stdout
    assert AWAY not in router.peers()
    quagga = agent.command("frr", "render", "--syntax", "quagga")
    assert quagga.returncode == 0, quagga.stderr
    assert {"! zebra.conf", "! bgpd.conf"} <= set(quagga.stdout.splitlines())

    applied = agent.command("frr", "apply")
    assert (applied.returncode, applied.stdout) == (0, ""), applied.stderr
    assert AWAY in router.peers()
    net.drop_lease(117)
    assert agent.command("frr", "apply").returncode == 0
    assert AWAY not in router.peers()


def test_a_network_without_frr_has_nothing_to_show(
    lab: Lab, hosts: list[Host], host_consul: HostConsul, make_agent: Callable[..., NetworkAgent]
) -> None:
    net = Net(lab, host_consul, make_agent, "host-gw")
    net.init()
    agent = net.agent(hosts[0])
    agent.start()
    agent.lease()
    assert agent.stop() == 0
    for command in ("render", "apply"):
        answer = agent.command("frr", command)
        assert (answer.returncode, answer.stdout) == (2, "")
        assert "host-gw" in answer.stderr
