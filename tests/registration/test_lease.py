from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from itertools import pairwise
from typing import Any, cast

import pytest
import structlog
from structlog.testing import capture_logs

from proxygen.kit.errors import ConsulUnreachable
from proxygen.registration import HttpCheck, TcpCheck, TtlCheck
from proxygen.registration.agent import Agent
from proxygen.registration.lease import LOOK, Lease
from proxygen.registration.owners import LEAVING
from proxygen.registration.service import Announcement, HeldByAgent
from tests.model.clock import simulated_time


class SilentAgent:
    """An agent that takes a registration and never answers it, and remembers what else it is told."""

    address = "nowhere"
    token_mark = ""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.maintenance: list[bool] = []
        self.deregistered: list[str] = []

    async def look(self, service_id: str) -> HeldByAgent | None:
        return None

    async def register(self, body: Mapping[str, Any]) -> None:
        self.asked.set()
        await asyncio.Event().wait()

    async def set_maintenance(self, service_id: str, *, enable: bool, reason: str = "") -> None:
        self.maintenance.append(enable)

    async def deregister(self, service_id: str) -> None:
        self.deregistered.append(service_id)


class DeadAgent(SilentAgent):
    async def look(self, service_id: str) -> HeldByAgent | None:
        raise ConsulUnreachable("nobody there")


def lease_on(agent: SilentAgent, **changes: Any) -> Lease:
    service = Announcement(name="web", port=80, id="web-1", **changes).service("10.0.0.7")
    return Lease(service, cast("Agent", agent))


async def test_what_may_have_been_written_is_withdrawn_and_removed() -> None:
    """A registration whose answer never came may be in Consul, and in a proxy."""
    agent = SilentAgent()
    lease = lease_on(agent)
    keeper = asyncio.create_task(lease.keep())
    await agent.asked.wait()
    keeper.cancel()
    await asyncio.wait({keeper})
    assert not lease.registered
    assert await lease.withdraw()
    await lease.deregister()
    assert (agent.maintenance, agent.deregistered) == ([True], ["web-1"])


async def test_what_was_never_written_needs_no_farewell() -> None:
    agent = DeadAgent()
    lease = lease_on(agent)
    keeper = asyncio.create_task(lease.keep())
    await lease.attempted.wait()
    keeper.cancel()
    await asyncio.wait({keeper})
    assert not await lease.withdraw()
    await lease.deregister()
    assert (agent.maintenance, agent.deregistered) == ([], [])


@pytest.mark.parametrize(
    ("ttls", "rhythm"), [([], LOOK), ([15], 5), ([6, 15], 2), ([300], LOOK)], ids=lambda value: str(value)
)
async def test_the_rhythm_is_a_third_of_the_shortest_ttl_and_never_slow(ttls: list[float], rhythm: float) -> None:
    lease = lease_on(SilentAgent(), check=[TcpCheck(), *map(TtlCheck, ttls)])
    assert lease.rhythm == rhythm


# --- what an agent holds, and what is written of it ------------------------------------------------------------------


class RememberingAgent:
    """Holds one service as Consul's agent does, and remembers what it was told."""

    address = "agent:8500"
    token_mark = ""

    def __init__(self) -> None:
        self.held: HeldByAgent | None = None
        self.bodies: list[Mapping[str, Any]] = []
        self.beats: list[tuple[str, str, str]] = []
        self.removed: list[str] = []
        self.maintenance: list[tuple[bool, str]] = []
        self.deregistered: list[str] = []
        self.failures: list[Exception] = []
        self.lost_answers = 0
        """So many registrations are done, and their answers lost."""

    def _fail(self) -> None:
        if self.failures:
            raise self.failures.pop(0)

    async def look(self, service_id: str) -> HeldByAgent | None:
        assert service_id == "web-1"
        self._fail()
        return self.held

    async def register(self, body: Mapping[str, Any]) -> None:
        self.bodies.append(body)
        checks = {check["CheckID"]: {"Notes": check["Notes"], "Status": check["Status"]} for check in body["Checks"]}
        known = dict(self.held.checks) if self.held is not None else {}
        self.held = HeldByAgent(service={**body, "Service": body["Name"]}, checks={**known, **checks})
        if self.lost_answers:
            self.lost_answers -= 1
            raise ConsulUnreachable("cut")

    async def beat(self, check_id: str, status: str, note: str) -> None:
        self.beats.append((check_id, status, note))

    async def remove_check(self, check_id: str) -> None:
        self.removed.append(check_id)

    async def set_maintenance(self, service_id: str, *, enable: bool, reason: str = "") -> None:
        self._fail()
        self.maintenance.append((enable, reason))

    async def deregister(self, service_id: str) -> None:
        self._fail()
        self.deregistered.append(service_id)


