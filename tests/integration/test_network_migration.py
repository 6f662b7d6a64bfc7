"""Coming from flannel or from a hand-written Quagga, host by host, as docs/network/from-*.md say.

Neither is to be had here. Their part is what they leave in the kernel: flannel's link, neighbours, forwarding entries
and routes, and Quagga's routes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from ipaddress import IPv4Network
from typing import Any, Final

import pytest

from proxygen.network.files import read_subnet_env
from tests.harness import process
from tests.harness.consul import HostConsul
from tests.harness.hosts import Container, Host, Lab
from tests.harness.network import NetworkAgent

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NETWORK: Final = "10.5.0.0/16"
SUBNETS: Final = [IPv4Network(f"10.5.{number}.0/24") for number in (52, 9, 77)]
PATIENCE: Final = 180.0
OURS: Final = "225"


class Before:
    """What carries packets before we do. Its subnets and links are there, and its daemon is stopped already."""

    mtu = 1500
    init: tuple[str, ...] = ()

    def __init__(self, hosts: list[Host]) -> None:
        self.hosts = hosts

    def others(self, host: Host) -> list[tuple[Host, IPv4Network]]:
        return [(other, subnet) for other, subnet in zip(self.hosts, SUBNETS, strict=True) if other is not host]

    def begin(self, host: Host) -> None:
        """Make what routes of a host need."""

    def carry(self, host: Host) -> None:
        """Make the routes of a host, in place of whatever is there."""

    def leave(self, host: Host) -> None:
        """Take the routes of one host away."""

    def vanish(self, host: Host) -> None:
        """Remove what is left of it."""


class FlannelVxlan(Before):
    """flannel.1, VNI 1, as flannel makes it."""

    mtu = 1450
    init = ("--backend", "vxlan", "--option", "VNI=2")

    def begin(self, host: Host) -> None:
        kind = ("type", "vxlan", "id", 1, "dev", host.LINK, "local", str(host.address), "dstport", 8472)
        host.ip("link", "add", "flannel.1", "address", self._mac(host), "mtu", self.mtu, *kind, "nolearning")
        host.ip("address", "add", f"{SUBNETS[self.hosts.index(host)].network_address}/32", "dev", "flannel.1")
        host.ip("link", "set", "flannel.1", "up")

    def carry(self, host: Host) -> None:
        for other, subnet in self.others(host):
            gateway, mac = str(subnet.network_address), self._mac(other)
            host.ip("neighbour", "replace", gateway, "lladdr", mac, "nud", "permanent", "dev", "flannel.1")
            host.run(
                "bridge", "fdb", "replace", mac, "dst", str(other.address), "dev", "flannel.1", "self", "permanent"
            )
            host.ip("route", "replace", str(subnet), "via", gateway, "dev", "flannel.1", "onlink")

    def leave(self, host: Host) -> None:
        host.ip("route", "flush", "dev", "flannel.1")

    def vanish(self, host: Host) -> None:
        host.ip("link", "delete", "flannel.1")

    def _mac(self, host: Host) -> str:
        return f"4a:00:00:00:00:{self.hosts.index(host):02x}"


class FlannelHostGw(Before):
    init: tuple[str, ...] = ("--backend", "host-gw")
    protocol = "boot"

    def carry(self, host: Host) -> None:
        for other, subnet in self.others(host):
            way = ("via", str(other.address), "dev", host.LINK, "proto", self.protocol)
            host.ip("route", "replace", str(subnet), *way)

    def leave(self, host: Host) -> None:
        host.ip("route", "flush", "root", NETWORK, "proto", self.protocol)


class Quagga(FlannelHostGw):
    """zebra takes its routes away as it ends. Subnets were chosen by people."""

    init = ("--subnet-len", "24", "--backend", "host-gw")
    protocol = "zebra"


@pytest.fixture
def consul(lab: Lab, hosts: list[Host]) -> Iterator[HostConsul]:
    """One for all, on the first host."""
    agent = HostConsul(hosts[0], servers=hosts[:1])
    agent.start()
    yield agent
    agent.remove()


@pytest.mark.parametrize("kind", [FlannelVxlan, FlannelHostGw, Quagga])
def test_every_container_reaches_every_other_at_each_step(
    kind: type[Before], hosts: list[Host], consul: HostConsul, make_agent: Callable[..., NetworkAgent]
) -> None:
    """Subnets, and what Docker was told, stay as they were."""
    before = kind(hosts)
    containers = _start_containers(hosts, mtu=kind.mtu)
    for host in hosts:
        before.begin(host)
        before.carry(host)
    _until_all_reach_all(containers)

    agents = [_make_agent(make_agent, host, consul) for host in hosts]
    made = agents[0].command("init", "--network", NETWORK, *kind.init)
    assert made.returncode == 0, made.stderr
    for agent, subnet in zip(agents, SUBNETS, strict=True):
        _hint(agent, subnet, kind.mtu, consul, by_reservation=kind is Quagga)
        agent.start()
    for agent in agents:
        _until_status(agent, _is_beside, "its routes in the way")
        assert not agent.host.routes("proto", OURS), "a route of others is replaced"
    _until_all_reach_all(containers)

    for agent in agents:
        _leave(before, agent)
        _until_all_reach_all(containers)

    # One goes back, and comes again.
    before.carry(hosts[0])
    _until_status(agents[0], _is_beside, "its routes in the way again")
    _until_all_reach_all(containers)
    _leave(before, agents[0])
    _until_all_reach_all(containers)

    for host in hosts:
        before.vanish(host)
    _until_all_reach_all(containers)
    for agent, subnet in zip(agents, SUBNETS, strict=True):
        _until_status(agent, lambda status: status["state"] == "ready", "no more problems")
        told = read_subnet_env(agent.subnet_file.read_text(encoding="ascii"))
        assert (told.subnet, told.mtu) == (subnet, kind.mtu)


def test_a_host_that_is_not_told_to_take_over_refuses_to_start(
    hosts: list[Host], consul: HostConsul, make_agent: Callable[..., NetworkAgent]
) -> None:
    """Its containers would hide what it reaches already, and the routes that are there stay."""
    before = FlannelHostGw(hosts)
    before.carry(hosts[1])
    routes = hosts[1].routes()
    agent = _make_agent(make_agent, hosts[1], consul, take_over=False)
    assert agent.command("init", "--network", NETWORK, *before.init).returncode == 0

    refused = agent.command("up")

    assert refused.returncode == 2
    assert "overlaps 10.5.52.0/24, 10.5.77.0/24" in refused.stderr
    assert hosts[1].routes() == routes


def _leave(before: Before, agent: NetworkAgent) -> None:
    """Take away what carried before, and wait until the agent's own routes are there."""
    before.leave(agent.host)
    process.wait_until(
        lambda: len(agent.host.routes("proto", OURS)) == 2,
        what=f"routes of {agent.host.label}'s own agent",
        timeout=PATIENCE,
    )


