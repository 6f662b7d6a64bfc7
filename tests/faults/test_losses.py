"""A catalog that loses what nginx serves: held until it is confirmed, and a start that finds no catalog at all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import pytest

from tests.faults.history import KEEP_ALL, configurations, lacking
from tests.harness.app import App
from tests.harness.consul import ConsulAgent, rebuild_cluster
from tests.harness.nginx import NginxServer
from tests.harness.sidecar import Sidecar
from tests.harness.stream import Listener
from tests.integration.site import Site
from tests.integration.waiting import HOST, ROUTE, answers, call, status_of, steady_load, until

MakeSidecar = Callable[..., Sidecar]
MakeConsul = Callable[..., ConsulAgent]
Saw = Callable[[str], None]

SHOP: Final = "shop.example.com"
NEW: Final = "new.example.com"
HOLD: Final = 1500
"""Milliseconds."""


async def held(sidecar: Sidecar, *services: str) -> str:
    """Wait for a hold of these services alone, or of whichever, and return why; `/readyz` says the same."""
    reasons: list[str] = []

    def is_told() -> bool:
        hold = sidecar.status()["hold"]
        code, body = sidecar.request("/readyz")
        # Another reason may have come between the two answers.
        if hold is None or code != 503 or hold["reason"] not in body["reasons"]:
            return False
        reasons.append(hold["reason"])
        return not services or f"; {', '.join(services)} keep" in hold["reason"]

    await until(is_told, f"a hold of {services or 'anything'}", timeout=60)
    return reasons[-1]


async def until_gone(sidecar: Sidecar, host: str) -> None:
    """Wait until nobody serves a host."""
    deadline = time.monotonic() + 60
    while await status_of(sidecar, host) not in (404, 503):
        assert time.monotonic() < deadline, f"{host} is still served\n{sidecar.tail()}"
        await asyncio.sleep(0.05)


class Fleet:
    """Two services of two instances that an agent registers."""

    def __init__(self, agent: ConsulAgent, stack: ExitStack) -> None:
        self._agent = agent
        self.web = [stack.enter_context(App(f"web-{number}")) for number in range(2)]
        self.shop = [stack.enter_context(App(f"shop-{number}")) for number in range(2)]

    @property
    def ports(self) -> list[int]:
        return [app.port for app in (*self.web, *self.shop)]

    def register(self) -> None:
        for app in self.web:
            self._agent.register("web", port=app.port, tags=[ROUTE])
        for app in self.shop:
            self._agent.register("shop", port=app.port, tags=[f"proxygen.route={SHOP}"])


# --- T29 --------------------------------------------------------------------------------------------------------------


@pytest.mark.incident("T29")
async def test_t29_a_store_that_is_rebuilt_empties_nothing_before_its_services_are_back(
    cluster: list[ConsulAgent], local_agent: ConsulAgent, running: NginxServer, make_sidecar: MakeSidecar, saw: Saw
) -> None:
    """Injects the loss of all three servers with everything that they stored. The agents on the hosts live and
    register their services again by themselves; until then what nginx serves is held, and no request fails."""
    await call(age, local_agent)
    with ExitStack() as stack:
        fleet = Fleet(local_agent, stack)
        fleet.register()
        sidecar = make_sidecar(local_agent, running, **KEEP_ALL)
        sidecar.start()
        async with steady_load(sidecar), steady_load(sidecar, SHOP):
            await call(rebuild_cluster, cluster, [local_agent])
            await until(lambda: len(local_agent.instances("shop")) == 2, "the services in the new store", timeout=90)
            await call(local_agent.register, "new", port=fleet.ports[0], tags=[f"proxygen.route={NEW}"])
            await answers(sidecar, NEW)
            await until(lambda: sidecar.request("/readyz")[0] == 200, "ready, and nothing held", timeout=60)
        saw(f"{len(configurations(sidecar))} generations; {_holds(sidecar) or 'nothing had to be held'}")
        assert not lacking(sidecar, fleet.ports)


def age(agent: ConsulAgent) -> None:
    """Let the store count further than a new one does until its services are back, as one does that served for a while.

    By nothing else can half a service in a new store be told from one whose instances were registered anew."""
    for number in range(50):
        agent.kv_put("age", str(number))


def _holds(sidecar: Sidecar) -> list[str]:
    """Every reason for which something was held, once."""
    reasons = (str(event["reason"]) for event in sidecar.events() if str(event.get("reason", "")).startswith("held"))
    return list(dict.fromkeys(reasons))


@pytest.mark.incident("T29")
async def test_t29_services_that_register_again_end_the_hold(
    make_consul: MakeConsul, running: NginxServer, make_sidecar: MakeSidecar, saw: Saw
) -> None:
    """Injects a wiped store whose services come back one after the other. Each stays served throughout; the hold is
    over when all are back."""
    consul = make_consul()
    consul.start()
    with ExitStack() as stack:
        fleet = Fleet(consul, stack)
        fleet.register()
        sidecar = make_sidecar(consul, running, **KEEP_ALL)
        sidecar.start()
        async with steady_load(sidecar), steady_load(sidecar, SHOP):
            await call(consul.kill)
            await call(consul.start)
            saw(await held(sidecar))
            for app in fleet.web:
                # Each service is read by itself, and the other's loss may be seen first.
                await held(sidecar, "shop", "web")
                await call(consul.register, "web", port=app.port, tags=[ROUTE])
            await held(sidecar, "shop")
            await call(fleet.register)
            await until(lambda: sidecar.request("/readyz")[0] == 200, "ready, and nothing held", timeout=30)
        assert not lacking(sidecar, fleet.ports)


@pytest.mark.incident("T29")
async def test_t29_the_operator_lets_go_and_others_never_wait(
    make_consul: MakeConsul, running: NginxServer, make_sidecar: MakeSidecar
) -> None:
    """Injects a wiped store that stays empty. What nginx serves is held, a new service goes live meanwhile, and
    `proxygen release-hold` ends it."""
    consul = make_consul()
    consul.start()
    with ExitStack() as stack:
        fleet = Fleet(consul, stack)
        fleet.register()
        sidecar = make_sidecar(consul, running)
        sidecar.start()
        async with steady_load(sidecar), steady_load(sidecar, SHOP):
            await call(consul.kill)
            await call(consul.start)
            await held(sidecar, "shop", "web")
            await call(consul.register, "new", port=fleet.ports[0], tags=[f"proxygen.route={NEW}"])
            await answers(sidecar, NEW)
            await held(sidecar, "shop", "web")
        released = await call(sidecar.command, "release-hold")
        assert released.returncode == 0, released.stderr
        await until(lambda: sidecar.status()["hold"] is None, "nothing held")
        for host in (HOST, SHOP):
            await until_gone(sidecar, host)
        assert await status_of(sidecar, NEW) == 200
        await until(lambda: sidecar.request("/readyz")[0] == 200, "ready")


@pytest.mark.incident("T29")
async def test_t29_what_stays_lost_is_believed_after_the_holds_time(
    make_consul: MakeConsul, running: NginxServer, make_sidecar: MakeSidecar
) -> None:
    """Injects a wiped store that stays empty while nobody is there to decide."""
    consul = make_consul()
    consul.start()
    with ExitStack() as stack:
        fleet = Fleet(consul, stack)
        fleet.register()
        sidecar = make_sidecar(consul, running, guard__hold=f"{HOLD}ms")
        sidecar.start()
        await call(consul.kill)
        await call(consul.start)
        # What the sidecar tells cannot be missed, as a look at its state can on a busy machine.
        told = Listener(sidecar)
        began, ended = [await call(told.wait_for, kind) for kind in ("held", "hold ended")]
        lasted = datetime.fromisoformat(ended["at"]) - datetime.fromisoformat(began["at"])
        assert lasted >= timedelta(milliseconds=HOLD)
        await until_gone(sidecar, SHOP)
        await until(lambda: sidecar.request("/readyz")[0] == 200, "ready")
        assert sidecar.stop() == 0
        told.close()


# --- losses without a wipe --------------------------------------------------------------------------------------------


@pytest.mark.faults
async def test_most_of_all_servers_going_critical_at_once_is_held(
    consul: ConsulAgent, running: NginxServer, make_sidecar: MakeSidecar, saw: Saw
) -> None:
    """Injects checks that all fail together, as when the checker's own network is cut: the instances are alive, and
    every request is answered. A service whose instances go into maintenance meanwhile is nobody's loss."""
    with ExitStack() as stack:
        apps = {name: stack.enter_context(App(name)) for name in ("web", "shop", "cart", "mail")}
        services = {
            name: consul.register(name, port=app.port, tags=[f"proxygen.route={name}.example.com"], status="passing")
            for name, app in apps.items()
        }
        sidecar = make_sidecar(consul, running)
        sidecar.start()
        async with steady_load(sidecar, "shop.example.com"), steady_load(sidecar, "cart.example.com"):
            for name in ("web", "shop", "cart"):
                await call(consul.set_check, services[name], "critical")
            saw(await held(sidecar))
            await call(consul.set_maintenance, services["mail"], True)
            await answers(sidecar, "mail.example.com", 503)
            for name in ("web", "shop", "cart"):
                await call(consul.set_check, services[name], "passing")
            await until(lambda: sidecar.status()["hold"] is None, "nothing held", timeout=30)


