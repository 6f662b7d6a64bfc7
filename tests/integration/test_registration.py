"""`Registration` against a real Consul: what it leaves there, and what it leaves alone."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proxygen.consul.client import ConsulClient
from proxygen.kit.errors import BadInput
from proxygen.registration import Health, HttpCheck, ProxyTags, Registration, TtlCheck, Weights
from proxygen.registration.address import interfaces
from proxygen.registration.live import set_tags
from proxygen.registration.owners import LEAVING
from proxygen.settings import ConsulSettings
from tests.harness.consul import ConsulAgent
from tests.harness.ports import free_port
from tests.harness.process import wait_until
from tests.integration.waiting import until

ROOT = Path(__file__).parents[2]

MakeConsul = Callable[..., ConsulAgent]

QUICK = TtlCheck(1.5)
"""A heartbeat every half second."""


def registration(consul: ConsulAgent, **changes: Any) -> Registration:
    values: dict[str, Any] = {"name": "web", "port": 8080, "id": "web-1", "address": "127.0.0.1", "drain": 0, **changes}
    return Registration(consul=consul.address, **values)


def held(consul: ConsulAgent) -> Any:
    """What the agent holds of the service, None where it does not."""
    return consul.get("/v1/agent/service/web-1")


def checks(consul: ConsulAgent) -> dict[str, str]:
    """The service's checks on the agent: id to status."""
    found = consul.get("/v1/agent/checks")
    return {id: check["Status"] for id, check in found.items() if check["ServiceID"] == "web-1"}


def writes(consul: ConsulAgent) -> int:
    """How often the service was registered so far; the agent logs each request."""
    return consul.log.read_text(errors="replace").count("/v1/agent/service/register")


async def test_the_service_is_there_while_the_block_runs(consul: ConsulAgent) -> None:
    async with registration(
        consul,
        tags=ProxyTags(route=["app.example.com"], canary="10%"),
        plain_tags=["v1"],
        meta={"team": "shop"},
        weights=Weights(passing=10, warning=2),
        tagged_addresses={"wan": ("203.0.113.7", 443)},
        check=[HttpCheck("/healthz"), QUICK],
    ) as entry:
        await until(lambda: entry.registered and consul.instances("web"), "the service in the catalog")
        (instance,) = await asyncio.to_thread(consul.instances, "web")
        service = instance["Service"]
        assert (service["ID"], service["Address"], service["Port"]) == ("web-1", "127.0.0.1", 8080)
        assert service["Tags"] == ["proxygen.route=app.example.com", "proxygen.canary=10%", "v1"]
        assert service["Meta"] == {"team": "shop"}
        assert service["Weights"] == {"Passing": 10, "Warning": 2}
        assert service["TaggedAddresses"]["wan"] == {"Address": "203.0.113.7", "Port": 443}
        assert checks(consul) == {"web-1:http": "critical", "web-1:ttl": "passing"}
    assert not entry.registered
    await until(lambda: not consul.instances("web"), "gone from the catalog")
    assert held(consul) is None
    assert checks(consul) == {}


def test_a_synchronous_application_has_the_same_with_with(consul: ConsulAgent) -> None:
    with registration(consul) as entry:
        wait_until(lambda: entry.registered, what="registered")
        assert checks(consul) == {"web-1:ttl": "passing"}
    assert held(consul) is None
    assert not [thread for thread in threading.enumerate() if "registration" in thread.name]


def test_the_drain_of_a_block_is_cut_short_from_another_thread(consul: ConsulAgent) -> None:
    """As a signal's handler does it; the entry goes all the same."""
    entry = registration(consul, drain="1h")
    entry.__enter__()
    wait_until(lambda: entry.registered, what="registered")
    leaving = threading.Thread(target=entry.__exit__, name="leaves", daemon=True)
    leaving.start()
    wait_until(lambda: "_service_maintenance:web-1" in checks(consul), what="the drain")
    assert leaving.is_alive()
    entry.hurry()
    leaving.join(60)
    assert not leaving.is_alive()
    assert held(consul) is None


async def test_with_inside_a_loop_is_refused(consul: ConsulAgent) -> None:
    with pytest.raises(TypeError, match="async with"), registration(consul):
        pass


