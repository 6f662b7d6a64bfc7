"""Counts by service and variant: nothing is lost or invented on the way through steps, names and scaling."""

from __future__ import annotations

import pytest

from proxygen.traffic.tally import STEP, STEPS, Figures, Tally, Target

TARGETS: dict[str, Target] = {
    "web": Target(("web", "")),
    "web_s": Target(("web", "stable")),
    "web_c": Target(("web", "canary"), backups=frozenset({"10.0.0.1:80", "[fd00::1]:80"})),
}
STABLE, CANARY, NOBODY = ("web", "stable"), ("web", "canary"), ("web", "")


class World:
    """A tally whose clock and targets a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.targets = TARGETS
        self.tally = Tally(lambda: self.targets, lambda: self.now)

    def hear(self, body: str, times: int = 1, **more: int) -> None:
        self.tally.add([(f"<190>Nov 24 03:14:29 proxygen: {body}".encode(), times)], **more)


@pytest.fixture
def world() -> World:
    return World()


def test_every_line_is_counted_once_in_its_class_and_bucket(world: World) -> None:
    world.hear("10000 http://web_s 200 0.004", 3)
    world.hear("10000 http://web_s 503 0.300, 0.400", 2)
    world.hear("10000 http://web_s 101 900.000")
    figures = world.tally.totals()[STABLE]
    assert (figures.requests, figures.errors, figures.retried) == (6, 2, 2)
    assert {name: count for name, count in figures.classes.items() if count} == {"1xx": 1, "2xx": 3, "5xx": 2}
    assert figures.cumulative[-1] == 5
    assert figures.seconds == pytest.approx(3 * 0.004 + 2 * 0.7)


def test_what_asked_no_server_is_nobodys(world: World) -> None:
    world.hear("10000 http://web_c 403 ")
    world.hear("10000 web 503 ")
    assert world.tally.totals().keys() == {NOBODY}
    assert world.tally.totals()[NOBODY].requests == 2


def test_what_a_backup_answered_is_counted_beside_the_rest(world: World) -> None:
    world.hear("10000 http://web_c 200 0.001 | 10.0.0.2:80", 5)
    world.hear("10000 http://web_c 200 0.001 | 10.0.0.1:80", 3)
    world.hear("10000 http://web_c 200 0.001, 0.002 | 10.0.0.2:80, [fd00::1]:80", 2)
    # By a worker that does not tell of servers, and where nginx found none to ask.
    world.hear("10000 http://web_c 200 0.001")
    world.hear("10000 http://web_c 502 0.000 | web_c")
    world.hear("10000 http://web_s 200 0.001 | 10.0.0.1:80", 4)
    figures = world.tally.totals()
    assert (figures[CANARY].requests, figures[CANARY].backed_up, figures[CANARY].retried) == (12, 5, 2)
    assert figures[STABLE].backed_up == 0


@pytest.mark.parametrize(("backups", "backed_up"), [({"10.0.0.9:80"}, 50), ({"10.0.0.1:80"}, 0)])
def test_behind_the_same_name_there_may_soon_be_other_backups(world: World, backups: set[str], backed_up: int) -> None:
    """Nobody has read since, and the line names a target that is known already."""
    world.hear("10000 http://web_c 200 0.001 | 10.0.0.9:80")
    world.targets = {**TARGETS, "web_c": Target(CANARY, frozenset(backups))}
    world.hear("10000 http://web_c 200 0.001 | 10.0.0.9:80", 50)
    assert world.tally.totals()[CANARY].backed_up == backed_up


def test_samples_and_thinning_are_scaled_back(world: World) -> None:
    world.hear("2000 http://web_s 200 0.001", 5, each=4, thinned=15)
    assert world.tally.totals()[STABLE].requests == 100
    assert (world.tally.ends.counted, world.tally.ends.thinned) == (5, 15)


def test_steps_pass_and_are_forgotten(world: World) -> None:
    world.hear("10000 http://web_s 200 0.001", 7)
    world.now += STEP
    world.hear("10000 http://web_s 200 0.001", 2)
    assert world.tally.window(1)[STABLE].requests == 2
    assert world.tally.window(2)[STABLE].requests == 9
    assert [step.requests for step in world.tally.history("web")["stable"]][-2:] == [0, 7]
    world.now += STEP * (STEPS - 2)
    assert world.tally.window(STEPS)[STABLE].requests == 9
    world.now += STEP
    assert world.tally.window(STEPS)[STABLE].requests == 2
    world.now += STEP * STEPS
    assert world.tally.window(STEPS)[STABLE].requests == 0
    world.hear("10000 http://web_s 200 0.001")
    assert world.tally.window(STEPS)[STABLE].requests == 1
    assert world.tally.totals()[STABLE].requests == 10


def test_a_gone_service_leaves_nothing(world: World) -> None:
    world.hear("10000 http://web_s 200 0.001")
    world.hear("10000 http://web_c 200 0.001")
    world.targets = {"web": TARGETS["web"], "web_s": TARGETS["web_s"]}
    assert world.tally.totals().keys() == {STABLE}
    world.hear("10000 http://web_c 200 0.001")
    assert world.tally.ends.unknown == 1
    world.targets = TARGETS
    assert CANARY not in world.tally.totals()


def test_a_service_is_known_from_the_moment_it_is_planned(world: World) -> None:
    world.targets = {**TARGETS, "new_s": Target(("new", "stable"))}
    world.hear("10000 http://new_s 200 0.001")
    assert world.tally.totals()["new", "stable"].requests == 1


def test_what_is_no_line_is_counted_as_that(world: World) -> None:
    world.hear("rubbish", 3)
    assert world.tally.ends.malformed == 3
    assert world.tally.totals() == {}


def test_a_quantile_lies_within_its_bucket(world: World) -> None:
    world.hear("10000 http://web_s 200 0.020", 90)
    world.hear("10000 http://web_s 200 0.800", 9)
    world.hear("10000 http://web_s 200 60.000", 1)
    figures = world.tally.totals()[STABLE]
    middle, high, highest = (figures.quantile(part) for part in (0.5, 0.95, 0.999))
    assert middle is not None
    assert high is not None
    assert 0.01 < middle <= 0.025
    assert 0.5 < high <= 1.0
    assert highest == 10.0
    assert Figures((0.0,) * len(figures.row)).quantile(0.5) is None
