"""The whole story, on each backend: three hosts, a Consul server on each, and containers that reach one another.

A container registers itself at its own address; nginx on another host serves it. A host joins, one loses its Consul
agent, one leaves for good. No multicast gets through anywhere.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from tests.harness import process, warm
from tests.harness.consul import HostConsul
from tests.harness.frr import FrrRouter
from tests.harness.hosts import Container, Host, Lab
from tests.harness.network import NetworkAgent
from tests.harness.nginx import NginxServer
from tests.harness.sidecar import Sidecar
from tests.harness.tools import NginxBinary

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NETWORK = "10.99.0.0/16"
PATIENCE = 180.0
"""Seconds; two cores may be busy with anything."""


class Story:
    """The hosts so far, with what runs on them."""

    def __init__(
        self, backend: str, hosts: list[Host], consuls: list[HostConsul], make_agent: Callable[..., NetworkAgent]
    ) -> None:
        self._make_agent = make_agent
        self._daemon = {"frr-bgp": "bgpd", "frr-ospf": "ospfd"}.get(backend)
        self._routers: list[FrrRouter] = []
        self._backend = backend
        self.hosts = hosts
        self.consuls = consuls
        self.agents: list[NetworkAgent] = []
        self.containers: list[Container] = []

    def begin(self) -> None:
        """Write the config, and start the agents, then the bridges with a container each."""
        for host in self.hosts:
            host.drop_multicast()
            self._add_agent(host)
        made = self.agents[0].command("init", "--network", NETWORK, "--backend", self._backend)
        assert made.returncode == 0, made.stderr
        # At once, as when they all are switched on.
        for agent in self.agents:
            agent.start()
        for agent in self.agents:
            self._start_container(agent)

    def _add_agent(self, host: Host) -> NetworkAgent:
        self.agents.append(self._make_agent(host, self._start_router(host)))
        return self.agents[-1]

    def _start_router(self, host: Host) -> dict[str, object]:
        """Start FRR on a host if the backend wants it, and return where it is."""
        if self._daemon is None:
            return {}
        router = FrrRouter(host, self._daemon)
        self._routers.append(router)
        router.start()
        place = router.place
        return {
            "network.frr_reload": str(place.reload),
            "network.frr_sockets": str(place.sockets),
            "network.frr_directory": str(place.directory),
        }

    def end(self) -> None:
        for router in self._routers:
            router.stop()

    def _start_container(self, agent: NetworkAgent) -> Container:
        agent.start_docker()
        self.containers.append(agent.host.container())
        return self.containers[-1]

    def bring_up(self, host: Host) -> Container:
        """Start another host's agent, then its bridge with a container, as Docker starts after the agent."""
        host.drop_multicast()
        agent = self._add_agent(host)
        agent.start()
        return self._start_container(agent)

    def until_all_reach_all(self) -> None:
        for one, other in itertools.permutations(self.containers, 2):
            one.until_pings(other.address, timeout=PATIENCE)

    def subnet(self, number: int) -> IPv4Network:
        return self.agents[number].lease().subnet

    def session(self, number: int, *, asked: int = 0) -> str | None:
        """Return the session that locks a host's lease."""
        subnet = self.subnet(number)
        key = f"/v1/kv/proxygen/network/subnets/{subnet.network_address}-{subnet.prefixlen}"
        (entry,) = self.consuls[asked].get(key)
        session: str | None = entry.get("Session")
        return session

    def log(self) -> str:
        return "\n".join(f"--- {agent.host.label}\n{agent.tail()}" for agent in self.agents)


@pytest.fixture(params=["host-gw", "vxlan", "frr-bgp", "frr-ospf"])
def story(
    request: pytest.FixtureRequest,
    hosts: list[Host],
    host_consuls: list[HostConsul],
    make_agent: Callable[..., NetworkAgent],
) -> Iterator[Story]:
    story = Story(request.param, hosts, host_consuls, make_agent)
    try:
        story.begin()
        yield story
    finally:
        story.end()


def serve_on(
    host: Host, make_nginx: Callable[..., NginxServer], make_sidecar: Callable[..., Sidecar], binary: NginxBinary
) -> Sidecar:
    nginx = make_nginx(binary)
    nginx.start(within=host.within)
    sidecar = make_sidecar("127.0.0.1:8500", nginx, proxy__http_listen=f"{host.address}:80")
    sidecar.start(ready=False, within=host.within)
    return sidecar


