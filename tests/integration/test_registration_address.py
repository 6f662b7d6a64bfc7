"""An announced address is followed: a host's own in a namespace, which changes under a real agent."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxygen.registration.lease import LOOK
from tests.harness import process, warm
from tests.harness.consul import ConsulAgent, HostConsul
from tests.harness.containers import PORT, Containers
from tests.harness.engine import Engine
from tests.harness.fake_engine import FakeEngine
from tests.harness.hosts import Host
from tests.harness.registrator import Registrator
from tests.harness.tools import Consul
from tests.integration.waiting import until
from tests.registration.containers import inspected

pytestmark = pytest.mark.incident("T68")

ROOT = Path(__file__).parents[2]

HEARTBEAT = 1.0
WITHIN = 2
"""Heartbeats, as the agent counts them, after which the new address is there."""

APPLICATION = """
import logging, sys, time
sys.path.insert(0, {root!r})
from proxygen.registration import HttpCheck, Registration, TtlCheck
logging.basicConfig(level="INFO")
checks = [HttpCheck("/", interval=3600, initially="passing"), TtlCheck({ttl})]
with Registration(name="web", port=8080, id="web-1", address={address!r}, check=checks, drain=0, consul={consul!r}):
    time.sleep(3600)
"""

BEAT, WRITE = "/v1/agent/check/update/", "/v1/agent/service/register"
GAP = "no address now, the last one stays announced"


@pytest.fixture
def agent(which_consul: Consul, hosts: list[Host]) -> Iterator[HostConsul]:
    """A server on the first host that logs each request, and needs no address of the host."""
    agent = HostConsul(hosts[0], servers=hosts[:1], config={"bind_addr": "127.0.0.1", "log_level": "debug"})
    try:
        agent.start()
        yield agent
    finally:
        agent.remove()


class Following:
    """A service that follows its host's address."""

    def __init__(self, consul: ConsulAgent, said: Callable[[], str], id: str) -> None:
        self._consul = consul
        self._said = said
        self._id = id

    def address(self) -> str | None:
        service = self._consul.get("/v1/agent/services").get(self._id)
        return None if service is None else str(service["Address"])

    def until(self, address: str) -> int:
        """Wait until Consul has this address, and no other than the one before is seen meanwhile. Return how many
        heartbeats came before it, as the agent tells."""
        log, before, deadline = self._log(), self.address(), time.monotonic() + 60
        while (now := self.address()) != address:
            assert now == before, (now, self._said())
            assert time.monotonic() < deadline, (now, address, self._said())
            time.sleep(0.02)
        told, _, _ = self._log().removeprefix(log).partition(WRITE)
        return told.count(BEAT)

    def until_said(self, text: str, times: int = 1) -> None:
        process.wait_until(lambda: self._said().count(text) >= times, what=f"{text!r}\n{self._said()}", timeout=60)

    def said(self, text: str) -> int:
        return self._said().count(text)

    def beats(self) -> int:
        return self._log().count(BEAT)

    def writes(self) -> int:
        return self._log().count(WRITE)

    def _log(self) -> str:
        return self._consul.log.read_text(errors="replace")


def start(host: Host, agent: HostConsul, address: str | None, consul: str) -> Following:
    text = APPLICATION.format(root=str(ROOT), ttl=3 * HEARTBEAT, address=address, consul=consul)
    (host.directory / "app.py").write_text(text, encoding="utf-8")
    host.start(sys.executable, host.directory / "app.py", log="app.log")
    log = host.directory / "app.log"
    following = Following(agent, lambda: log.read_text(errors="replace") if log.exists() else "", "web-1")
    process.wait_until(lambda: following.address() is not None, what=f"registered\n{following.said('')}", timeout=60)
    # A change in the midst of the first write would cut it short.
    following.until_said("registered service=web")
    return following


def statuses(agent: ConsulAgent) -> dict[str, str]:
    return {id: check["Status"] for id, check in agent.get("/v1/agent/checks").items()}


def change(host: Host, before: str, after: str) -> None:
    host.ip("address", "del", f"{before}/24", "dev", host.LINK)
    host.ip("address", "add", f"{after}/24", "dev", host.LINK)


@pytest.mark.parametrize("address", [None, "interface:eth0", "192.0.2.0/24"])
@pytest.mark.parametrize("which", [0, 1], ids=["local agent", "agent over the net"])
def test_an_address_that_changes_is_followed_with_one_write_each_time(
    agent: HostConsul, hosts: list[Host], address: str | None, which: int
) -> None:
    """Within two heartbeats, by one event; the old address goes with the same write, and no bridge is taken for it."""
    host = hosts[which]
    host.attach_bridge("10.99.1.0/24")
    consul = "127.0.0.1:8500" if which == 0 else f"{hosts[0].address}:8500"
    following = start(host, agent, address, consul)
    before = str(host.address)
    assert following.address() == before
    for number in (1, 2, 3):
        after = f"192.0.2.{100 + number}"
        change(host, before, after)
        assert following.until(after) <= WITHIN
        following.until_said(f"address changed before={before} after={after}")
        # A change before the agent's answer would cut that off, and with it what the log says of it.
        following.until_said("registered service=web", times=1 + number)
        before = after
    process.wait_until(lambda: following.writes() == 1 + 3, what="a write for each change", timeout=60)
    following.until_said("registered service=web", times=1 + 3)
    assert (following.said("address changed"), following.said("registered service=web")) == (3, 1 + 3)
    passing = {"web-1:http": "passing", "web-1:ttl": "passing"}
    process.wait_until(lambda: statuses(agent) == passing, what="both checks", timeout=60)
    assert len(agent.instances("web")) == 1


