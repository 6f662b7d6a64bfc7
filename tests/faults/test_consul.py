"""What Consul does on a bad night, with the whole sidecar, a real nginx and requests that must not notice."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Final

import pytest

from tests.faults.history import KEEP_ALL, lacking
from tests.harness.app import App
from tests.harness.consul import ConsulAgent, leader_of
from tests.harness.fake_consul import FakeConsul, entry, fake_consul
from tests.harness.nginx import NginxServer
from tests.harness.outside import OutsideNode
from tests.harness.sidecar import Sidecar
from tests.integration.waiting import HOST, ROUTE, answers, call, outcome, said, steady_load, until

MakeSidecar = Callable[..., Sidecar]
Saw = Callable[[str], None]

SHOP: Final = "proxygen.route=shop.example.com"
NEW: Final = "new.example.com"


# --- T1: answers that cannot be ---------------------------------------------------------------------------------------


def _says_nothing(fake: FakeConsul) -> None:
    """200 with nothing to every question, to the leader's own answer too: a token that lost its rights, a new agent."""
    empty: dict[str, object] = {"/v1/catalog/services": {}}
    fake.fault = lambda request: fake.reply(empty.get(request.path, []))
    fake.change()


def _has_no_leader(fake: FakeConsul) -> None:
    fake.known_leader = False
    fake.put("web")


def _starts_over(fake: FakeConsul) -> None:
    """A lower index, and nothing under it."""
    for name in ("web", "shop"):
        del fake.services[name]
    fake.change(by=-90)


@pytest.mark.incident("T1")
@pytest.mark.parametrize("fault", [_says_nothing, _has_no_leader, _starts_over], ids=lambda fault: fault.__name__)
async def test_t1_an_answer_that_cannot_be_changes_nothing(
    running: NginxServer, make_sidecar: MakeSidecar, fault: Callable[[FakeConsul], None], saw: Saw
) -> None:
    """Injects an empty list, a lower index or an unknown leader. No generation is made, no request fails, and the
    sidecar says what is wrong; once the answers are right again, so is it."""
    async with fake_consul() as fake:
        with App("web-1") as app, App("shop-1") as shop:
            fake.put("web", entry("web", "web-1", app.port, ROUTE))
            fake.put("shop", entry("shop", "shop-1", shop.port, SHOP))
            before = dict(fake.services)
            sidecar = make_sidecar(fake.address, running)
            await call(sidecar.start)
            async with steady_load(sidecar):
                fault(fake)
                await until(lambda: _alarm(sidecar), "an alarm")
                saw(_alarm(sidecar))
                await asyncio.sleep(1)
                assert sidecar.generation() == 1
                fake.fault = lambda request: None
                fake.known_leader = True
                fake.services = before
                fake.change(by=200)
                fake.put("new", entry("new", "new-1", app.port, f"proxygen.route={NEW}"))
                await answers(sidecar, NEW)
                await until(lambda: not _alarm(sidecar), "no alarm any more", timeout=30)


def _alarm(sidecar: Sidecar) -> str:
    """What the status says is wrong; "" where nothing is."""
    status = sidecar.status()
    hold = status["hold"]["reason"] if status["hold"] else ""
    problem: str = hold or status["consul"]["problem"]
    return problem


@pytest.mark.incident("T1")
async def test_t1_servers_without_a_leader_change_nothing(
    cluster: list[ConsulAgent], running: NginxServer, make_sidecar: MakeSidecar, saw: Saw
) -> None:
    """Injects the death of two servers of three: the third answers, and knows no leader. Nothing changes until one of
    them is back, and then what changed goes through."""
    outside = OutsideNode(cluster)
    with App("web-1") as app:
        await call(outside.register, "web", app.port, f"route={HOST}")
        third = next(agent for agent in cluster if agent is not leader_of(cluster))
        others = [agent for agent in cluster if agent is not third]
        # A standing question that asks a server without a leader is answered when its time is over, not before.
        sidecar = make_sidecar(third, running, consul__wait="2s")
        await call(sidecar.start)
        async with steady_load(sidecar):
            for agent in others:
                await call(agent.kill)
            await until(lambda: _alarm(sidecar), "an alarm")
            saw(_alarm(sidecar))
            await asyncio.sleep(3)
            assert sidecar.generation() == 1
            await call(others[0].start, wait=False)
            await call(outside.register, "new", app.port, f"route={NEW}")
            await answers(sidecar, NEW)


# --- T2 to T4: servers and agents that die ----------------------------------------------------------------------------


