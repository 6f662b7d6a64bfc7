"""What is pushed and what the files say, where something comes in between: in simulated time, with a model of nginx."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from ipaddress import ip_network

import pytest

from proxygen.catalog import Instance
from proxygen.proxy import pipeline
from proxygen.proxy.apply.outcome import Outcome, WayToNginx
from proxygen.proxy.apply.publish import current
from proxygen.proxy.nginx.stamp import Stamp
from proxygen.proxy.policy import ground
from tests.model.story import Story
from tests.model.world import World
from tests.proxy.plan.catalogs import catalog, instance

WEB = instance("web", 1, "route=web.test")
MAIL = instance("mail", 3, "route=mail.test")
BAD = instance("web", 9, "route=web.test")
"""One whose address nginx -t is told to refuse."""

REFUSED = {"10.0.0.9:8080"}
WITHIN = 1.0


def mail(number: int) -> Instance:
    return instance("mail", 10 + number, "route=mail.test")


@pytest.fixture
def story() -> Iterator[Story]:
    """nginx serves web and mail, and can be pushed to."""
    yield from a_pushing_story("1s")


@pytest.fixture
def slow_story() -> Iterator[Story]:
    """The same, where files follow late."""
    yield from a_pushing_story("1m")


def a_pushing_story(within: str) -> Iterator[Story]:
    world = World(**{"reload.publish_within": within, "output.keep": "9"})
    try:
        world.nginx.has_lua = True
        assert world.nginx.start()
        story = Story(world)
        story.tell(WEB, MAIL)
        yield story
        assert not world.laws.broken, world.laws.broken
    finally:
        world.close()


def served(story: Story) -> Stamp:
    loaded = story.world.nginx.answer()
    assert loaded is not None
    assert loaded.stamp is not None
    return loaded.stamp


def assert_at_rest(story: Story) -> None:
    """nginx serves what Consul says, and the files say so."""
    assert not story.world.missing(), story.world.why()
    assert served(story).generation == current(story.world.output)
    story.world.nginx.restart()
    assert not story.world.missing()


def test_files_follow_in_time(story: Story) -> None:
    before, reloads = current(story.world.output), story.world.nginx.reloads
    story.tell(WEB, MAIL, mail(1), seconds=0.1)
    assert story.last.by is WayToNginx.PUSH
    assert current(story.world.output) == before
    story.world.wait(WITHIN)
    assert story.world.nginx.reloads == reloads
    assert_at_rest(story)


def test_another_address_of_this_host_costs_no_reload(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as that of a network which an engine makes: nginx reads nothing else for it."""
    story.tell(WEB, MAIL, mail(1))
    reloads = story.world.nginx.reloads
    for module in (ground, pipeline):
        monkeypatch.setattr(module, "own_networks", lambda: (frozenset({ip_network("10.9.0.1/32")}), ()))
    story.tell(WEB, MAIL, mail(1), mail(2), seconds=0.1)
    assert story.last.by is WayToNginx.PUSH
    story.world.wait(WITHIN)
    assert story.world.nginx.reloads == reloads
    assert_at_rest(story)


def test_what_nginx_t_refuses_is_taken_back_and_left_out(story: Story) -> None:
    story.world.nginx.faults.refused = REFUSED
    story.tell(WEB, MAIL, BAD, seconds=0.1)
    assert b"10.0.0.9" in story.files()
    pushed = served(story).generation
    story.until(lambda: b"10.0.0.9" not in story.files(), look=0.01)
    told = next(step for step in story.steps if step.outcome is Outcome.ROLLED_BACK)
    assert (told.by, told.refused, told.generation) == (WayToNginx.PUSH, pushed, served(story).generation)
    assert story.world.reconciler.state.live == served(story).generation
    story.world.wait(5)
    plan = story.world.reconciler.state.plan
    assert plan is not None
    assert [each.service for each in plan.quarantined] == ["web"]
    story.tell(WEB, MAIL, BAD, mail(1))
    assert b"10.0.0.11" in story.files()
    assert served(story).generation == current(story.world.output)


def test_what_was_refused_once_is_looked_at_again_before_nginx_is_given_it(story: Story) -> None:
    """What nginx -t disliked may be gone by then; a push of the same would be a circle."""
    story.world.nginx.faults.refused = REFUSED
    story.tell(WEB, MAIL, BAD, seconds=0.1)
    story.until(lambda: b"10.0.0.9" not in story.files(), look=0.01)
    story.world.nginx.faults.refused = set()
    reloads = story.world.nginx.reloads
    story.world.wait(5)
    assert story.world.nginx.reloads == reloads + 1
    assert_at_rest(story)


