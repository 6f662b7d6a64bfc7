"""T16: several datacenters, one of them without a leader or out of reach, and a local one that dies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import pytest

from tests.harness.app import App
from tests.harness.consul import ConsulAgent, leader_of, start_datacenters
from tests.harness.load import Tally
from tests.harness.nginx import NginxServer
from tests.harness.process import is_alive, wait_until
from tests.harness.sidecar import Sidecar
from tests.harness.tools import Consul
from tests.integration.waiting import HOST, ROUTE, answers, steady_load, until

MakeSidecar = Callable[..., Sidecar]
Datacenters = Mapping[str, list[ConsulAgent]]
Saw = Callable[[str], None]

FAILOVER = "proxygen.failover=dc3,dc2"
SHOP = "shop.example.com"

pytestmark = [pytest.mark.faults, pytest.mark.incident("T16")]


@pytest.fixture(scope="module")
def joined(which_consul: Consul, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Datacenters]:
    """Three datacenters joined over their WAN. The third has two servers: either alone has no leader."""
    started = start_datacenters(tmp_path_factory.mktemp("datacenters"), {"dc1": 1, "dc2": 1, "dc3": 2})
    yield started
    for agent in (agent for agents in started.values() for agent in agents):
        agent.kill()


@pytest.fixture
def datacenters(joined: Datacenters) -> Iterator[Datacenters]:
    """They are whole and empty at the start of each test."""
    yield joined
    agents = [agent for agents in joined.values() for agent in agents]
    for agent in agents:
        if is_alive(agent.pid):
            agent.resume()
        else:
            agent.start(wait=False)
    for agent in agents:
        wait_until(lambda: has_let_go(agent), what=f"no service on {agent.address}", timeout=60)  # noqa: B023
    for agent in agents:
        wait_until(lambda: is_as_before(agent, joined), what=f"{agent.address} as before", timeout=60)  # noqa: B023


def has_let_go(agent: ConsulAgent) -> bool:
    """Deregister what is left; an agent that has just started may have to be asked again."""
    for service_id in agent.get("/v1/agent/services"):
        agent.deregister(service_id)
    return not agent.get("/v1/agent/services")


def is_as_before(agent: ConsulAgent, datacenters: Datacenters) -> bool:
    """An empty catalog, in which all agents of a datacenter stand, and no datacenter that is away."""
    sees_all = set(agent.get("/v1/catalog/datacenters")) == datacenters.keys()
    return sees_all and bool(agent.get("/v1/status/leader")) and agent.get("/v1/catalog/services").keys() == {"consul"}


def lines(sidecar: Sidecar, app: App) -> set[str]:
    """The live server lines of an instance, without their weights and such."""
    directory = sidecar.output / "current" / "http.d"
    text = "".join(path.read_text() for path in sorted(directory.glob("*.conf")))
    found = (line.strip(" ;").split() for line in text.splitlines() if f"server {app.address}" in line)
    return {"backup" if "backup" in words else "server" for words in found}


async def until_line(sidecar: Sidecar, app: App, *kinds: str) -> None:
    await until(lambda: lines(sidecar, app) == set(kinds), f"{app.name} as {kinds}\n{sidecar.tail()}", timeout=60)


async def until_more(tally: Tally, requests: int) -> None:
    """Wait until so many more were answered, or not."""
    before = tally.total
    await until(lambda: tally.total >= before + requests, f"{requests} requests more", timeout=60)


def elsewhere(sidecar: Sidecar) -> list[tuple[str, str]]:
    """Datacenter and state of the instances that are not local, as status shows them."""
    [web] = [service for service in sidecar.status()["services"] if service["name"] == "web"]
    return sorted(
        (instance["datacenter"], instance["state"])
        for variant in web["variants"]
        for instance in variant["instances"]
        if instance["datacenter"] != "dc1"
    )


def warnings_of(sidecar: Sidecar, name: str) -> list[Any]:
    return [text for text in sidecar.status()["warnings"] if text.startswith(f"datacenter {name}:")]


async def test_t16_a_datacenter_without_a_leader_keeps_its_instances_and_the_others_go_on(
    datacenters: Datacenters, running: NginxServer, make_sidecar: MakeSidecar, saw: Saw
) -> None:
    """Injects the death of one of dc3's two servers, which leaves dc3 without a leader. Its instances stay where they
    were, changes in dc1 and dc2 go live, `/readyz` stays 200 and status names dc3. With the server back dc3 is followed
    again."""
    [here], [dc2], dc3 = (datacenters[name] for name in ("dc1", "dc2", "dc3"))
    with ExitStack() as stack:
        local, near, far, later = (stack.enter_context(App(name)) for name in ("local", "near", "far", "later"))
        lost = leader_of(dc3)
        [left] = [agent for agent in dc3 if agent is not lost]
        left.register("web", port=far.port)
        dc2.register("web", port=near.port)
        here.register("web", port=local.port, tags=[ROUTE, FAILOVER])
        here.register("shop", port=local.port, tags=[f"proxygen.route={SHOP}", "proxygen.failover=dc2"])
        sidecar = make_sidecar(here, running, consul__wait="3s")
        sidecar.start()
        await until_line(sidecar, far, "backup")
        assert elsewhere(sidecar) == [("dc3", "standby")], "dc3 stands before dc2"
        async with steady_load(sidecar):
            lost.kill()
            await until(lambda: warnings_of(sidecar, "dc3"), "a warning about dc3", timeout=90)
            saw(f"dc3 without its leader: {warnings_of(sidecar, 'dc3')[0]}")
            here.register("late", port=later.port, tags=["proxygen.route=late.example.com"])
            await answers(sidecar, "late.example.com", by="later")
            dc2.register("shop", port=later.port)
            await until_line(sidecar, later, "server", "backup")
            assert lines(sidecar, far) == {"backup"}
            assert sidecar.request("/readyz")[0] == 200
            lost.start()
            await until(lambda: not warnings_of(sidecar, "dc3"), f"dc3 back\n{sidecar.tail()}", timeout=90)
            left.register("web", port=near.port, id="web-new")
            await until(lambda: elsewhere(sidecar) == [("dc3", "standby")] * 2, "the new instance in dc3", timeout=60)


async def test_local_instances_that_die_one_by_one_leave_the_requests_to_another_datacenter(
    datacenters: Datacenters, running: NginxServer, make_sidecar: MakeSidecar, saw: Saw
) -> None:
    """Injects the death of each local process under load, and only then tells Consul. nginx has the other datacenter's
    instances as backup by then, so no request fails at any time; and the local ones come first again when they are
    back."""
    [here], [dc2] = datacenters["dc1"], datacenters["dc2"]
    with ExitStack() as stack:
        local = [stack.enter_context(App(f"local-{number}")) for number in (1, 2)]
        near = stack.enter_context(App("near"))
        for app in local:
            here.register("web", id=app.name, port=app.port, tags=[ROUTE, FAILOVER], status="passing")
        dc2.register("web", port=near.port)
        sidecar = make_sidecar(here, running)
        sidecar.start()
        await until_line(sidecar, near, "backup")
        async with steady_load(sidecar) as tally:
            await until_more(tally, 50)
            assert "near" not in tally.by_instance, "local first"
            for app in local:
                app.stop()
                await until_more(tally, 50)
                here.set_check(app.name, "critical")
                await until_line(sidecar, app)
            await until_line(sidecar, near, "server")
            await answers(sidecar, HOST, by="near")
            # Told is what nginx was seen to serve, which its first answer may be a moment before.
            await until(lambda: elsewhere(sidecar) == [("dc2", "serving")], "it told as serving")
            saw(f"two local instances died under load: {dict(tally.by_instance)}, {tally.failed} failed")
            again = stack.enter_context(App("again", port=local[0].port))
            here.set_check(local[0].name, "passing")
            # Behind itself too: it rests while there is somebody else, and then it does not.
            await until_line(sidecar, again, "server", "backup")
            await answers(sidecar, HOST, by="again")
            await until(lambda: elsewhere(sidecar) == [("dc2", "standby")], "it told as standby")


async def test_a_datacenter_that_hangs_does_not_hold_up_a_start(
    datacenters: Datacenters, running: NginxServer, make_sidecar: MakeSidecar
) -> None:
    """Injects a dc2 that takes connections and answers nothing, and a name that no datacenter has. The sidecar starts,
    serves, takes changes, and says what is missing."""
    [here], [dc2] = datacenters["dc1"], datacenters["dc2"]
    with App("local") as local, App("later") as later:
        here.register("web", port=local.port, tags=[ROUTE, "proxygen.failover=dc2,atlantis"])
        dc2.pause()
        try:
            sidecar = make_sidecar(here, running)
            sidecar.start()
            here.register("late", port=later.port, tags=["proxygen.route=late.example.com"])
            await answers(sidecar, "late.example.com", by="later")
            await until(lambda: warnings_of(sidecar, "dc2"), "a warning about dc2", timeout=60)
            assert "lists no such datacenter" in warnings_of(sidecar, "atlantis")[0]
            assert sidecar.request("/readyz")[0] == 200
        finally:
            dc2.resume()
        dc2.register("web", port=later.port)
        await until_line(sidecar, later, "server", "backup")