@pytest.mark.incident("T2")
async def test_t2_an_agent_that_restarts_empties_nothing(
    make_consul: Callable[..., ConsulAgent], running: NginxServer, make_sidecar: MakeSidecar, saw: Saw
) -> None:
    """Injects a restart of the agent that forgets everything; its services register again 5 s later. No generation
    ever lacks a server, nginx is reloaded once at most, no request fails."""
    consul = make_consul()
    consul.start()
    with App("web-1") as one, App("web-2") as two, App("shop-1") as shop:

        def register() -> None:
            for name, app, tag in (("web", one, ROUTE), ("web", two, ROUTE), ("shop", shop, SHOP)):
                consul.register(name, port=app.port, tags=[tag])

        register()
        sidecar = make_sidecar(consul, running, **KEEP_ALL)
        sidecar.start()
        applies = sidecar.applies()
        async with steady_load(sidecar), steady_load(sidecar, "shop.example.com"):
            await call(consul.kill)
            await call(consul.start)
            await asyncio.sleep(5)
            await call(register)
            await until(lambda: sidecar.request("/readyz")[0] == 200, "ready again", timeout=30)
            await asyncio.sleep(2)
            saw(f"{sidecar.applies() - applies} reloads; said {_reasons(sidecar)}")
            assert sidecar.applies() <= applies + 1
            await call(consul.register, "new", port=one.port, tags=[f"proxygen.route={NEW}"])
            await answers(sidecar, NEW)
        assert not lacking(sidecar, [one.port, two.port, shop.port])


@pytest.mark.incident("T2")
async def test_t2_an_agent_that_restarts_and_has_checked_nothing_yet_empties_nothing(
    make_consul: Callable[..., ConsulAgent], running: NginxServer, make_sidecar: MakeSidecar, saw: Saw
) -> None:
    """Injects a restart of the agent that remembers its services and calls each critical until its check has run. They
    are too few to look like Consul's trouble. No generation lacks a server, no request fails; what was registered
    meanwhile and never checked gets none."""
    consul = make_consul(persistent=True)
    consul.start()
    with App("web-1") as web, App("shop-1") as shop, App("other") as other:
        _register_checked(consul, "web", web, ROUTE)
        _register_checked(consul, "shop", shop, SHOP, interval="1s")
        for number in range(6):
            consul.register(f"other-{number}", port=other.port, tags=[f"proxygen.route=other-{number}.example.com"])
        await until(lambda: _passing(consul, "web") == _passing(consul, "shop") == 1, "both checked")
        # Registered twice, so the agent starts with what the check said before; and it does not run for an hour.
        _register_checked(consul, "shop", shop, SHOP, interval="1h")
        sidecar = make_sidecar(consul, running, **KEEP_ALL)
        sidecar.start()
        async with steady_load(sidecar), steady_load(sidecar, "shop.example.com"):
            await call(consul.kill)
            await call(consul.start)
            await until(lambda: any("shop" in instance for instance in _kept(sidecar)), "an instance kept")
            await until(lambda: _unchecked(sidecar), "it is said")
            # Not a hold, for which every proxy beside this Consul would call itself unready.
            assert sidecar.status()["hold"] is None
            with App("new-1") as new:
                _register_checked(consul, "new", new, f"proxygen.route={NEW}", interval="1h")
                await answers(sidecar, NEW, 503)
                consul.deregister(f"new-{new.port}")
                await answers(sidecar, NEW, 404)
            _register_checked(consul, "shop", shop, SHOP, interval="1s")
            await until(lambda: not _unchecked(sidecar), "all checked", timeout=60)
            saw(f"kept {_kept(sidecar)}")
        assert not lacking(sidecar, [web.port, shop.port])


@pytest.mark.incident("T2")
async def test_t2_an_agent_that_tells_no_outputs_is_believed(
    make_consul: Callable[..., ConsulAgent], running: NginxServer, make_sidecar: MakeSidecar
) -> None:
    """Injects the end of an instance whose agent discards outputs: its check ran and failed, and looks as if it had
    not run. It leaves nginx at once, with the default guard.hold of five minutes."""
    consul = make_consul(config={"discard_check_output": True})
    consul.start()
    with App("other") as other:
        with App("web-1") as web:
            _register_checked(consul, "web", web, ROUTE, interval="1s")
            for number in range(6):
                consul.register(f"other-{number}", port=other.port, tags=[f"proxygen.route=other-{number}.example.com"])
            await until(lambda: _passing(consul, "web") == 1, "it is checked")
            sidecar = make_sidecar(consul, running)
            sidecar.start()
            await answers(sidecar)
        await answers(sidecar, HOST, 503)
        assert not _kept(sidecar)