def ids(body: Mapping[str, Any]) -> list[str]:
    return [check["CheckID"] for check in body["Checks"]]


def remembered(agent: RememberingAgent, **changes: Any) -> Lease:
    return lease_on(cast("SilentAgent", agent), **{"check": [HttpCheck("/"), TtlCheck()], **changes})


async def test_the_first_look_writes_everything_and_later_ones_only_what_is_lost() -> None:
    agent = RememberingAgent()
    lease = remembered(agent)
    assert not lease.registered
    await lease.renew()
    assert lease.registered
    assert ids(agent.bodies[0]) == ["web-1:http", "web-1:ttl"]
    assert [check["Status"] for check in agent.bodies[0]["Checks"]] == ["critical", "passing"], "what is known is told"
    assert agent.beats == [("web-1:ttl", "passing", "")]
    await lease.renew()
    assert (len(agent.bodies), len(agent.beats)) == (1, 2)
    assert agent.held is not None
    agent.held = HeldByAgent(service={**agent.held.service, "Tags": ["by an operator"]}, checks=agent.held.checks)
    await lease.renew()
    assert len(agent.bodies) == 1, "what an operator changed stays"
    agent.held = HeldByAgent(service=agent.held.service, checks={"web-1:http": agent.held.checks["web-1:http"]})
    await lease.renew()
    assert ids(agent.bodies[1]) == ["web-1:ttl"], "a check that is there keeps its status"
    agent.held = None
    await lease.renew()
    assert ids(agent.bodies[2]) == ["web-1:http", "web-1:ttl"]


async def test_another_token_writes_everything_once_more_and_keeps_what_an_operator_changed() -> None:
    """An agent tells the catalog by the token that wrote a service and a check, which Consul may have forgotten."""
    agent = RememberingAgent()
    agent.token_mark = "first"
    lease = remembered(agent)
    await lease.renew()
    assert agent.held is not None
    http = {**agent.held.checks["web-1:http"], "Status": "warning"}
    agent.held = HeldByAgent(
        service={**agent.held.service, "Tags": ["by an operator"]},
        checks={**agent.held.checks, "web-1:http": http},
    )
    agent.token_mark = "second"
    await lease.renew()
    await lease.renew()
    (_, body) = agent.bodies
    assert (body["Tags"], ids(body)) == (["by an operator"], ["web-1:http", "web-1:ttl"])
    assert [check["Status"] for check in body["Checks"]] == ["warning", "passing"]
    await remembered(agent, plain_tags=["by an operator"]).renew()
    assert len(agent.bodies) == 2, "a life after it, by the same token, writes nothing"
    agent.token_mark = "third"
    await remembered(agent, plain_tags=["by an operator"]).renew()
    assert ids(agent.bodies[2]) == ["web-1:http", "web-1:ttl"]