def register_in(container: Container, directory: Path) -> None:
    """Start an application in a container, which registers itself with the agent of its host."""
    directory.mkdir()
    (directory / "index.html").write_text(container.label, encoding="utf-8")
    container.start(
        *(*warm.COLD, "register", "--consul-address", f"{container.host.address}:8500"),
        *("--name", "web", "--port", "8080", "--route", "/", "--check-http", "/", "--check-interval", "1s", "--"),
        *(sys.executable, "-m", "http.server", "8080", "--bind", str(container.address), "--directory", directory),
    )


def test_containers_of_all_hosts_reach_one_another_and_are_served_by_another_hosts_nginx(
    story: Story,
    lab: Lab,
    tmp_path: Path,
    any_nginx_binary: NginxBinary,
    make_nginx: Callable[..., NginxServer],
    make_sidecar: Callable[..., Sidecar],
) -> None:
    try:
        _tell(story, lab, tmp_path, any_nginx_binary, make_nginx, make_sidecar)
    except BaseException as error:
        error.add_note(story.log())
        raise


def _tell(
    story: Story,
    lab: Lab,
    tmp_path: Path,
    binary: NginxBinary,
    make_nginx: Callable[..., NginxServer],
    make_sidecar: Callable[..., Sidecar],
) -> None:
    first, second, third = story.hosts

    # Three hosts.
    assert len({story.subnet(number) for number in range(3)}) == 3
    story.until_all_reach_all()
    mtu = story.agents[0].lease().mtu
    story.containers[0].set_mtu(mtu + 100)
    assert story.containers[0].ping(story.containers[1].address, size=mtu)
    assert not story.containers[0].ping(story.containers[1].address, size=mtu + 1)
    story.containers[0].set_mtu(mtu)

    # An application on the first, nginx on the third, a client on the second.
    sidecar = serve_on(third, make_nginx, make_sidecar, binary)
    register_in(story.containers[0], tmp_path / "site")

    def is_served() -> bool:
        try:
            return story.containers[1].fetch(f"http://{third.address}/") == story.containers[0].label
        except RuntimeError:
            return False

    try:
        process.wait_until(is_served, what="the container's answer through nginx", timeout=PATIENCE)
    except TimeoutError as error:
        error.add_note(sidecar.tail())
        raise
    (instance,) = story.consuls[2].instances("web")
    assert instance["Service"]["Address"] == str(story.containers[0].address)

    # A fourth joins.
    fourth = lab.host()
    client = HostConsul(fourth, servers=story.hosts)
    try:
        client.start()
        begun = time.monotonic()
        newcomer = story.bring_up(fourth)
        story.containers[0].until_pings(newcomer.address, timeout=PATIENCE)
        print(f"a host that joined was reached {time.monotonic() - begun:.1f} s after its agent was started")
        story.until_all_reach_all()

        # The second loses its Consul agent, for so long that Consul takes it for dead.
        story.consuls[1].kill()
        process.wait_until(lambda: story.session(1) is None, what="the end of the second's session", timeout=PATIENCE)
        story.until_all_reach_all()
        assert story.agents[1].running
        story.consuls[1].start(wait=False)
        process.wait_until(lambda: story.session(1), what="the second's new session", timeout=PATIENCE)

        # The fourth leaves for good.
        subnet = story.subnet(3)
        assert story.agents[3].stop() == 0
        # What an agent took away as it ended would not come back; what OSPF loses on a busy machine does.
        process.wait_until(
            lambda: newcomer.ping(story.containers[0].address),
            what="the routes of an agent that ended",
            timeout=PATIENCE,
        )
        left = story.agents[3].command("release")
        assert left.returncode == 0, left.stderr
    finally:
        client.remove()
    for host in (first, second, third):
        process.wait_until(
            lambda: not host.routes(str(subnet)),  # noqa: B023 - called at once
            what=f"the end of {host.label}'s route to {subnet}",
            timeout=PATIENCE,
        )
    story.containers.remove(newcomer)
    story.until_all_reach_all()
    assert is_served()

    for host in story.hosts:
        assert host.dropped_multicast()["other"] == 0