@pytest.mark.incident("T2")
async def test_t2_what_is_never_checked_is_served_for_so_long_only(
    make_consul: Callable[..., ConsulAgent], running: NginxServer, make_sidecar: MakeSidecar
) -> None:
    """Injects an instance that is gone when its agent is back, which does not check it for an hour. guard.hold ends it,
    and not before: 503 says that nobody is there."""
    consul = make_consul(persistent=True)
    consul.start()
    with App("other") as other:
        with App("web-1") as web:
            _register_checked(consul, "web", web, ROUTE, interval="1s")
            for number in range(6):
                consul.register(f"other-{number}", port=other.port, tags=[f"proxygen.route=other-{number}.example.com"])
            await until(lambda: _passing(consul, "web") == 1, "it is checked")
            # A check that runs soon may fail before the agent tells Consul anything of it.
            _register_checked(consul, "web", web, ROUTE, interval="1h")
            sidecar = make_sidecar(consul, running, guard__hold="3s")
            sidecar.start()
            await call(consul.kill)
        await call(consul.start)
        kept = await outcome(sidecar, "unchecked instances served as before")
        await answers(sidecar, HOST, 503)
        # By the log's clock: on a busy machine a request would come too late to see the time between.
        gone = await outcome(sidecar, "generation applied", after=1)
        assert _moment(gone) - _moment(kept) > timedelta(seconds=2)
        await until(lambda: not sidecar.status()["warnings"], "no warning any more")


def _moment(event: Mapping[str, object]) -> datetime:
    return datetime.fromisoformat(str(event["timestamp"]))


def _kept(sidecar: Sidecar) -> list[str]:
    """Every instance that was served unchecked."""
    events = said(sidecar, "unchecked instances served as before")
    return sorted({instance for event in events for instance in str(event["instances"]).split(", ")})


def _register_checked(consul: ConsulAgent, name: str, app: App, tag: str, *, interval: str = "6s") -> None:
    check = {"HTTP": f"http://127.0.0.1:{app.port}/", "Interval": interval}
    consul.register(name, port=app.port, tags=[tag], check=check)


def _unchecked(sidecar: Sidecar) -> list[str]:
    return [warning for warning in sidecar.status()["warnings"] if "not checked since" in warning]


def _passing(consul: ConsulAgent, name: str) -> int:
    return len(consul.get(f"/v1/health/service/{name}?passing"))


def _reasons(sidecar: Sidecar) -> list[str]:
    """Every reason that was logged, once."""
    return list(dict.fromkeys(str(event["reason"]) for event in sidecar.events() if event.get("reason")))


@pytest.mark.incident("T3")
@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_t3_a_leader_that_dies_again_and_again_takes_no_server_along(
    cluster: list[ConsulAgent],
    local_agent: ConsulAgent,
    running: NginxServer,
    make_sidecar: MakeSidecar,
    seconds: Callable[[float, float], float],
    saw: Saw,
) -> None:
    """Injects the death of whoever leads, every 2 to 9 s, while another service's tags change. No generation ever
    lacks a server, the process lives, no request fails, and the last change goes through."""
    moments = random.Random(3)
    with App("web-1") as one, App("web-2") as two, App("shop-1") as shop, App("busy-1") as busy:
        for app in (one, two):
            local_agent.register("web", port=app.port, tags=[ROUTE], status="passing")
        OutsideNode(cluster).register("shop", shop.port, "route=shop.example.com")
        sidecar = make_sidecar(local_agent, running, **KEEP_ALL)

        async def keep_busy() -> None:
            for number in range(1, 1000):
                tags = ["proxygen.route=busy.example.com", f"proxygen.timeout={number}s"]
                await call(local_agent.register, "busy", port=busy.port, tags=tags)
                await asyncio.sleep(0.7)

        sidecar.start()
        pid, kills, end = sidecar.pid, 0, time.monotonic() + seconds(40, 300)
        async with steady_load(sidecar), steady_load(sidecar, "shop.example.com"):
            churn = asyncio.create_task(keep_busy())
            while time.monotonic() < end:
                leader = await call(leader_of, cluster)
                await call(leader.kill)
                kills += 1
                await asyncio.sleep(moments.uniform(2, 9))
                await call(leader.start, wait=False)
            assert not churn.done()
            churn.cancel()
            await asyncio.gather(churn, return_exceptions=True)
            await call(local_agent.register, "new", port=one.port, tags=[f"proxygen.route={NEW}"])
            await until(lambda: _has_leader(local_agent), "a leader", timeout=60)
            await answers(sidecar, NEW)
        saw(f"{kills} leaders killed, {sidecar.applies()} generations, none of them short of a server")
        assert (sidecar.running, sidecar.pid) == (True, pid)
        assert sidecar.applies() > 3, "changes went through between the elections"
        assert not lacking(sidecar, [one.port, two.port, shop.port])


def _has_leader(agent: ConsulAgent) -> bool:
    return bool(agent.get("/v1/status/leader"))