async def test_a_start_compares_what_an_earlier_life_left_and_keeps_what_consul_found_out() -> None:
    agent = RememberingAgent()
    await remembered(agent).renew()
    assert agent.held is not None
    http = {**agent.held.checks["web-1:http"], "Status": "warning"}
    agent.held = HeldByAgent(service=agent.held.service, checks={**agent.held.checks, "web-1:http": http})
    await remembered(agent).renew()
    assert len(agent.bodies) == 1, "all is as it was"
    await remembered(agent, meta={"a": "b"}).renew()
    assert (agent.bodies[1]["Meta"], ids(agent.bodies[1])) == ({"a": "b"}, [])
    await remembered(agent, meta={"a": "b"}, check=[HttpCheck("/", interval=7), TtlCheck()]).renew()
    assert ids(agent.bodies[2]) == ["web-1:http"]
    assert agent.bodies[2]["Checks"][0]["Status"] == "warning", "a registration is no reason to doubt it"
    assert agent.removed == []
    await remembered(agent, meta={"a": "b"}, check=TtlCheck()).renew()
    assert agent.removed == ["web-1:http"]


async def test_a_move_is_one_write_of_what_names_the_address_and_keeps_what_an_operator_changed() -> None:
    agent = RememberingAgent()
    lease = remembered(agent)
    await lease.renew()
    assert agent.held is not None
    http = {**agent.held.checks["web-1:http"], "Status": "passing"}
    agent.held = HeldByAgent(
        service={**agent.held.service, "Tags": ["by an operator"]},
        checks={**agent.held.checks, "web-1:http": http},
    )
    lease.move(Announcement(name="web", port=80, id="web-1", check=[HttpCheck("/"), TtlCheck()]).service("10.0.0.8"))
    await lease.renew()
    await lease.renew()
    (_, body) = agent.bodies
    assert (body["Address"], body["Tags"], ids(body)) == ("10.0.0.8", ["by an operator"], ["web-1:http"])
    assert body["Checks"][0]["Status"] == "passing", "a change of address is no reason to doubt it"


async def test_a_move_that_could_not_be_written_is_written_once_the_agent_answers() -> None:
    agent = RememberingAgent()
    lease = remembered(agent)
    await lease.renew()
    lease.move(Announcement(name="web", port=80, id="web-1", check=[HttpCheck("/"), TtlCheck()]).service("10.0.0.8"))
    agent.failures = [ConsulUnreachable("nobody there")]
    with pytest.raises(ConsulUnreachable):
        await lease.renew()
    await lease.renew()
    assert [body["Address"] for body in agent.bodies] == ["10.0.0.7", "10.0.0.8"]


async def test_a_move_whose_answer_was_lost_is_no_other_instance() -> None:
    """The agent has it, and the next move took it for another's, and was refused for as long as both lived."""
    agent = RememberingAgent()
    lease = remembered(agent)
    await lease.renew()
    agent.lost_answers = 1
    for address in ("10.0.0.8", "10.0.0.9"):
        lease.move(Announcement(name="web", port=80, id="web-1", check=[HttpCheck("/"), TtlCheck()]).service(address))
        with suppress(ConsulUnreachable):
            await lease.renew()
    assert lease.registered
    assert [body["Address"] for body in agent.bodies] == ["10.0.0.7", "10.0.0.8", "10.0.0.9"]


@pytest.mark.parametrize(("reason", "ended"), [(LEAVING, [(False, "")]), ("by an operator", [])])
async def test_a_maintenance_of_our_own_farewell_ends_and_nobody_elses(
    reason: str, ended: list[tuple[bool, str]]
) -> None:
    agent = RememberingAgent()
    await remembered(agent).renew()
    assert agent.held is not None
    note = {"_service_maintenance:web-1": {"Notes": reason, "Status": "critical"}}
    agent.held = HeldByAgent(service=agent.held.service, checks={**agent.held.checks, **note})
    lease = remembered(agent)
    await lease.renew()
    assert agent.maintenance == ended
    await lease.renew()
    assert agent.maintenance == ended, "one that comes later is a person's"
    assert len(agent.bodies) == 1


