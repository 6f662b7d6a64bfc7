"""What services do to themselves and to each other, with the whole sidecar on a real Consul and a real nginx."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from tests.faults.history import (
    KEEP_ALL,
    assert_pauses_grew,
    configurations,
    has_given_up_often,
    lacking,
    servers,
)
from tests.harness.app import App
from tests.harness.consul import ConsulAgent
from tests.harness.load import Load
from tests.harness.nginx import NginxServer
from tests.harness.outside import OutsideNode
from tests.harness.process import wait_until
from tests.harness.sidecar import Sidecar
from tests.integration.certificates import Authority
from tests.integration.site import Site
from tests.integration.waiting import HOST, ROUTE, answers, call, outcome, said, status_of, steady_load, until

MakeSidecar = Callable[..., Sidecar]

HOSTILE = {
    "host-with-syntax": ["proxygen.route=evil;}.example.com"],
    "host-that-ends-the-block": ["proxygen.route=evil.example.com; } server { listen 81"],
    "path-with-brace": ["proxygen.route=evil.example.com/{ /x"],
    "weight-that-is-no-number": ["proxygen.route=evil1.example.com", "proxygen.weight=heavy"],
    "empty-host": ["proxygen.route="],
    "newline": ["proxygen.route=evil2.example.com\n/x"],
    "tab": ["proxygen.route=evil3.example.com/\tx"],
    "dollar": ["proxygen.route=$host/"],
    "regular-expression": ["proxygen.route=~^.*$"],
    "quote": ['proxygen.route=evil4.example.com/"x'],
}


@pytest.mark.incident("T6")
async def test_t6_a_hostile_tag_takes_out_its_own_service_alone(
    consul: ConsulAgent, running: NginxServer, make_sidecar: MakeSidecar
) -> None:
    """Injects tags with nginx syntax, control characters and nonsense, all at once. Each of their services is
    quarantined with the tag as the place; every other service is served, before and after."""
    sidecar = make_sidecar(consul, running)
    with App("web-1") as app:
        consul.register("web", port=app.port, tags=[ROUTE])
        sidecar.start()
        async with steady_load(sidecar):
            for name, tags in HOSTILE.items():
                consul.register(name, port=app.port, tags=tags)
            await until(
                lambda: {item["service"] for item in sidecar.status()["quarantined"]} == HOSTILE.keys(),
                "every hostile service quarantined, and nobody else",
            )
            consul.register("late", port=app.port, tags=["proxygen.route=late.example.com"])
            await answers(sidecar, "late.example.com")
        for item in sidecar.status()["quarantined"]:
            keys = [tag.partition("=")[0] for tag in HOSTILE[item["service"]]]
            assert any(item["place"].endswith(key) for key in keys)
            assert item["reason"]
    assert not said(sidecar, "candidate rejected")
    assert not said(sidecar, "reload rolled back")
    assert "emerg" not in running.errors()


@pytest.mark.incident("T7")
async def test_t7_a_service_without_a_healthy_instance_says_so_and_nobody_else_notices(
    consul: ConsulAgent, running: NginxServer, make_sidecar: MakeSidecar
) -> None:
    """Injects critical checks on every instance of one service. Its routes answer 503 with a page and say when to ask
    again; every other virtual server is untouched, to the letter."""
    sidecar = make_sidecar(consul, running)
    with App("web-1") as one, App("web-2") as two, App("shop-1") as shop:
        checked = [consul.register("web", port=app.port, tags=[ROUTE], status="passing") for app in (one, two)]
        consul.register("shop", port=shop.port, tags=["proxygen.route=shop.example.com"])
        sidecar.start()
        async with steady_load(sidecar, "shop.example.com"):
            for service in checked:
                await call(consul.set_check, service, "critical")
            await answers(sidecar, status=503)
            site = Site(consul, running, sidecar, Authority())
            page = await call(site.ask, HOST)
            assert page.headers["retry-after"] == "5"
            assert page.headers["content-type"].startswith("text/html")
            assert b"<html" in page.body
            assert await status_of(sidecar, path="/anything") == 503
            await call(consul.set_check, checked[0], "passing")
            await answers(sidecar, by="web-1")
    assert not said(sidecar, "reload rolled back")


@pytest.mark.incident("T9")
async def test_t9_nginx_that_is_absent_is_waited_for(
    consul: ConsulAgent, server: NginxServer, make_sidecar: MakeSidecar
) -> None:
    """Injects a start without nginx. The sidecar lives, says what is missing, asks again with growing pauses, and
    is ready by itself once nginx is there."""
    sidecar = make_sidecar(consul, server)
    with App("web-1") as app:
        consul.register("web", port=app.port, tags=[ROUTE])
        sidecar.start(ready=False)
        await until(lambda: has_given_up_often(sidecar), "attempts", timeout=60)
        attempts = said(sidecar, "candidate rejected")
        assert_pauses_grew(attempts)
        assert all("start nginx" in attempt["reason"] for attempt in attempts)
        code, body = sidecar.request("/readyz")
        assert code == 503
        assert any("start nginx" in reason for reason in body["reasons"])
        assert sidecar.request("/healthz")[0] == 200
        server.start()
        await answers(sidecar)
        sidecar.wait_ready()
    assert sidecar.generation() == 1, "no attempt made a generation of its own"


@pytest.mark.incident("T9")
async def test_t9_a_master_that_hangs_costs_nobody_a_request(
    consul: ConsulAgent, running: NginxServer, make_sidecar: MakeSidecar
) -> None:
    """Injects a master that is stopped (SIGSTOP) when it is asked to reload. After the deadline the old generation
    is the live one again, its workers serve all along, and the change goes through once the master wakes."""
    sidecar = make_sidecar(consul, running, reload__deadline="1s", reload__overlap="300ms")
    with App("web-1") as app:
        consul.register("web", port=app.port, tags=[ROUTE])
        sidecar.start()
        async with steady_load(sidecar):
            running.send_signal(signal.SIGSTOP)
            try:
                consul.register("new", port=app.port, tags=["proxygen.route=new.example.com"])
                event = await outcome(sidecar, "reload rolled back")
            finally:
                running.send_signal(signal.SIGCONT)
            assert "did not confirm the reload" in event["reason"]
            assert event["generation"] == 1
            await answers(sidecar, "new.example.com")
        await until(lambda: sidecar.request("/readyz")[0] == 200, "ready again")


@pytest.mark.incident("T18")
async def test_t18_twenty_services_that_change_together_are_one_reload(
    consul: ConsulAgent, running: NginxServer, make_sidecar: MakeSidecar
) -> None:
    """Injects twenty registrations, each within the settle time of the one before, and one more when they are served:
    one candidate is checked and nginx reloads once for the twenty, and once for the one."""
    sidecar = make_sidecar(consul, running, reload__settle="1s", reload__gap="0ms")
    with App("web-1") as app:
        consul.register("web", port=app.port, tags=[ROUTE])
        sidecar.start()
        applies, reloads, generation = sidecar.applies(), _reloads(running), sidecar.generation()
        assert generation is not None
        for number in range(20):
            await call(consul.register, f"web{number}", port=app.port, tags=[f"proxygen.route=web{number}.example.com"])
        for number in range(20):
            await answers(sidecar, f"web{number}.example.com")
        # Whatever is still on its way is served before what comes after it.
        assert sidecar.applies() <= applies + 1
        await call(consul.register, "after", port=app.port, tags=["proxygen.route=after.example.com"])
        await answers(sidecar, "after.example.com")
        await until(lambda: sidecar.applies() >= applies + 2, "the proof of the change after them")
    assert sidecar.applies() == applies + 2
    assert _reloads(running) == reloads + 2
    assert sidecar.generation() == generation + 2


@pytest.mark.incident("T24")
async def test_t24_an_address_stays_until_both_of_its_registrations_are_gone(
    consul: ConsulAgent, running: NginxServer, make_sidecar: MakeSidecar
) -> None:
    """Injects the same id, address and port, registered on two nodes. It stands in the upstream once, stays there
    when one of them lets it go, and is gone after the other did."""
    first, second = (OutsideNode([consul], name) for name in ("first", "second"))
    sidecar = make_sidecar(consul, running, **KEEP_ALL)
    with App("web-1") as app, App("web-2") as other:
        services = [node.register("web", app.port, f"route={HOST}") for node in (first, second)]
        consul.register("web", port=other.port, tags=[ROUTE])
        wait_until(lambda: len(consul.instances("web")) == 3, what="three registrations")
        sidecar.start()
        async with steady_load(sidecar) as tally:
            await call(first.deregister, services[0])
            await call(consul.register, "new", port=other.port, tags=["proxygen.route=new.example.com"])
            await answers(sidecar, "new.example.com")
            assert not lacking(sidecar, [app.port, other.port])
            assert all(servers(text).count(app.port) == 1 for text in configurations(sidecar).values())
            assert tally.by_instance["web-1"] > 0
            await call(second.deregister, services[1])
            await until(lambda: app.port not in _live(sidecar), "it gone", timeout=60)


@pytest.mark.incident("T26")
async def test_t26_a_rolling_deploy_never_loses_its_route(
    consul: ConsulAgent, running: NginxServer, make_sidecar: MakeSidecar
) -> None:
    """Injects a rolling deploy: tags change on one instance after the other, and each is replaced by a new one,
    while another service wants the same host. No request fails, and the other service never gets one; a host that
    the new tags do not name is served for as long as one instance has the old ones."""
    sidecar = make_sidecar(consul, running)
    old_tags = [ROUTE, "proxygen.route=old.example.com", "proxygen.timeout=5s"]
    new_tags = [ROUTE, "proxygen.route=new.example.com", f"{ROUTE}/v2", "proxygen.timeout=9s"]
    with ExitStack() as stack:
        old = [stack.enter_context(App(f"old-{number}")) for number in range(3)]
        new = [stack.enter_context(App(f"new-{number}")) for number in range(3)]
        rival = stack.enter_context(App("rival"))
        before = [consul.register("web", port=app.port, tags=old_tags) for app in old]
        consul.register("rival", port=rival.port, tags=[ROUTE])
        sidecar.start()
        async with steady_load(sidecar) as tally:
            async with steady_load(sidecar, "old.example.com"):
                for app in old[:-1]:
                    await call(consul.register, "web", port=app.port, tags=new_tags)
                    await answers(sidecar, "new.example.com")
            consul.register("web", port=old[-1].port, tags=new_tags)
            await answers(sidecar, "old.example.com", 404)
            for service, app, gone in zip(before, new, old, strict=True):
                await call(consul.register, "web", port=app.port, tags=new_tags)
                await answers(sidecar, by=app.name)
                await call(consul.deregister, service)
                await until(lambda: gone.port not in _live(sidecar), f"{gone.name} gone", timeout=60)  # noqa: B023
        assert tally.by_instance["rival"] == 0
        (conflict,) = sidecar.status()["conflicts"]
        assert (conflict["holder"], conflict["loser"]) == ("web", "rival")
    assert sidecar.applies() > 3, "the deploy was seen in steps"


@pytest.mark.incident("T27")
async def test_t27_whoever_is_there_serves(
    consul: ConsulAgent, running: NginxServer, make_sidecar: MakeSidecar
) -> None:
    """Injects splits of which one side has no instance: the other side serves everything, whatever the share."""
    sidecar = make_sidecar(consul, running)
    splits = [(side, share) for side in ("stable", "canary") for share in (100, 30)]
    with App("stable") as stable, App("canary") as canary:
        apps = {"stable": stable, "canary": canary}
        for side, share in splits:
            tags = [f"proxygen.route={side}{share}.example.com"]
            tags += [f"proxygen.canary={share}%"] if side == "canary" else []
            consul.register(f"{side}{share}", port=apps[side].port, tags=tags)
            consul.kv_put(f"proxygen/canary/{side}{share}", f'{{"canary": "{share}%"}}')
        sidecar.start()
        for side, share in splits:
            host = f"{side}{share}.example.com"
            await answers(sidecar, host)
            tally = await Load("127.0.0.1", sidecar.http, headers={"Host": host}).send(100)
            assert dict(tally.by_instance) == {side: 100}, host
            assert not tally.failures, host


@pytest.mark.incident("T27")
async def test_t27_a_canary_at_zero_stays_drained_even_where_nobody_else_is_left(
    consul: ConsulAgent, running: NginxServer, make_sidecar: MakeSidecar
) -> None:
    """Injects an aborted canary (0 %) without a stable instance: an operator who took it out gets a 503, not it."""
    sidecar = make_sidecar(consul, running)
    with App("canary") as app:
        consul.register("web", port=app.port, tags=[ROUTE, "proxygen.canary=0%"])
        sidecar.start()
        await answers(sidecar, status=503)
        assert app.requests == 0


@pytest.mark.incident("T27")
async def test_t27_a_side_that_dies_leaves_its_share_to_the_other(
    consul: ConsulAgent, running: NginxServer, make_sidecar: MakeSidecar
) -> None:
    """Injects canary 100 % and then critical checks: first the canary's, then everybody's, then the stable's."""
    sidecar = make_sidecar(consul, running)
    with App("stable") as stable_app, App("canary") as canary_app:
        stable = consul.register("web", port=stable_app.port, tags=[ROUTE], status="passing")
        canary = consul.register("web", port=canary_app.port, tags=[ROUTE, "proxygen.canary=100%"], status="passing")
        sidecar.start()
        await answers(sidecar, by="canary")
        consul.set_check(canary, "critical")
        await answers(sidecar, by="stable")
        consul.set_check(stable, "critical")
        await answers(sidecar, status=503)
        consul.set_check(canary, "passing")
        await answers(sidecar, by="canary")
        consul.set_check(stable, "passing")
        await until(lambda: stable_app.port in _live(sidecar), "stable back", timeout=60)
        await answers(sidecar, by="canary")


def _live(sidecar: Sidecar) -> list[int]:
    """The ports of the server lines of the newest generation."""
    return servers(list(configurations(sidecar).values())[-1])


def _reloads(server: NginxServer) -> int:
    """How often nginx read its configuration again."""
    return server.errors().count("(SIGHUP) received")