@pytest.mark.incident("T4")
@pytest.mark.slow
@pytest.mark.timeout(2400)
async def test_t4_a_long_outage_is_waited_out(
    make_consul: Callable[..., ConsulAgent],
    running: NginxServer,
    make_sidecar: MakeSidecar,
    seconds: Callable[[float, float], float],
    saw: Saw,
) -> None:
    """Injects an outage of Consul. The last good generation serves, the process lives and asks again for as long as
    it takes, `/readyz` says why, and soon after Consul is back a change goes through."""
    consul = make_consul(persistent=True)
    consul.start()
    with App("web-1") as app, App("shop-1") as shop:
        consul.register("web", port=app.port, tags=[ROUTE])
        consul.register("shop", port=shop.port, tags=[SHOP])
        sidecar = make_sidecar(consul, running, consul__wait="2s", admin__fresh="5s", **KEEP_ALL)
        sidecar.start()
        pid, failures = sidecar.pid, sidecar.status()["consul"]["failures"]
        async with steady_load(sidecar), steady_load(sidecar, "shop.example.com"):
            await call(consul.kill)
            await asyncio.sleep(seconds(0, 1800))
            # By then the longest pauses between two tries take some seconds.
            await until(
                lambda: sidecar.status()["consul"]["failures"] > failures + 12, "a dozen failed calls", timeout=60
            )
            await until(lambda: sidecar.request("/readyz")[0] == 503, "not ready")
            body = sidecar.request("/readyz")[1]
            (reason,) = (reason for reason in body["reasons"] if "Consul" in reason)
            assert sidecar.request("/healthz")[0] == 200
            assert sidecar.generation() == 1
            retries = sidecar.status()["consul"]["failures"] - failures
            await call(consul.start)
            back = time.monotonic()
            await call(consul.register, "new", port=app.port, tags=[f"proxygen.route={NEW}"])
            await answers(sidecar, NEW)
            took = time.monotonic() - back
            await until(lambda: sidecar.request("/readyz")[0] == 200, "ready again")
        saw(f"{retries} calls failed; {reason!r}; a change was served {took:.1f} s after Consul's return")
        assert sidecar.pid == pid
        assert not lacking(sidecar, [app.port, shop.port])


# --- T13 and T14: a catalog that moves, and says nothing --------------------------------------------------------------


@pytest.mark.incident("T13")
async def test_t13_an_index_that_moves_without_content_costs_nothing(
    consul: ConsulAgent, running: NginxServer, make_sidecar: MakeSidecar, saw: Saw
) -> None:
    """Injects a check whose output changes every 50 ms. Nothing is rendered, nginx is not reloaded, and the agent is
    asked a bounded number of times a second."""
    sidecar = make_sidecar(consul, running)
    outside = OutsideNode([consul])
    with App("web-1") as app:
        service = outside.register("web", app.port, f"route={HOST}")
        sidecar.start()
        await asyncio.sleep(1)
        events, requests, begin = len(sidecar.events()), sidecar.status()["consul"]["requests"], time.monotonic()
        async with steady_load(sidecar):
            for number in range(100):
                await call(outside.set_checks, {service: "passing"}, output=f"output {number}")
                await asyncio.sleep(0.05)
        rate = (sidecar.status()["consul"]["requests"] - requests) / (time.monotonic() - begin)
        saw(f"{rate:.1f} requests a second")
        assert sidecar.events()[events:] == []
        assert sidecar.generation() == 1
        assert 0.5 < rate < 10, "it was woken, and not each time"


@pytest.mark.incident("T14")
async def test_t14_a_service_that_comes_late_is_seen_at_once_while_others_churn(
    consul: ConsulAgent, running: NginxServer, make_sidecar: MakeSidecar, saw: Saw
) -> None:
    """Injects services without a route that come and go, while one with a route is still to come. The agent is asked
    a bounded number of times a second, and the one that comes is served soon."""
    sidecar = make_sidecar(consul, running)
    with App("web-1") as app:
        consul.register("web", port=app.port, tags=[ROUTE])
        sidecar.start()
        requests, begin = sidecar.status()["consul"]["requests"], time.monotonic()

        async def churn() -> None:
            for number in range(10_000):
                service = await call(consul.register, f"job-{number % 7}", port=1, tags=[f"run-{number}"])
                await asyncio.sleep(0.05)
                await call(consul.deregister, service)

        async with steady_load(sidecar):
            task = asyncio.create_task(churn())
            await asyncio.sleep(5)
            rate = (sidecar.status()["consul"]["requests"] - requests) / (time.monotonic() - begin)
            took = []
            for number in range(3):
                registered = time.monotonic()
                await call(consul.register, f"late-{number}", port=app.port, tags=[f"proxygen.route=late{number}.test"])
                await answers(sidecar, f"late{number}.test")
                took.append(time.monotonic() - registered)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        saw(f"{rate:.1f} requests a second; served after {', '.join(f'{each:.2f} s' for each in took)}")
        assert rate < 40
