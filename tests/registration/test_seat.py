"""Who stands under one service id: the newest wish counts, and a container that goes on dying is not run after."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any, cast

import pytest

from proxygen.registration import TtlCheck
from proxygen.registration.agent import Agent
from proxygen.registration.seat import Seat, Seats, Wish
from proxygen.registration.service import Announcement, CompleteRegistration, HeldByAgent
from tests.model.clock import simulated_time


class CountingAgent:
    """Takes everything, and remembers it in order."""

    address = "agent:8500"
    token_mark = ""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.body: Mapping[str, Any] | None = None

    async def look(self, service_id: str) -> HeldByAgent | None:
        if self.body is None:
            return None
        checks = {one["CheckID"]: {"Notes": one["Notes"], "Status": "passing"} for one in self.body["Checks"]}
        return HeldByAgent(service={**self.body, "Service": self.body["Name"]}, checks=checks)

    async def register(self, body: Mapping[str, Any]) -> None:
        self.body = {**body, "Checks": body["Checks"] or (self.body or {}).get("Checks", [])}
        self.told.append(f"register {body['Port']}")

    async def beat(self, check_id: str, status: str, note: str) -> None:
        return

    async def remove_check(self, check_id: str) -> None:
        return

    async def set_maintenance(self, service_id: str, *, enable: bool, reason: str = "") -> None:
        self.told.append("withdraw" if enable else "return")

    async def deregister(self, service_id: str) -> None:
        self.body = None
        self.told.append("deregister")


def service(port: int = 80) -> CompleteRegistration:
    return Announcement(name="web", port=port, id="web-1", check=TtlCheck(15, lambda: True)).service("10.0.0.7")


def wish(port: int = 80, *, withdrawn: bool = False) -> Wish:
    return Wish(service=service(port), withdrawn=withdrawn)


class Hall:
    """A seat in simulated time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.agent = CountingAgent()
        self.seat = Seat(cast("Agent", self.agent))
        self.task = loop.create_task(self.seat.run())

    def put(self, wished: Wish | None, *, seconds: float = 1.0) -> list[str]:
        """What the agent is told within that time."""
        self.agent.told.clear()
        self.seat.put(wished)
        self.loop.run_until_complete(asyncio.sleep(seconds))
        return list(self.agent.told)


@pytest.fixture
def hall() -> Iterator[Hall]:
    with simulated_time() as loop:
        hall = Hall(loop)
        yield hall
        hall.task.cancel()
        loop.run_until_complete(asyncio.wait({hall.task}))


def test_a_wish_comes_true_and_the_same_once_more_is_none(hall: Hall) -> None:
    assert hall.put(wish()) == ["register 80"]
    assert hall.put(wish()) == []
    assert hall.put(wish(81)) == ["register 81"]
    assert hall.seat.wish is not None
    assert hall.seat.wish.service.port == 81
    assert hall.put(None) == ["deregister"]
    assert hall.put(None) == []


def test_what_is_about_to_end_is_withdrawn_where_it_stands_and_can_come_back(hall: Hall) -> None:
    assert hall.put(wish(withdrawn=True)) == [], "what was never put there needs no maintenance"
    assert hall.put(wish()) == ["register 80"]
    assert hall.put(wish(withdrawn=True)) == ["withdraw"]
    assert hall.put(wish(withdrawn=True)) == []
    assert hall.put(None) == ["deregister"]


def test_a_withdrawn_one_is_not_kept_up_meanwhile(hall: Hall) -> None:
    hall.put(wish())
    assert hall.put(wish(withdrawn=True)) == ["withdraw"]
    hall.agent.body = None
    assert hall.put(wish(withdrawn=True), seconds=60) == []


def test_one_that_goes_on_dying_is_put_there_three_times_and_then_once_in_ten_seconds(hall: Hall) -> None:
    for _ in range(3):
        assert hall.put(wish(), seconds=0.1) == ["register 80"]
        assert hall.put(None, seconds=0.1) == ["deregister"]
    assert hall.put(wish(), seconds=5) == []
    assert hall.put(None, seconds=0.1) == [], "it went before it came"
    assert hall.put(wish(), seconds=30) == ["register 80"]


def test_a_change_of_one_that_stands_does_not_wait(hall: Hall) -> None:
    for port in range(80, 90):
        assert hall.put(wish(port), seconds=0.1) == [f"register {port}"]


def test_a_seat_is_idle_from_when_nobody_is_to_stand_there(hall: Hall) -> None:
    hall.loop.run_until_complete(asyncio.sleep(7))
    assert hall.seat.idle_for() == pytest.approx(7)
    hall.put(wish(), seconds=100)
    assert hall.seat.idle_for() == 0
    hall.put(None, seconds=3)
    assert hall.seat.idle_for() == pytest.approx(3)
    hall.put(None, seconds=3)
    assert hall.seat.idle_for() == pytest.approx(6), "no second wish for nobody begins it anew"
    hall.put(wish(withdrawn=True), seconds=3)
    assert hall.seat.idle_for() == 0


def test_its_end_leaves_all_as_it_is(hall: Hall) -> None:
    hall.put(wish())
    hall.agent.told.clear()
    hall.task.cancel()
    hall.loop.run_until_complete(asyncio.wait({hall.task}))
    hall.loop.run_until_complete(asyncio.sleep(60))
    assert hall.agent.told == []
    assert hall.agent.body is not None


def test_wishes_wait_until_the_seats_run() -> None:
    with simulated_time() as loop:
        agent = CountingAgent()
        seats = Seats(cast("Agent", agent))
        seats.of("web-1").put(wish())
        loop.run_until_complete(asyncio.sleep(1))
        assert agent.told == []
        running = loop.create_task(seats.run())
        loop.run_until_complete(asyncio.sleep(1))
        assert (agent.told, seats.is_taken("web-1")) == (["register 80"], True)
        running.cancel()
        loop.run_until_complete(asyncio.wait({running}))
        assert agent.told == ["register 80"]


def test_an_idle_seat_is_forgotten_and_its_place_taken_anew() -> None:
    with simulated_time() as loop:
        agent = CountingAgent()
        seats = Seats(cast("Agent", agent))
        running = loop.create_task(seats.run())
        first = seats.of("web-1")
        loop.run_until_complete(asyncio.sleep(10))
        seats.forget_idle(20)
        assert seats.of("web-1") is first
        seats.forget_idle(5)
        # In the same turn: the one that was forgotten must not answer for the one that came.
        seats.of("web-1").put(wish())
        assert seats.of("web-1") is not first
        loop.run_until_complete(asyncio.sleep(1))
        assert agent.told == ["register 80"]
        assert [task.get_name() for task in asyncio.all_tasks(loop)].count("seat of web-1") == 1
        running.cancel()
        loop.run_until_complete(asyncio.wait({running}))
