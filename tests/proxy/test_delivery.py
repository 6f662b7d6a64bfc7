"""From a draft to nginx: what a generation is known by, and what is left of one that never became it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from proxygen.proxy.apply.apply import Outcome
from proxygen.proxy.apply.publish import current, generations
from proxygen.proxy.delivery import DIGEST_LENGTH
from tests.model.world import World
from tests.proxy.plan.catalogs import catalog, instance

WEB = instance("web", 1, "route=web.test")
SHOP = instance("shop", 2, "route=shop.test")


@pytest.fixture
def world() -> Iterator[World]:
    """Generation 1, with the service web, is live."""
    world = World(**{"output.keep": "9"})
    try:
        assert world.nginx.start()
        world.start()
        world.tell(catalog(WEB))
        world.wait(5)
        yield world
    finally:
        world.close()


def digests(world: World) -> list[str]:
    return [each.stamp.digest for each in generations(world.output)]


def test_a_generation_is_known_by_all_that_nginx_is_given_and_by_nothing_else(world: World) -> None:
    """Neither by its number nor by what was live in between."""
    for instances in ((WEB, SHOP), (WEB,), (WEB, SHOP)):
        world.tell(catalog(*instances))
        world.wait(5)
    first, second, third, fourth = digests(world)
    assert (first, second) == (third, fourth)
    assert first != second
    assert {len(each) for each in digests(world)} == {DIGEST_LENGTH}


def test_another_address_of_the_stamp_is_another_generation(world: World) -> None:
    """nginx has to be told where it is asked; until then nobody can prove what it serves."""
    world.stop()
    nginx = world.settings.nginx.model_copy(update={"stamp": "127.0.0.1:18099"})
    world.settings = world.settings.model_copy(update={"nginx": nginx})  # type: ignore[misc]
    world.start(with_consul=False)
    world.wait(3)
    assert world.reconciler.last is not None
    assert (world.reconciler.last.outcome, world.reconciler.last.generation) == (Outcome.UNCHANGED, None)
    assert world.reconciler.live is None
    world.tell(catalog(WEB))
    world.wait(5)
    assert current(world.output) == 2
    first, second = digests(world)
    assert first != second


def test_a_refused_candidate_leaves_nothing_beside_the_generations(world: World) -> None:
    for trouble in ("refused", "stuck", "blameless"):
        world.nginx.faults.refused = {"10.0.0.2:8080"} if trouble == "refused" else set()
        world.nginx.faults.refused |= {"stamp"} if trouble == "blameless" else set()
        world.nginx.faults.is_test_stuck = trouble == "stuck"
        world.tell(catalog(WEB, SHOP))
        world.wait(2)
        while world.reconciler.busy_since is not None:
            world.wait(1)
        assert list((world.output / "stage").iterdir()) == [], trouble
        world.nginx.faults.refused, world.nginx.faults.is_test_stuck = set(), False
        world.tell(catalog(WEB))
        world.wait(100)
    assert not world.laws.broken


def test_what_is_live_already_costs_neither_a_test_nor_a_reload(world: World) -> None:
    reloads, tests = world.nginx.reloads, world.disk.steps.count("nginx -t ")
    world.tell(catalog(WEB))
    world.wait(5)
    assert (world.nginx.reloads, world.disk.steps.count("nginx -t ")) == (reloads, tests)
    assert current(world.output) == 1
