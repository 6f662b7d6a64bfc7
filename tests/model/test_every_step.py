"""The same few stories, and in each of them a death or an error of the disk at every single step in turn.

Without the slow ones every fourth step is tried, in each story others. PROXYGEN_MODEL_EXAMPLES=1 tries the steps that
are of one kind too.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from itertools import pairwise
from typing import Final

import pytest

from proxygen.kit.errors import ProxygenError
from proxygen.proxy.apply.outcome import Outcome
from proxygen.proxy.apply.publish import current
from proxygen.proxy.state.memory import recall
from tests.model.world import World
from tests.proxy.plan.catalogs import catalog, instance

Story = Callable[[World], None]

WEB: Final = instance("web", 1, "route=web.test")
SHOP: Final = instance("shop", 2, "route=shop.test")
DB: Final = instance("db", 3, "protocol=tcp", "listen=15432")
WEB_ELSEWHERE: Final = instance("web", 4, "route=web.test")
MAIL: Final = tuple(instance("mail", 5 + each, "route=mail.test") for each in range(3))
LONG: Final = "PROXYGEN_MODEL_EXAMPLES" in os.environ
QUARTERS: Final = 4


def first_generation(world: World) -> None:
    world.tell(catalog(WEB))


def change(world: World) -> None:
    world.tell(catalog(WEB, SHOP))


def refusal_of_nginx_t(world: World) -> None:
    world.nginx.faults.refused = {"10.0.0.2:8080"}
    world.tell(catalog(WEB_ELSEWHERE, SHOP))


def refused_reload(world: World) -> None:
    world.nginx.faults.taken = {15432}
    world.tell(catalog(WEB_ELSEWHERE, DB))


def change_while_nginx_is_away(world: World) -> None:
    world.nginx.kill()
    world.tell(catalog(WEB, SHOP))


def going_back(world: World) -> None:
    with suppress(ProxygenError):
        world.ask(world.reconciler.roll_back(None))


def push(world: World) -> None:
    world.tell(catalog(WEB_ELSEWHERE, *MAIL))


def push_and_reload(world: World) -> None:
    """The reload comes before the files say what was pushed."""
    push(world)
    world.wait(0.2)
    world.tell(catalog(WEB_ELSEWHERE, *MAIL, SHOP))


def push_that_nginx_t_refuses(world: World) -> None:
    world.nginx.faults.refused = {"10.0.0.4:8080"}
    push(world)


def push_and_way_back(world: World) -> None:
    push(world)
    world.wait(0.2)
    if world.is_alive:
        going_back(world)


PUSHED: Final = (push, push_and_reload, push_that_nginx_t_refuses, push_and_way_back)
"""What an nginx with Lua needs no reload for, or not for all of it."""
STORIES: Final = (
    first_generation,
    change,
    refusal_of_nginx_t,
    refused_reload,
    change_while_nginx_is_away,
    going_back,
    *PUSHED,
)


@contextmanager
def world_before(story: Story) -> Iterator[World]:
    """Generations 1 to 3 are there, the last of them is live, unless the story is that of the first."""
    world = World()
    try:
        world.nginx.has_lua = story in PUSHED
        world.nginx.start()
        world.start()
        for number in range(1, 1 if story is first_generation else 4):
            world.tell(catalog(WEB, *MAIL[:number]))
            world.wait(5)
        yield world
    finally:
        world.close()


def steps_of(story: Story, quarter: int, trouble: Callable[[World, int], None]) -> Iterator[World]:
    """Tell a story again and again, with the trouble at another of its steps each time."""
    steps = worth_trying(story)[(quarter + STORIES.index(story)) % QUARTERS :: QUARTERS]
    assert steps
    for step in steps:
        with world_before(story) as world:
            trouble(world, step)
            tell(story, world)
            yield world


def tell(story: Story, world: World) -> list[str]:
    """Return its steps."""
    before = len(world.disk.steps)
    story(world)
    world.wait(20)
    return world.disk.steps[before:]


@cache
def worth_trying(story: Story) -> list[int]:
    """Every step in the long form; else one of each kind: what it does where, and after what."""
    with world_before(story) as world:
        steps = tell(story, world)
    kinds = list(pairwise(["", *steps]))
    return [number for number, kind in enumerate(kinds, 1) if LONG or kinds.index(kind) == number - 1]


every_step = pytest.mark.parametrize(
    "quarter", [0, *(pytest.param(number, marks=pytest.mark.slow) for number in range(1, QUARTERS))]
)


@every_step
@pytest.mark.parametrize("story", STORIES)
@pytest.mark.parametrize("is_consul_back", [True, False], ids=["consul-back", "consul-away"])
def test_a_kill_at_any_step_leaves_nothing_undone(story: Story, quarter: int, is_consul_back: bool) -> None:
    """After the next start nginx serves what ``current`` names, and with Consul what the story was to bring."""
    for world in steps_of(story, quarter, lambda world, step: world.disk.die_in(step)):
        converges(world, is_consul_back)


@every_step
@pytest.mark.parametrize("story", STORIES)
def test_a_lost_machine_comes_back_whole(story: Story, quarter: int) -> None:
    """Only what was synced is there again, and nginx starts from it before anything else does."""
    for world in steps_of(story, quarter, lambda world, step: world.disk.die_in(step)):
        world.lose_power()
        if not world.nginx.start():
            # The port that somebody took keeps it from it, until the sidecar has taken that back.
            assert story is refused_reload
            world.start()
            world.wait(5)
            assert world.nginx.start()
        converges(world, is_consul_back=True)


@every_step
@pytest.mark.parametrize("story", STORIES)
@pytest.mark.parametrize("code", [errno.EIO, *([errno.ENOSPC] if LONG else [])], ids=errno.errorcode.get)
def test_an_error_at_any_step_is_made_good(story: Story, quarter: int, code: int) -> None:
    """Without a new start and without news from Consul."""
    for world in steps_of(story, quarter, lambda world, step: world.disk.fail_in(step, code)):
        assert world.is_alive
        converges(world, is_consul_back=True)


@every_step
@pytest.mark.parametrize("story", PUSHED)
@pytest.mark.parametrize("what", ["reload", "restart", "take"])
def test_whatever_others_do_to_nginx_at_any_step_is_made_good(story: Story, quarter: int, what: str) -> None:
    """They have it read its files, which may be behind, or take what lies in the file of what is pushed."""

    def trouble(world: World, step: int) -> None:
        acts = {"reload": world.nginx.reload_by_others, "restart": world.nginx.restart, "take": world.nginx.take}
        world.disk.do_in(step, acts[what])

    for world in steps_of(story, quarter, trouble):
        converges(world, is_consul_back=True)


def test_a_way_back_that_was_answered_outlives_a_stop_at_once() -> None:
    """An operator who was told that nginx went back finds it so at the next start, whatever the disk refused once."""
    answered = []
    for step in worth_trying(going_back):
        with world_before(going_back) as world:
            world.disk.fail_in(step, errno.EIO)
            try:
                done = world.ask(world.reconciler.roll_back(None))
            except ProxygenError:
                done = None
            if done is None or done.outcome is not Outcome.APPLIED:
                # After the switch it is finished all the same.
                assert recall(world.output).pinned in (None, current(world.output))
                continue
            answered.append(step)
            world.stop()
            world.disk.mend()
            world.start()
            world.wait(100)
            assert (world.reconciler.state.pinned, current(world.output)) == (done.generation, done.generation), step
            assert not world.laws.broken, world.laws.broken
    assert answered


def converges(world: World, is_consul_back: bool) -> None:
    world.disk.mend()
    if not world.is_alive:
        world.start(with_consul=is_consul_back)
    if not world.nginx.is_running:
        world.forgive()
        assert world.nginx.start()
    world.wait(100)
    pinned = world.reconciler.state.pinned
    assert pinned == recall(world.output).pinned
    world.laws.judge_rest()
    assert {loaded.stamp.generation if loaded.stamp else None for loaded in world.nginx.served()} == {
        current(world.output)
    }, world.why()
    if is_consul_back:
        world.forgive()
        if pinned is not None:
            assert current(world.output) == pinned, world.why()
            world.let_go()
        world.wait(3_000)
        assert not world.missing(), world.why()
    assert not world.laws.broken, world.laws.broken