def test_what_was_pushed_while_nginx_t_refused_what_came_before_is_not_published_alone(story: Story) -> None:
    """It was taken back together with that: the files must not say that it is served."""
    story.world.nginx.faults.refused = REFUSED
    story.tell(WEB, MAIL, BAD, seconds=WITHIN / 2 + 0.01)
    # What is refused is being tested now.
    story.tell(WEB, MAIL, mail(1), seconds=0)
    for _ in range(100):
        story.world.wait(0.01)
        live = current(story.world.output)
        assert live is not None
        assert served(story).generation >= live or story.world.reconciler.busy_since is not None
    story.world.wait(5)
    assert_at_rest(story)


def test_a_flood_does_not_keep_a_refused_service_from_being_left_out(story: Story) -> None:
    """Each change makes another rendering of it, and each is refused for the same service."""
    story.world.nginx.faults.refused = REFUSED
    story.world.nginx.test_seconds = 0.3
    for number in range(40):
        story.tell(WEB, MAIL, BAD, mail(number), seconds=0.1)
    plan = story.world.reconciler.state.plan
    assert plan is not None
    assert [each.service for each in plan.quarantined] == ["web"]
    story.world.wait(5)
    assert b"10.0.0.49" in story.files()
    assert b"10.0.0.9:" not in story.files()
    assert served(story).generation == current(story.world.output)


def test_a_push_that_fails_leaves_no_older_one_to_be_published_later(slow_story: Story) -> None:
    """nginx was restarted, and what Consul says is what the files say: the one in between is not to come back."""
    story = slow_story
    story.tell(WEB, MAIL, mail(1), seconds=0.1)
    story.world.nginx.restart()
    story.world.nginx.faults.refused = {"proxygen-stamp"}
    story.tell(WEB, MAIL, mail(1), mail(2), seconds=0.1)
    assert story.last.outcome is Outcome.REJECTED
    story.world.nginx.faults.refused = set()
    story.tell(WEB, MAIL, seconds=200)
    assert_at_rest(story)


def test_nothing_is_left_for_others_to_push_again(story: Story) -> None:
    """After a way back nginx serves what the last document follows once more."""
    first = current(story.world.output)
    story.tell(WEB, MAIL, mail(1))
    story.go_back(first)
    story.world.wait(5)
    assert served(story).generation == first
    story.world.nginx.take()
    assert served(story).generation == first


def test_an_nginx_that_is_down_is_noticed_once(story: Story, caplog: pytest.LogCaptureFixture) -> None:
    story.world.nginx.kill()
    story.world.wait(12)
    begun = story.world.reconciler.begun
    story.world.wait(600)
    # By then it is tried again every 30 seconds.
    assert story.world.reconciler.begun - begun <= 600 / 30 + 1
    assert story.world.nginx.start()
    story.world.wait(60)
    assert_at_rest(story)


def test_a_way_back_with_a_full_disk_changes_nothing_for_long(story: Story) -> None:
    first = current(story.world.output)
    story.tell(WEB, MAIL, mail(1), seconds=0.1)
    story.world.disk.refuse(28)
    step = story.world.ask(_tried(story, first))
    story.world.disk.mend()
    story.world.wait(100)
    assert step is not None
    assert_at_rest(story)


async def _tried(story: Story, number: int | None) -> str:
    try:
        return str(await story.world.reconciler.roll_back(number))
    except Exception as error:  # what it says is for others
        return str(error)


def test_a_stop_has_the_files_say_what_was_pushed(story: Story) -> None:
    story.tell(WEB, MAIL, mail(1), seconds=0.1)
    pushed = served(story)
    story.world.stop()
    assert current(story.world.output) == pushed.generation


def test_a_stop_in_the_middle_of_a_push_leaves_files_that_say_what_is_served(story: Story) -> None:
    """At each step of it: nginx is not to go on with what no file says, for as long as there is no sidecar."""
    world = story.world
    for step in range(1, 9):
        world.disk.do_in(step, world.end_loop)
        world.tell(catalog(WEB, MAIL, mail(step)))
        world.loop.run_until_complete(asyncio.sleep(0.05))
        world.stop()
        assert served(story).generation == current(world.output), world.disk.steps[-10:]
        story.begin()
        world.wait(5)
        assert_at_rest(story)
    assert "push " in world.disk.steps