@pytest.mark.faults
async def test_a_service_keeps_its_last_instances_where_the_operator_says_so(
    consul: ConsulAgent, running: NginxServer, make_sidecar: MakeSidecar, saw: Saw
) -> None:
    """Injects the deregistration of every instance of a service that must not fall below two; another one falls to
    nothing, as Consul says."""
    with ExitStack() as stack:
        fleet = Fleet(consul, stack)
        fleet.register()
        for number in range(9):
            port = stack.enter_context(App(f"other-{number}")).port
            consul.register("other", port=port, tags=["proxygen.route=other.example.com"])
        sidecar = make_sidecar(consul, running, guard__minimum_instances={"web*": 2})
        sidecar.start()
        async with steady_load(sidecar):
            for app in fleet.web:
                await call(consul.deregister, f"web-{app.port}")
            saw(await held(sidecar))
            for app in fleet.shop:
                await call(consul.deregister, f"shop-{app.port}")
            await until_gone(sidecar, SHOP)
            await call(fleet.register)
            await until(lambda: sidecar.status()["hold"] is None, "nothing held", timeout=30)


# --- T5 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.incident("T5")
async def test_t5_a_start_while_consul_is_down_goes_on_from_what_is_on_disk(
    make_consul: MakeConsul, server: NginxServer, make_sidecar: MakeSidecar, tmp_path: Path, saw: Saw
) -> None:
    """Injects the end of everything while Consul is down: nginx starts and serves from the generation on disk; the
    sidecar says how old its data is, renders a changed file from the catalog on disk, and takes Consul's changes
    when it is back."""
    snippets = tmp_path / "snippets"
    snippets.mkdir()
    consul = make_consul(persistent=True)
    consul.start()
    server.start()
    with ExitStack() as stack:
        fleet = Fleet(consul, stack)
        fleet.register()
        sidecar = make_sidecar(consul, server, proxy__snippets=str(snippets), **KEEP_ALL)
        sidecar.start()
        site = Site(consul, server, sidecar, None)  # type: ignore[arg-type]
        assert sidecar.stop() == 0
        consul.kill()
        server.kill()
        (snippets / "server.conf").write_text("add_header X-Snippet changed always;\n")
        server.start()
        await answers(sidecar)
        async with steady_load(sidecar), steady_load(sidecar, SHOP):
            await call(sidecar.start, ready=False)
            await until(lambda: site.ask(HOST).headers.get("x-snippet") == "changed", "the changed file", timeout=60)
            code, body = sidecar.request("/readyz")
            assert code == 503
            assert any("Consul" in reason for reason in body["reasons"])
            saw(str(body["reasons"]))
            await call(consul.start)
            await call(consul.register, "new", port=fleet.ports[0], tags=[f"proxygen.route={NEW}"])
            await answers(sidecar, NEW)
            await until(lambda: sidecar.request("/readyz")[0] == 200, "ready", timeout=30)
        assert not lacking(sidecar, fleet.ports)