async def test_a_registration_is_entered_once(consul: ConsulAgent) -> None:
    entry = registration(consul)
    async with entry:
        with pytest.raises(BadInput, match="started before"):
            await entry.start()


async def test_an_exception_and_a_cancellation_leave_nothing_behind(consul: ConsulAgent) -> None:
    with pytest.raises(ZeroDivisionError):
        async with registration(consul):
            _ = 1 / 0
    assert held(consul) is None
    entered = asyncio.Event()

    async def application() -> None:
        async with registration(consul, drain="1h"):
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(application())
    await entered.wait()
    task.cancel()
    await until(lambda: "_service_maintenance:web-1" in checks(consul), "the drain")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert held(consul) is None


async def test_it_drains_before_it_goes(consul: ConsulAgent) -> None:
    """In maintenance the entry stays until the drain is over; cancelling cuts the drain short and nothing else."""
    entry = registration(consul, drain="1h")
    async with entry:
        draining = asyncio.create_task(entry.withdraw())
        await until(lambda: checks(consul).get("_service_maintenance:web-1") == "critical", "maintenance")
        assert held(consul) is not None
        assert not draining.done()
        draining.cancel()
    assert held(consul) is None


async def test_an_unchanged_entry_is_not_written_again_and_a_changed_one_once(consul: ConsulAgent) -> None:
    first = registration(consul, plain_tags=["v1"], check=[HttpCheck("/"), QUICK])
    await first.start()
    await until(lambda: first.registered, "the first write")
    before = writes(consul)
    same = registration(consul, plain_tags=["v1"], check=[HttpCheck("/"), QUICK])
    await same.start()
    await until(lambda: same.registered, "the second look")
    assert writes(consul) == before
    changed = registration(consul, plain_tags=["v2"], check=HttpCheck("/other"))
    await changed.start()
    await until(lambda: writes(consul) == before + 1, "one write")
    assert held(consul)["Tags"] == ["v2"]
    # The old heartbeat would be critical for ever.
    await until(lambda: checks(consul) == {"web-1:http": "critical"}, "the checks of the changed entry")
    for entry in (first, same, changed):
        await entry.deregister()


async def test_health_of_the_application_is_the_checks_status(consul: ConsulAgent) -> None:
    now: list[Health] = [Health.PASSING]
    async with registration(consul, check=TtlCheck(1.5, lambda: now[0])):
        for health in (Health.WARNING, Health.CRITICAL, Health.PASSING):
            now[0] = health
            await until(lambda wanted=health: checks(consul)["web-1:ttl"] == wanted, f"{health}")  # type: ignore[misc]


async def test_tags_that_an_operator_sets_stay(consul: ConsulAgent) -> None:
    """Looking after an entry does not undo what `proxygen tags set` did to it."""
    asked = threading.Semaphore(0)

    def health() -> bool:
        asked.release()
        return True

    async with registration(consul, tags=ProxyTags(route=["app.example.com"]), check=TtlCheck(1.5, health)):
        async with ConsulClient(ConsulSettings(address=consul.address)) as client:
            await set_tags(client, "web-1", set_to={"canary": ["25%"]}, removed=[], prefix="proxygen")
        while asked.acquire(blocking=False):
            pass
        for _ in range(3):
            assert await asyncio.to_thread(asked.acquire, timeout=30)
        assert held(consul)["Tags"] == ["proxygen.route=app.example.com", "proxygen.canary=25%"]


async def test_a_check_that_somebody_removed_comes_back(consul: ConsulAgent) -> None:
    async with registration(consul, check=QUICK):
        await asyncio.to_thread(consul.put, "/v1/agent/check/deregister/web-1:ttl")
        await until(lambda: checks(consul) == {"web-1:ttl": "passing"}, "the check")