@pytest.mark.parametrize("address", [None, "interface:eth0"])
def test_an_address_that_is_only_gone_stays_announced(
    agent: HostConsul, hosts: list[Host], address: str | None
) -> None:
    """One line says so, and nothing is written: beside a bridge that is there, and for any number of heartbeats."""
    host, own = hosts[0], str(hosts[0].address)
    host.attach_bridge("10.99.1.0/24")
    following = start(host, agent, address, "127.0.0.1:8500")
    host.ip("address", "del", f"{own}/24", "dev", host.LINK)
    following.until_said(GAP)
    beats = following.beats()
    process.wait_until(lambda: following.beats() >= beats + 3, what="three heartbeats")
    assert following.address() == own
    host.ip("address", "add", f"{own}/24", "dev", host.LINK)
    following.until_said("address is back")
    assert (following.said(GAP), following.said("address changed"), following.writes()) == (1, 0, 1)


def test_what_an_operator_changed_outlives_a_change_of_address(agent: HostConsul, hosts: list[Host]) -> None:
    following = start(hosts[1], agent, None, f"{hosts[0].address}:8500")
    service: dict[str, Any] = agent.get("/v1/agent/service/web-1")
    body = {"ID": "web-1", "Name": "web", "Port": 8080, "Address": service["Address"], "Tags": ["by-an-operator"]}
    agent.put("/v1/agent/service/register", body)
    change(hosts[1], str(hosts[1].address), "192.0.2.101")
    following.until("192.0.2.101")
    assert agent.get("/v1/agent/service/web-1")["Tags"] == ["by-an-operator"]


def test_a_container_that_gets_another_address_in_its_network_is_followed(
    consul: ConsulAgent, containers: Containers, engine: Engine, tmp_path: Path
) -> None:
    """The engine tells that it left a network and joined one; nothing waits for the next look at everything."""
    containers.call("network", "create", "--subnet=10.77.0.0/24", "other")
    labels = {"proxygen.name": "web", "proxygen.port": str(PORT), "proxygen.network": "other"}
    containers.run("w1", "--network=other", "--ip=10.77.0.9", labels=labels, publish=False)
    flags = ("--registrator-host", "here", "--registrator-resync", "1h", "--registrator-announce", "container")
    registrator = Registrator(consul, engine, tmp_path / "registrator.log", *flags)
    registrator.start()
    try:
        following = Following(consul, lambda: registrator.said, f"here:w1:{PORT}")
        process.wait_until(lambda: following.address() == "10.77.0.9", what="registered", timeout=60)
        containers.call("network", "disconnect", "other", "w1")
        containers.call("network", "connect", "--ip=10.77.0.10", "other", "w1")
        process.wait_until(lambda: following.address() == "10.77.0.10", what="followed", timeout=2 * LOOK)
    finally:
        registrator.kill()
        containers.remove_all()
        containers.call("network", "rm", "--force", "other")


def test_a_command_is_asked_where_it_is_now(agent: HostConsul, hosts: list[Host]) -> None:
    """What `proxygen register` connects to by itself is the address that it announces, before and after a change."""
    host = hosts[0]
    host.start(
        *(*warm.COLD, "register", "--consul-address", "127.0.0.1:8500", "--name=web", "--id=web-1", "--port=8080"),
        *("--address=interface:eth0", f"--check-ttl={3 * HEARTBEAT:g}s", "--drain=0s"),
        *("--", sys.executable, "-m", "http.server", "8080"),
        log="command.log",
    )
    log = host.directory / "command.log"
    following = Following(agent, lambda: log.read_text(errors="replace"), "web-1")
    process.wait_until(lambda: following.address() == str(host.address), what="registered", timeout=60)
    change(host, str(host.address), "192.0.2.101")
    following.until("192.0.2.101")
    beats = following.beats()
    process.wait_until(lambda: following.beats() >= beats + 3, what="three heartbeats")
    assert agent.get("/v1/agent/checks")["web-1:ttl"]["Status"] == "passing", log.read_text(errors="replace")


async def test_containers_on_their_hosts_address_follow_it(
    agent: HostConsul, hosts: list[Host], short_directory: Path
) -> None:
    """Each with one write; one that has its own address is not written again."""
    host, before, after = hosts[0], str(hosts[0].address), "192.0.2.101"
    async with FakeEngine(short_directory) as engine:
        for name, facts in {
            "one": {"published": {"80/tcp": ("0.0.0.0", "8001")}},
            "two": {"published": {"80/tcp": ("0.0.0.0", "8002")}},
            "own": {"exposed": ("80/tcp",), "networks": {"net": "10.88.0.2"}},
        }.items():
            labels = {"proxygen.name": name, "proxygen.announce": "container" if name == "own" else "published"}
            engine.containers[name] = {**inspected(labels, **facts), "Id": name, "Name": f"/{name}"}  # type: ignore[arg-type]
        host.start(
            *(*warm.COLD, "registrator", "--consul-address", "127.0.0.1:8500", "--registrator-engine", engine.url),
            *("--registrator-address", "interface:eth0", "--registrator-host", "here"),
            log="registrator.log",
        )
        log = host.directory / "registrator.log"
        one, two, own = (
            Following(agent, lambda: log.read_text(errors="replace"), f"here:{name}:80")
            for name in ("one", "two", "own")
        )
        await until(lambda: one.address() == two.address() == before and own.address(), "all of them")
        await asyncio.to_thread(change, host, before, after)
        await asyncio.gather(*(asyncio.to_thread(each.until, after) for each in (one, two)))
        await until(lambda: one.writes() == 3 + 2, "a write for each that moved")
        assert one.said("address changed") == 1
        assert own.address() == "10.88.0.2"