def _start_containers(hosts: list[Host], *, mtu: int) -> list[Container]:
    for host, subnet in zip(hosts, SUBNETS, strict=True):
        host.attach_bridge(subnet, mtu=mtu)
    return [host.container() for host in hosts]


def _until_all_reach_all(containers: list[Container]) -> None:
    for one, other in itertools.permutations(containers, 2):
        one.until_pings(other.address, timeout=PATIENCE)


def _make_agent(
    make_agent: Callable[..., NetworkAgent], host: Host, consul: HostConsul, *, take_over: bool = True
) -> NetworkAgent:
    return make_agent(host, {"consul.address": f"{consul.host.address}:8500", "network.take_over": take_over})


def _hint(agent: NetworkAgent, subnet: IPv4Network, mtu: int, consul: HostConsul, *, by_reservation: bool) -> None:
    """Say which subnet the host has: by flannel's file, or for Quagga, which has none, by a reservation."""
    if by_reservation:
        consul.kv_put(f"proxygen/network/reservations/id-of-{agent.host.label}", str(subnet))
        return
    agent.subnet_file.parent.mkdir(parents=True)
    agent.subnet_file.write_text(
        f"FLANNEL_NETWORK={NETWORK}\nFLANNEL_SUBNET={subnet[1]}/{subnet.prefixlen}\nFLANNEL_MTU={mtu}\nFLANNEL_IPMASQ=false\n",
        encoding="ascii",
    )


def _is_beside(status: dict[str, Any]) -> bool:
    """Tell whether the agent has its lease, knows of both others, and says that their routes are in the way."""
    in_the_way = [problem for problem in status["problems"] if "stands already" in problem]
    return status["standing"] == "held" and len(status["members"]) == len(in_the_way) == 2


def _until_status(agent: NetworkAgent, condition: Callable[[dict[str, Any]], bool], what: str) -> None:
    """Wait until the running agent's status meets a condition."""
    status: Any = None

    def is_met() -> bool:
        nonlocal status
        status = agent.status()
        return status is not None and condition(status)

    try:
        process.wait_until(is_met, what=f"{agent.host.label}: {what}", timeout=PATIENCE)
    except TimeoutError as error:
        raise TimeoutError(f"{error}\n{status}\n{agent.tail()}") from error
