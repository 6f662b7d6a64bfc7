"""Who waits, for how long, and that nobody else does. Pure: the clock is an argument."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxygen.catalog import Catalog, Health, Instance, ServiceName
from proxygen.proxy.guard.flapping import WINDOW, Calm, Flapping, crowds
from tests.proxy.plan.catalogs import catalog, instance, plan

WEB, SHOP = ServiceName("web"), ServiceName("shop")
BURST, INTERVAL, CROWDED = 5, 2.0, 30.0


def web(weight: int) -> Instance:
    return instance("web", 1, "route=web.example.com", f"weight={weight}")


def web_and_spare(weight: int) -> tuple[Instance, Instance]:
    """Two, so that a weight shows in what nginx is given."""
    return web(weight), instance("web", 2, "route=web.example.com")


def shop(weight: int) -> tuple[Instance, Instance]:
    ones = [instance("shop", number, "route=shop.example.com", "weight=1000") for number in (3, 4)]
    return ones[0], replace(ones[1], tags=("proxygen.route=shop.example.com", f"proxygen.weight={weight}"))


class Watched:
    """What is live, where whatever may go live does so at once."""

    def __init__(self) -> None:
        self.flapping = Flapping(burst=BURST, interval=INTERVAL, crowded_pause=CROWDED)
        self.reloads: list[float] = []
        self._live: Catalog | None = None

    def see(self, now: float, *instances: Instance, crowded: bool = False) -> Calm:
        calm = self.flapping.keep(catalog(*instances), now, crowded=crowded)
        found = [one for those in calm.catalog.services.values() for one in those]
        if self._live is None or self._live.services != calm.catalog.services:
            self.reloads.append(now)
        self._live = calm.catalog
        self.flapping.accept(plan(*found), calm.catalog, now)
        return calm


def test_what_changes_for_the_first_time_never_waits() -> None:
    """Another service does each time, beside one that has to wait again and again."""
    watched = Watched()
    watched.see(0, *web_and_spare(1))
    news: list[Instance] = []
    waited = set()
    for number in range(3, 60):
        news.append(instance(f"new{number}", number, f"route=n{number}.example.com"))
        waited |= watched.see(0.1 * number, *web_and_spare(number), *news, crowded=True).waiting
        assert watched.reloads[-1] == 0.1 * number
    assert waited == {WEB}


@pytest.mark.incident("T55")
def test_of_the_reloads_in_a_row_one_is_left_to_who_does_not_flap() -> None:
    """The first change of a service is no flapping; all but one of the burst may follow."""
    watched = Watched()
    watched.see(0, *web_and_spare(1), *shop(1))
    for number in range(1, 20):
        watched.see(0.3 * number, *web_and_spare(1 + number), *shop(1))
    free = [at for at in watched.reloads if at < INTERVAL]
    assert len(free) == 2 + BURST - 1
    calm = watched.see(6.1, *web_and_spare(50), *shop(2))
    assert calm.waiting == {WEB}
    assert calm.catalog.services[SHOP] == shop(2)
    assert watched.reloads[-1] == 6.1


@given(st.lists(st.floats(0.01, 3), min_size=10, max_size=30), st.booleans())
def test_who_flaps_gets_no_more_than_all_but_one_of_the_reloads(pauses: list[float], crowded: bool) -> None:
    watched = Watched()
    watched.see(0, *web_and_spare(1))
    now = 0.0
    for number, pause in enumerate(pauses, 2):
        now += pause
        calm = watched.see(now, *web_and_spare(number), crowded=crowded)
        assert (calm.due is None) is (not calm.waiting)
        assert calm.due is None or 0 < calm.due <= INTERVAL
    assert len(watched.reloads) <= 2 + (BURST - 1) + now / INTERVAL
    if crowded:
        assert len(watched.reloads) <= 3 + now / CROWDED


def test_the_newest_state_is_taken_when_its_time_has_come() -> None:
    watched = Watched()
    watched.see(0, *web_and_spare(1))
    for number in range(1, 10):
        calm = watched.see(0.1 * number, *web_and_spare(1 + number))
    assert calm.due is not None
    last = watched.see(0.9 + calm.due, *web_and_spare(10))
    assert (last.due, last.catalog.services[WEB]) == (None, web_and_spare(10))


@pytest.mark.incident("T55")
def test_while_nginx_is_crowded_one_recent_change_is_enough_to_wait() -> None:
    watched = Watched()
    watched.see(0, *web_and_spare(1), *shop(1))
    watched.see(1, *web_and_spare(2), *shop(1), crowded=True)
    watched.see(2, *web_and_spare(3), *shop(1), crowded=True)
    calm = watched.see(3, *web_and_spare(4), *shop(2), crowded=True)
    assert calm.waiting == {WEB}
    assert calm.catalog.services[SHOP] == shop(2)
    assert watched.see(3.5, *web_and_spare(4), *shop(2), crowded=False).waiting == frozenset()


def test_what_has_been_quiet_for_a_while_does_not_flap() -> None:
    watched = Watched()
    watched.see(0, *web_and_spare(1))
    watched.see(1, *web_and_spare(2))
    watched.see(2, *web_and_spare(3))
    assert watched.flapping.is_watchful(2 + WINDOW - 0.1)
    assert not watched.flapping.is_watchful(2 + WINDOW)
    assert watched.see(2 + WINDOW, *web_and_spare(4), crowded=True).due is None


def test_what_changes_nothing_for_nginx_is_no_change() -> None:
    watched = Watched()
    watched.see(0, *web_and_spare(1))
    for number in range(1, 30):
        ones = [replace(one, modify_index=100 + number) for one in web_and_spare(1)]
        assert watched.see(0.1 * number, *ones, crowded=True).due is None


def test_one_that_registers_and_deregisters_flaps_too_and_is_kept_meanwhile() -> None:
    watched = Watched()
    watched.see(0, *shop(1))
    for number in range(6):
        there = web_and_spare(1) if number % 2 == 0 else ()
        calm = watched.see(0.1 + 0.1 * number, *shop(1), *there)
    assert calm.waiting == {WEB}
    assert calm.catalog.services[WEB] == web_and_spare(1)
    assert watched.see(1, *shop(1), *web_and_spare(1)).waiting == frozenset()


def test_who_has_no_limit_on_reloads_has_none_here() -> None:
    watched = Watched()
    watched.flapping = Flapping(burst=BURST, interval=0.0, crowded_pause=CROWDED)
    for number in range(1, 30):
        assert watched.see(0.1 * number, *web_and_spare(number)).due is None


def test_a_service_flaps_from_when_it_has_to_wait_until_it_has_been_quiet_for_a_while() -> None:
    watched = Watched()
    watched.see(0, *web_and_spare(1), *shop(1))
    watched.see(1, *web_and_spare(2), *shop(1))
    assert watched.flapping.services(1) == frozenset(), "it changed, and did not wait"
    for number in range(3, 12):
        calm = watched.see(1 + 0.1 * number, *web_and_spare(number), *shop(number))
    assert calm.due is not None
    assert watched.flapping.services(2.1) == {WEB, SHOP}
    taken = 2.1 + calm.due
    assert watched.see(taken, *web_and_spare(11), *shop(11)).waiting == frozenset()
    assert watched.flapping.services(taken + WINDOW - 0.1) == {WEB, SHOP}
    assert watched.flapping.services(taken + WINDOW + 0.1) == frozenset()
    watched.see(taken + WINDOW + 1, *web_and_spare(50), *shop(11))
    assert watched.flapping.services(taken + WINDOW + 1) == frozenset(), "it did not wait this time"


@pytest.mark.incident("T55")
@pytest.mark.parametrize("pause", [CROWDED, 10.0, 90.0])
@pytest.mark.parametrize("is_back_and_forth", [False, True])
def test_while_nginx_is_crowded_one_that_flaps_gets_a_reload_once_in_each_pause(
    pause: float, is_back_and_forth: bool
) -> None:
    """It is not forgotten while it waits, however long that is, nor where it is at times as nginx serves it."""
    watched = Watched()
    watched.flapping = Flapping(burst=BURST, interval=INTERVAL, crowded_pause=pause)
    for number in range(1_000):
        watched.see(0.3 * number, *web_and_spare(1 + (number % 2 if is_back_and_forth else number)), crowded=True)
    pauses = [after - before for before, after in pairwise(watched.reloads[2:])]
    assert len(pauses) >= 2
    assert all(pause <= each < pause + 1 for each in pauses)


@pytest.mark.incident("T55")
def test_one_that_waited_is_forgotten_when_it_has_been_quiet_for_a_while() -> None:
    """It took back what it waited with: nothing of it went live."""
    watched = Watched()
    for number in range(1, 4):
        watched.see(number, *web_and_spare(number), crowded=True)
    calm = watched.see(20, *web_and_spare(50), crowded=True)
    assert (calm.waiting, calm.due) == ({WEB}, 1)
    assert watched.see(21, *web_and_spare(3), crowded=True).waiting == frozenset()
    assert watched.flapping.services(21 + WINDOW - 0.1) == {WEB}
    assert not watched.flapping.is_watchful(21 + WINDOW)
    assert watched.see(21 + WINDOW, *web_and_spare(51), crowded=True).waiting == frozenset()


@pytest.mark.incident("T55")
def test_a_state_that_is_let_through_and_does_not_go_live_is_no_flapping() -> None:
    """The guard may hold it, or nginx refuse it, for hours."""
    watched = Watched()
    for number in range(1, 5):
        watched.see(number, *web_and_spare(number), crowded=True)
    stuck = catalog(*web_and_spare(5))
    for now in range(4, 90):
        calm = watched.flapping.keep(stuck, now, crowded=True)
        assert calm.waiting == ({WEB} if now < 3 + CROWDED else frozenset())
        assert watched.flapping.services(now) == ({WEB} if now < 3 + CROWDED + WINDOW else frozenset())


@pytest.mark.incident("T55")
def test_a_reload_that_takes_longer_than_the_window_makes_no_one_forgotten() -> None:
    """It waits for old workers too, as long as the pause is."""
    watched = Watched()
    for number in range(1, 5):
        watched.see(number, *web_and_spare(number), crowded=True)
    newest = catalog(*web_and_spare(5))
    assert watched.flapping.keep(newest, 3 + CROWDED, crowded=True).waiting == frozenset()
    live = 3 + CROWDED + WINDOW + 1
    watched.flapping.accept(plan(*web_and_spare(5)), newest, live)
    assert watched.see(live + 1, *web_and_spare(6), crowded=True).waiting == {WEB}


# --- others beside one that flaps


def flap_until(watched: Watched, end: float, *others: Instance, crowded: bool = False) -> float:
    """Have a service change ten times a second, and return when it did last."""
    now = 0.0
    watched.see(now, *web_and_spare(1), *others, crowded=crowded)
    for number in range(1, round(end * 10)):
        now = 0.1 * number
        watched.see(now, *web_and_spare(1 + number), *others, crowded=crowded)
    return now


@pytest.mark.incident("T55")
@pytest.mark.parametrize("crowded", [True, False])
def test_a_second_change_is_not_kept_back_since_others_flap(crowded: bool) -> None:
    """Who registers, and drains a moment later, is no one who flaps."""
    watched = Watched()
    now = flap_until(watched, 20, crowded=crowded)
    assert watched.see(now + 0.1, *web_and_spare(500), *shop(1), crowded=crowded).waiting == {WEB}
    calm = watched.see(now + 0.2, *web_and_spare(501), *shop(0), crowded=crowded)
    assert calm.waiting == {WEB}
    assert calm.catalog.services[SHOP] == shop(0)


@pytest.mark.incident("T55")
def test_while_nginx_is_crowded_each_waits_for_its_own_last_change() -> None:
    """One flaps and gets its turn at 12.2 s. Another that changed at 5 and 6 s gets its own at 16 s, not at 22.2 s."""
    watched = Watched()
    watched.flapping = Flapping(burst=BURST, interval=INTERVAL, crowded_pause=10)
    watched.see(0, *web_and_spare(1), *shop(1), crowded=True)
    weights = {50: 2, 60: 3, 130: 4}
    weight = 1
    for tenth in range(20, 161):
        weight = weights.get(tenth, weight)
        calm = watched.see(0.1 * tenth, *web_and_spare(tenth), *shop(weight), crowded=True)
        assert tenth not in range(130, 160) or calm.waiting == {WEB, SHOP}
    assert calm.waiting == frozenset(), "the reload is there for both"
    assert calm.catalog.services[SHOP] == shop(4)


@pytest.mark.incident("T55")
@pytest.mark.parametrize("crowded", [True, False])
def test_who_has_nothing_to_serve_with_comes_back_at_once(crowded: bool) -> None:
    """A service fails, and recovers, again and again: it may be the one that flaps, and still is not kept down."""
    watched = Watched()
    up, down = shop(1), tuple(replace(one, health=Health.CRITICAL) for one in shop(1))
    watched.see(0, *web_and_spare(1), *up, crowded=crowded)
    now, is_up = 0.0, True
    for number in range(1, 400):
        now = 0.1 * number
        is_up = number % 2 == 0
        calm = watched.see(now, *web_and_spare(1 + number), *(up if is_up else down), crowded=crowded)
        assert not is_up or calm.catalog.services[SHOP] == up
    if not crowded:
        assert len(watched.reloads) <= 3 + (BURST - 1) + now / INTERVAL, "no more than one that flaps otherwise"


def test_what_cannot_be_used_is_no_recovery() -> None:
    """Healthy or not: as long as nginx gets no server of it, it waits like any other."""
    watched = Watched()

    def nonsense(number: int, health: Health = Health.PASSING) -> Instance:
        return instance("web", 1, f"route=web{number}.example.com", "canary=lots", health=health)

    watched.see(0, nonsense(0))
    for number in range(1, 100):
        calm = watched.see(0.1 * number, nonsense(number))
    assert calm.waiting == {WEB}
    assert len(watched.reloads) <= 2 + BURST + 9.9 / INTERVAL


def test_others_that_change_twice_keep_no_one_from_its_turn() -> None:
    watched = Watched()
    watched.see(0, *web_and_spare(1))
    turns = [0.0]
    for number in range(1, 200):
        now = 0.1 * number
        others = [
            instance(f"n{other}", other, f"route=n{other}.example.com", f"timeout={30 if other > number - 2 else 10}s")
            for other in range(5, number, 5)
        ]
        calm = watched.see(now, *web_and_spare(1 + number), *others)
        if WEB not in calm.waiting:
            turns.append(now)
    assert max(after - before for before, after in pairwise(turns)) <= 2 * INTERVAL + 0.1


# --- how many old workers are too many


@pytest.mark.parametrize(
    ("workers", "room", "most"),
    [(2, 16, 6), (2, 8, 2), (4, 16, 4), (8, 16, 8), (8, 64, 24), (6, 16, 6)],
)
def test_old_workers_crowd_nginx_from_so_many_on(workers: int, room: int, most: int) -> None:
    """``most`` is what there may be without: those of one reload at least."""
    assert most >= workers
    assert [number for number in range(room + 1) if not crowds(number, workers, room)] == [*range(most + 1)]


@given(draining=st.integers(0, 100), workers=st.integers(1, 64), room=st.integers(1, 128))
def test_while_nginx_is_not_crowded_one_more_reload_leaves_room_for_others(
    draining: int, workers: int, room: int
) -> None:
    """Else the next change of anybody would have to wait for old workers. With none of them there is no other way."""
    assert draining == 0 or crowds(draining, workers, room) or draining + workers <= room


def test_what_cost_no_reload_counts_as_no_change_and_is_live_all_the_same() -> None:
    flapping = Flapping(burst=BURST, interval=INTERVAL, crowded_pause=CROWDED)
    flapping.accept(plan(*web_and_spare(1)), catalog(*web_and_spare(1)), 0)
    for second in range(1, 20):
        weights = web_and_spare(second + 1)
        flapping.accept(plan(*weights), catalog(*weights), second, reloaded=False)
        assert not flapping.is_watchful(second)
    # The reload that follows is the first change, and only by what it changes.
    last = (*web_and_spare(20), *shop(1))
    flapping.accept(plan(*last), catalog(*last), 21)
    assert flapping.keep(catalog(*web_and_spare(3), *shop(1)), 22, crowded=True).waiting == frozenset()
