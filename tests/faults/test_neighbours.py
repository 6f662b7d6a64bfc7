"""One tenant against the others, with the whole sidecar on a real Consul and a real nginx."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from tests.harness.app import App
from tests.harness.consul import ConsulAgent
from tests.harness.load import Load
from tests.harness.nginx import NginxServer
from tests.harness.sidecar import Sidecar
from tests.integration.waiting import ROUTE, answers, call, outcome, said, steady_load, until

MakeSidecar = Callable[..., Sidecar]
Saw = Callable[[str], None]

SLOW = {"Host": "slow.example.com"}
SHOP = "shop.example.com"
SHOP_ROUTE = f"proxygen.route={SHOP}"


def serving(sidecar: Sidecar, name: str) -> int:
    services = sidecar.status()["services"]
    found = [variant for service in services if service["name"] == name for variant in service["variants"]]
    return sum(one["state"] == "serving" for variant in found for one in variant["instances"])


@pytest.mark.incident("T57")
@pytest.mark.parametrize("kind", ["tags", "meta", "address", "port"])
async def test_t57_a_newcomer_that_cannot_be_used_is_left_out_alone(
    kind: str, consul: ConsulAgent, running: NginxServer, make_sidecar: MakeSidecar
) -> None:
    """Injects one more instance of a healthy service, with a mistyped tag, Meta, address or port. The service goes on
    as it was; the newcomer is named in status, log and `check`, and is served once it is mended."""
    bad: dict[str, dict[str, object]] = {
        "tags": {"tags": [ROUTE, "proxygen.canary=lots"]},
        "meta": {"tags": [ROUTE], "meta": {"proxygen-weight": "heavy"}},
        "address": {"tags": [ROUTE], "address": "web.internal"},
        "port": {"tags": [ROUTE], "address": "127.0.0.1"},
    }
    sidecar = make_sidecar(consul, running)
    with App("web-1") as one, App("web-2") as two:
        consul.register("web", port=one.port, tags=[ROUTE])
        sidecar.start()
        before = sidecar.generation()
        async with steady_load(sidecar):
            port = 70_000 if kind == "port" else two.port
            consul.register("web", id="newcomer", port=port, **bad[kind])  # type: ignore[arg-type]
            line = await outcome(sidecar, "instance left out")
            assert line["service"] == "web"
            assert "'newcomer'" in line["reason"]
            told = [one["text"] for one in sidecar.status()["conditions"] if one["topic"] == "instance"]
            assert [line["reason"]] == told
            checked = await call(sidecar.command, "check")
            assert checked.returncode == 1
            assert "newcomer" in checked.stderr
            assert sidecar.generation() == before
            consul.register("web", id="newcomer", port=two.port, tags=[ROUTE])
            await answers(sidecar, by="web-2")
        assert not sidecar.status()["quarantined"]


@pytest.mark.incident("T57")
async def test_t57_one_that_served_keeps_its_tags_across_a_restart_of_the_sidecar(
    consul: ConsulAgent, running: NginxServer, make_sidecar: MakeSidecar
) -> None:
    """Injects a mistyped tag on the only instance, and a restart. It is served as before, with its old weight, and with
    the new tags once they are mended."""
    sidecar = make_sidecar(consul, running)
    with App("web-1") as one:
        consul.register("web", id="web-1", port=one.port, tags=[ROUTE, "proxygen.sticky=ip"])
        sidecar.start()
        async with steady_load(sidecar):
            consul.register("web", id="web-1", port=one.port, tags=[ROUTE, "proxygen.sticky=nonsense"])
            await outcome(sidecar, "instance served with its previous tags")
            sidecar.stop()
            sidecar.start()
            await outcome(sidecar, "instance served with its previous tags", after=1)
            assert not sidecar.status()["quarantined"]
            consul.register("web", id="web-1", port=one.port, tags=[ROUTE, "proxygen.route=more.example.com"])
            await answers(sidecar, "more.example.com")


@pytest.mark.incident("T52")
async def test_t52_a_tenant_that_leaves_holds_nobody_elses_removals(
    consul: ConsulAgent, running: NginxServer, make_sidecar: MakeSidecar
) -> None:
    """Injects a tenant who deregisters 30 of his 38 servers. They are held; another service's instance that is
    deregistered afterwards is gone from nginx in no more time than without."""
    sidecar = make_sidecar(consul, running)
    with ExitStack() as stack:
        web = [stack.enter_context(App(f"web-{number}")) for number in range(4)]
        shop = [stack.enter_context(App(f"shop-{number}")) for number in range(2)]
        ids = [consul.register("web", port=app.port, tags=[ROUTE]) for app in web]
        shops = [consul.register("shop", port=app.port, tags=[SHOP_ROUTE]) for app in shop]
        tenant = [
            consul.register("tenant", id=f"t{number}", port=20_000 + number, tags=["proxygen.route=tenant.example.com"])
            for number in range(38)
        ]
        sidecar.start()
        for one in tenant[:30]:
            consul.deregister(one)
        await until(lambda: (sidecar.status()["hold"] or {}).get("services") == {"tenant": 30}, "the tenant held")
        async with steady_load(sidecar):
            consul.deregister(ids[0])
            consul.deregister(shops[1])
            await until(lambda: (serving(sidecar, "web"), serving(sidecar, "shop")) == (3, 1), "the others' removals")
            await outcome(sidecar, "generation applied", after=1)
        assert sidecar.status()["hold"]["services"] == {"tenant": 30}
        assert serving(sidecar, "tenant") == 38


@pytest.mark.incident("T55")
async def test_t55_who_flaps_beside_slow_clients_holds_nobody_up(
    consul: ConsulAgent, running: NginxServer, make_sidecar: MakeSidecar, saw: Saw
) -> None:
    """Injects a tag that changes every 0.3 s while slow requests keep old workers alive, as many as there may be. A
    newcomer is served while no more than two reloads go by, its next change does not wait, and the one that flaps is
    served in the end as it is then."""
    cap = 12
    sidecar = make_sidecar(consul, running, reload__max_draining=cap, reload__interval="500ms")
    with App("web-1") as web, App("slow-1") as slow, App("new-1") as new:
        consul.register("web", id="web-1", port=web.port, tags=[ROUTE])
        consul.register("slow", port=slow.port, tags=["proxygen.route=slow.example.com"])
        sidecar.start()
        stopped = asyncio.Event()

        async def flap() -> None:
            for number in itertools.count():
                if stopped.is_set():
                    return
                tags = [ROUTE, f"proxygen.timeout={number % 50 + 10}s"]
                await call(consul.register, "web", id="web-1", port=web.port, tags=tags)
                await asyncio.sleep(0.3)

        async with asyncio.TaskGroup() as group:

            async def crawl() -> None:
                """Ask again and again for what takes long, so that each generation of workers has some of it."""
                while not stopped.is_set():
                    load = Load("127.0.0.1", sidecar.http, path="/?delay=8", headers=SLOW, clients=1, timeout=60)
                    group.create_task(load.send(1), name="slow request")
                    await asyncio.sleep(0.2)

            group.create_task(crawl(), name="slow requests")
            group.create_task(flap(), name="flapping")
            await outcome(sidecar, "service changes too often, waiting")
            for number in range(3):
                before = len(sidecar.proven())
                began = time.monotonic()
                consul.register(f"new{number}", port=new.port, tags=[f"proxygen.route=new{number}.example.com"])
                await answers(sidecar, f"new{number}.example.com")
                reloads = len(sidecar.proven()) - before
                saw(f"a newcomer after {time.monotonic() - began:.1f} s and {reloads} reloads")
                assert reloads <= 2
            began = time.monotonic()
            tags = ["proxygen.route=new2.example.com", "proxygen.route=more.example.com"]
            consul.register("new2", port=new.port, tags=tags)
            await answers(sidecar, "more.example.com")
            saw(f"its next change after {time.monotonic() - began:.1f} s")
            assert {line["service"] for line in said(sidecar, "service changes too often, waiting")} == {"web"}
            waits = [line["seconds"]["drain"] for line in said(sidecar, "generation applied")]
            assert max(waits) < 1, "nobody waited for old workers to end"
            stopped.set()
        consul.register("web", id="web-1", port=web.port, tags=[ROUTE, "proxygen.route=last.example.com"])
        await answers(sidecar, "last.example.com")
