"""Counts by service and variant: nothing is lost or invented on the way through steps, names and scaling."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxygen.proxy.traffic.tally import BOUNDS, STEP, STEPS, Figures, Tally, Target
from proxygen.tags.shares import WHOLE, Share

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
        self.tally = Tally(lambda: self.targets, lambda: self.now, sample=Share(1))

    def hear(self, body: str, times: int = 1, **more: int) -> None:
        self.tally.add([(f"<190>Nov 24 03:14:29 proxygen: {body}".encode(), times)], **more)

    def read(self, body: str) -> Figures:
        """What one line alone counts as."""
        self.hear(body)
        return self.tally.totals()[STABLE]


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


@pytest.mark.incident("T56")
@given(st.integers(1, WHOLE), st.integers(1, WHOLE))
def test_no_line_stands_for_more_than_the_sample_that_nginx_was_told(sample: int, said: int) -> None:
    """Whoever can write to the socket can say that his line is one of ten thousand."""
    tally = Tally(lambda: TARGETS, sample=Share(sample))
    tally.add([(f"<190>Nov 24 03:14:29 proxygen: {said} http://web_s 500 0.1".encode(), 1)])
    figures = tally.totals()[STABLE]
    assert figures.requests == pytest.approx(WHOLE / max(sample, said))
    assert figures.requests == figures.errors == figures.cumulative[-1]


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
    assert [step.requests for step in world.tally.history("web")["stable"]] == [7]
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


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("099", "other"),
        ("100", "1xx"),
        ("199", "1xx"),
        ("200", "2xx"),
        ("399", "3xx"),
        ("400", "4xx"),
        ("499", "4xx"),
        ("500", "5xx"),
        ("599", "5xx"),
        ("600", "other"),
    ],
)
def test_a_status_has_its_class(world: World, status: str, kind: str) -> None:
    figures = world.read(f"10000 http://web_s {status} 0.001")
    assert {name for name, count in figures.classes.items() if count} == {kind}
    assert figures.errors == (kind == "5xx")


@pytest.mark.parametrize(("number", "bound"), list(enumerate(BOUNDS)))
def test_a_bound_belongs_to_the_bucket_that_it_ends(world: World, number: int, bound: float) -> None:
    world.hear(f"10000 http://web_s 200 {bound:.3f}")
    figures = world.read(f"10000 http://web_s 200 {bound + 0.001:.3f}")
    assert [place for place, count in enumerate(figures.buckets) if count] == [number, number + 1]


def test_what_is_upgraded_is_counted_and_not_timed(world: World) -> None:
    figures = world.read("10000 http://web_s 101 900.000, 1.000")
    assert (figures.requests, figures.retried, figures.seconds, sum(figures.buckets)) == (1, 1, 0, 0)


def test_seconds_are_scaled_back_like_requests(world: World) -> None:
    world.hear("2500 http://web_s 200 0.200", 3, each=2)
    figures = world.tally.totals()[STABLE]
    assert (figures.requests, figures.seconds, figures.cumulative[-1]) == (24, pytest.approx(4.8), 24)


def test_a_quantile_stands_on_a_straight_line_within_its_bucket(world: World) -> None:
    world.hear("10000 http://web_s 200 0.004", 10)
    world.hear("10000 http://web_s 200 0.020", 10)
    figures = world.tally.totals()[STABLE]
    assert [figures.quantile(part) for part in (0.0, 0.25, 0.5, 0.75, 1.0)] == [
        None,
        pytest.approx(0.0025),
        pytest.approx(0.005),
        pytest.approx(0.0175),
        pytest.approx(0.025),
    ]


def test_the_names_of_one_service_are_its_own(world: World) -> None:
    world.targets = {**TARGETS, "shop_s": Target(("shop", "stable")), "shop": Target(("shop", ""))}
    world.hear("10000 http://web_s 200 0.001", 2)
    world.hear("10000 http://shop_s 200 0.001", 3)
    world.hear("10000 shop 503 ", 4)
    world.now += STEP
    found = {service: world.tally.history(service) for service in ("web", "shop", "none")}
    assert {service: list(steps) for service, steps in found.items()} == {
        "web": ["stable"],
        "shop": ["stable", ""],
        "none": [],
    }
    assert [found["shop"][variant][-1].requests for variant in ("stable", "")] == [3, 4]
    assert world.tally.totals()["shop", ""].errors == 4


def test_history_has_the_steps_that_are_over_oldest_first(world: World) -> None:
    for times in (1, 2, 3):
        world.hear("10000 http://web_s 200 0.001", times)
        world.now += STEP
    world.hear("10000 http://web_s 200 0.001", 9)
    steps = [step.requests for step in world.tally.history("web")["stable"]]
    # Of the time before the start nothing is known, which is not the same as no requests.
    assert steps == [1, 2, 3]
    world.now += STEP * (STEPS - 4)
    assert len(world.tally.history("web")["stable"]) == STEPS - 1
    world.now += STEP
    assert len(world.tally.history("web")["stable"]) == STEPS - 1


@pytest.mark.parametrize("since", [0.0, 1.5, 4.999])
def test_a_step_begins_at_whole_steps_of_the_clock(world: World, since: float) -> None:
    world.now = 1000.0 + since
    assert world.tally.since_step == pytest.approx(since)
    world.hear("10000 http://web_s 200 0.001")
    assert world.tally.window(1)[STABLE].requests == 1
    world.now = 1000.0 + STEP
    assert (world.tally.window(1)[STABLE].requests, world.tally.window(2)[STABLE].requests) == (0, 1)


def test_a_clock_that_jumps_back_a_step_loses_nothing(world: World) -> None:
    world.hear("10000 http://web_s 200 0.001", 2)
    world.now -= STEP
    world.hear("10000 http://web_s 200 0.001", 3)
    world.now += STEP
    assert world.tally.window(2)[STABLE].requests == 5


def test_steps_far_apart_do_not_show_in_each_other(world: World) -> None:
    world.hear("10000 http://web_s 200 0.001", 5)
    world.now += STEP * (STEPS + 3)
    world.hear("10000 http://web_s 200 0.001", 2)
    assert world.tally.window(STEPS)[STABLE].requests == 2
    assert sum(step.requests for step in world.tally.history("web")["stable"]) == 0


def test_ends_are_told_apart(world: World) -> None:
    world.hear("10000 http://web_s 200 0.001", 2, each=3, thinned=4)
    world.hear("10000 http://gone 200 0.001", 5)
    world.hear("rubbish", 6)
    world.hear("10000 http://web_s 200 0.001", 7, thinned=8)
    ends = world.tally.ends
    assert (ends.counted, ends.thinned, ends.unknown, ends.malformed) == (9, 12, 5, 6)


def test_what_nginx_answered_itself_is_not_timed_and_stays_while_its_service_does(world: World) -> None:
    """Also where no name stands for it alone."""
    world.targets = {"web_s": TARGETS["web_s"]}
    world.hear("10000 http://web_s 403 ", 3)
    world.targets = dict(world.targets)
    figures = world.tally.totals()[NOBODY]
    assert (figures.requests, figures.seconds, sum(figures.buckets)) == (3, 0, 0)


def test_lines_of_one_step_add_up(world: World) -> None:
    for times in (2, 3, 4):
        world.hear("10000 http://web_s 500 0.500, 0.500", times)
    figures = world.tally.window(1)[STABLE]
    assert (figures.requests, figures.errors, figures.retried, figures.seconds) == (9, 9, 9, 9)


def test_a_step_is_counted_once_however_many_are_asked_for(world: World) -> None:
    world.hear("10000 http://web_s 200 0.001", 5)
    assert world.tally.window(STEPS + 1)[STABLE].requests == 5


def test_a_quantile_is_of_what_was_timed(world: World) -> None:
    world.hear("10000 http://web_s 101 900.000", 90)
    world.hear("10000 http://web_s 200 0.004", 10)
    assert world.tally.totals()[STABLE].quantile(0.5) == pytest.approx(0.0025)


# --- two threads


def _totals(tally: Tally) -> object:
    return tally.totals()


def _window(tally: Tally) -> object:
    return tally.window(1)


def _history(tally: Tally) -> object:
    return tally.history("web")


@pytest.mark.parametrize("read", [_totals, _window, _history])
def test_who_reads_waits_for_lines_that_are_being_counted(
    world: World, read: Callable[[Tally], Mapping[object, object]]
) -> None:
    """A variant that is met for the first time meanwhile would change the names while they are read."""
    seen: list[Mapping[object, object]] = []
    reader = threading.Thread(target=lambda: seen.append(read(world.tally)))
    header = b"<190>Nov 24 03:14:29 proxygen: 10000 http://"

    def lines() -> Iterator[tuple[bytes, int]]:
        yield header + b"web_s 200 0.001", 1
        reader.start()
        # Where it does not wait it is done at once; where it does, this is how long the test takes.
        reader.join(0.05)
        yield header + b"web_c 200 0.001", 1

    world.tally.add(lines())
    reader.join(10)
    assert len(seen) == 1
    assert len(seen[0]) == 2


def test_who_counts_waits_for_names_that_are_being_taken_in(world: World) -> None:
    """Both take them; each from the same state, one after the other."""
    order: list[str] = []
    writer = threading.Thread(target=lambda: (world.hear("10000 http://web_s 200 0.001"), order.append("counted")))

    def targets() -> Mapping[str, Target]:
        if not order:
            order.append("reading")
            writer.start()
            writer.join(0.05)
            order.append("read")
        return TARGETS

    tally = world.tally = Tally(targets, lambda: world.now)
    tally.totals()
    writer.join(10)
    assert order == ["reading", "read", "counted"]
    assert tally.totals()[STABLE].requests == 1