async def test_an_agent_that_fails_is_told_once_and_its_return_too() -> None:
    agent = RememberingAgent()
    lease = remembered(agent)
    agent.failures = [ConsulUnreachable("away"), ConsulUnreachable("away"), KeyError("odd"), ConsulUnreachable("away")]
    with capture_logs() as log:
        lease._log = structlog.get_logger()
        for error in (ConsulUnreachable, ConsulUnreachable, KeyError, ConsulUnreachable):
            with pytest.raises(error):
                await lease._attempt()
            assert not lease.registered
            assert lease.attempted.is_set()
        await lease._attempt()
        await lease._attempt()
    told = [(line["log_level"], line["event"]) for line in log if line["event"] != "registered"]
    assert [level for level, _ in told] == ["warning", "error", "warning", "info"]
    assert lease.registered


async def test_a_lost_registration_is_lost_until_the_agent_has_it_again() -> None:
    agent = RememberingAgent()
    lease = remembered(agent)
    await lease.renew()
    agent.failures = [ConsulUnreachable("away")]
    with pytest.raises(ConsulUnreachable):
        await lease._attempt()
    assert not lease.registered
    await lease._attempt()
    assert lease.registered


async def test_a_farewell_is_tried_again_within_its_patience_and_once_more_is_enough() -> None:
    agent = RememberingAgent()
    lease = remembered(agent)
    await lease.renew()
    agent.failures = [ConsulUnreachable("away")]
    assert await lease.withdraw()
    assert agent.maintenance == [(True, LEAVING)]
    await lease.deregister()
    assert (agent.deregistered, lease.registered) == (["web-1"], False)
    await lease.deregister()
    assert not await lease.withdraw()
    assert (agent.deregistered, len(agent.maintenance)) == (["web-1"], 1)


def test_no_application_waits_long_for_a_dead_agent() -> None:
    """Three seconds for the first part of a farewell, and one for the rest."""
    with simulated_time() as loop:
        agent = RememberingAgent()
        lease = remembered(agent)
        loop.run_until_complete(lease.renew())
        agent.failures = [ConsulUnreachable("away")] * 1_000
        times = [loop.time()]
        assert not loop.run_until_complete(lease.withdraw())
        times.append(loop.time())
        loop.run_until_complete(lease.deregister())
        times.append(loop.time())
        assert [round(after - before, 1) for before, after in pairwise(times)] == [3.0, 1.0]
        assert lease._may_be_held, "it finds out by the checks, or is told later"


def test_a_registration_is_looked_after_in_its_rhythm_and_at_once_when_hurried() -> None:
    with simulated_time() as loop:
        agent = RememberingAgent()
        lease = remembered(agent, check=TtlCheck(6))
        keeper = loop.create_task(lease.keep())
        loop.run_until_complete(asyncio.sleep(20.5))
        assert 11 <= len(agent.beats) <= 12
        before = len(agent.beats)
        lease.hurry()
        loop.run_until_complete(asyncio.sleep(0.1))
        assert len(agent.beats) == before + 1
        agent.failures = [ConsulUnreachable("slow down", retry_after=40.0)]
        asked = loop.time()
        lease.hurry()
        loop.run_until_complete(asyncio.sleep(0.1))
        assert len(agent.beats) == before + 1
        while len(agent.beats) == before + 1:
            loop.run_until_complete(asyncio.sleep(0.5))
        assert loop.time() - asked >= 40
        keeper.cancel()
        loop.run_until_complete(asyncio.wait({keeper}))


async def test_an_applications_own_word_is_told_with_its_status() -> None:
    agent = RememberingAgent()
    verdict: list[str] = ["warning"]
    lease = remembered(agent, check=[TtlCheck(15, lambda: verdict[0]), TtlCheck(30)])
    await lease.renew()
    assert [check["Status"] for check in agent.bodies[0]["Checks"]] == ["warning", "passing"]
    verdict[0] = "critical"
    await lease.renew()
    assert [(check, status) for check, status, _ in agent.beats] == [
        ("web-1:ttl", "warning"),
        ("web-1:ttl-2", "passing"),
        ("web-1:ttl", "critical"),
        ("web-1:ttl-2", "passing"),
    ]