@pytest.mark.parametrize(("reason", "stays"), [(LEAVING, False), ("upgrade of the host", True)])
async def test_who_comes_back_ends_its_own_maintenance_and_no_operators(
    consul: ConsulAgent, reason: str, stays: bool
) -> None:
    """A process that was killed while it drained leaves the maintenance behind, under the id of its successor."""
    consul.register("web", id="web-1", port=8080)
    query = f"enable=true&reason={reason.replace(' ', '%20')}"
    consul.put(f"/v1/agent/service/maintenance/web-1?{query}")
    async with registration(consul) as entry:
        await until(lambda: entry.registered, "registered")
        assert ("_service_maintenance:web-1" in checks(consul)) == stays


async def test_an_application_starts_without_consul_and_is_registered_once_it_is_there(
    make_consul: MakeConsul, caplog: pytest.LogCaptureFixture
) -> None:
    consul = make_consul()
    entry = registration(consul, check=QUICK)
    async with entry:
        assert not entry.registered
        await asyncio.to_thread(consul.start)
        await until(lambda: entry.registered, "registered")
        assert held(consul) is not None
        await asyncio.to_thread(consul.stop)
        await until(lambda: not entry.registered, "the loss noticed")
    complaints = [line.getMessage() for line in caplog.records if "cannot be kept up" in line.getMessage()]
    assert 2 <= len(complaints) <= 4, "a line for each time that Consul went, not for each attempt"


async def test_a_rotated_token_is_taken_up(make_consul: MakeConsul, tmp_path: Path) -> None:
    consul = make_consul(config={"acl": {"enabled": True, "default_policy": "deny"}})
    await asyncio.to_thread(consul.start)
    consul.token = consul.put("/v1/acl/bootstrap")["SecretID"]
    consul.put("/v1/acl/policy", {"Name": "web", "Rules": 'service "web" { policy = "write" }'})
    tokens = [consul.put("/v1/acl/token", {"Policies": [{"Name": "web"}]}) for _ in range(2)]
    file = tmp_path / "token"
    file.write_text(tokens[0]["SecretID"])
    settings = ConsulSettings(address=consul.address, token_file=file)
    entry = Registration(name="web", port=8080, id="web-1", address="127.0.0.1", check=QUICK, drain=0, consul=settings)
    async with entry:
        # The right to write its own service is all that it needs.
        await until(lambda: entry.registered, "registered")
        await asyncio.to_thread(consul.request, "DELETE", f"/v1/acl/token/{tokens[0]['AccessorID']}")
        await until(lambda: not entry.registered, "the token refused", timeout=60)
        file.write_text(tokens[1]["SecretID"])
        await until(lambda: entry.registered, "registered by the new token", timeout=60)
    assert held(consul) is None


async def test_settings_that_cannot_be_are_told_at_once() -> None:
    with pytest.raises(BadInput, match=r"consul\.address"):
        await Registration(name="web", port=1, consul="user:pass@nowhere").start()
    with pytest.raises(BadInput, match="interface:nosuch0"):
        await Registration(name="web", port=1, consul="127.0.0.1:9", address="interface:nosuch0").start()


@pytest.mark.skipif(
    all(item.address.is_loopback or item.address.is_link_local for item in interfaces()),
    reason="this machine has no address to announce by default",
)
async def test_the_documentations_application_registers_and_leaves(consul: ConsulAgent, tmp_path: Path) -> None:
    """The page's example as it stands, on a port that is free here: in Consul while it runs, and ends with 0."""
    page = (ROOT / "docs/how-to/register.md").read_text(encoding="utf-8")
    example, *_ = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    script = tmp_path / "app.py"
    script.write_text(example.replace("8080", str(free_port())), encoding="utf-8")
    environment = {**os.environ, "CONSUL_HTTP_ADDR": consul.address, "PYTHONPATH": str(ROOT)}
    running = await asyncio.create_subprocess_exec(sys.executable, str(script), env=environment)
    try:
        await until(lambda: consul.get("/v1/agent/services"), "the application registered", timeout=60)
        (service,) = consul.get("/v1/agent/services").values()
        assert service["Tags"] == ["proxygen.route=app.example.com", "proxygen.canary=10%"]
        assert not service["Address"].startswith("127.")
        running.terminate()
        async with asyncio.timeout(60):
            assert await running.wait() == 0
        assert consul.get("/v1/agent/services") == {}
    finally:
        if running.returncode is None:
            running.kill()
            await running.wait()
