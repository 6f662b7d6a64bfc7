"""The loop in simulated time, fed with catalogs by hand: nothing ends it, and one trouble stays one trouble.

What only a real nginx or a real thread can decide is in tests/integration/test_loop.py.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from proxygen.catalog import Health
from proxygen.kit.errors import CatalogUnavailable, OutputUnusable
from proxygen.proxy.apply.outcome import Outcome
from proxygen.proxy.apply.publish import current
from tests.model.story import BAD, DB, FLEET, WEB, Story, a_story, left_out
from tests.model.world import World
from tests.proxy.plan.catalogs import catalog, instance

SHIPPED = Path(__file__).parents[2] / "templates/location.conf.j2"
SHOP = FLEET[0]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The operator's template of a location, in a directory of his own; there is none yet."""
    (tmp_path / "templates").mkdir()
    return tmp_path / "templates/location.conf.j2"


@pytest.fixture
def snippets(tmp_path: Path) -> Path:
    """The operator's fragments, none yet."""
    path = tmp_path / "snippets"
    path.mkdir()
    return path


@pytest.fixture
def story(own: Path, snippets: Path) -> Iterator[Story]:
    """One whose operator may write templates and fragments."""
    yield from a_story(**{"proxy.templates": str(own.parent), "proxy.snippets": str(snippets)})


@pytest.fixture
def alone() -> Iterator[Story]:
    """One whose nginx never ran."""
    with closing(World()) as world:
        yield Story(world)
        assert not world.laws.broken, world.laws.broken


def change(path: Path, text: str, story: Story, *, seconds: float = 5) -> None:
    path.write_text(text)
    story.world.reconciler.files_touched()
    story.world.wait(seconds)


def live(story: Story) -> int | None:
    """The generation that nginx reads when it starts."""
    return current(story.world.output)


# --- nothing ends the loop --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [b"# {{ 1 / 0 }}\n", b"# {{ (location.proxy.nothing / 1000) | q }}\n", b"# caf\xe9\n"],
    ids=["division", "nothing-there", "latin-1"],
)
def test_a_template_that_fails_like_a_program_ends_nothing(own: Path, text: bytes) -> None:
    """It is there from the start, so there is no older one to go on with; the mended one is enough."""
    own.write_bytes(text)
    with contextmanager(a_story)(**{"proxy.templates": str(own.parent)}) as story:
        assert story.last.outcome is Outcome.REJECTED
        assert "location.conf.j2" in story.last.reason
        change(own, SHIPPED.read_text(), story)
        assert story.serves("web")


def test_what_nobody_thought_of_is_a_rejection_and_is_tried_again(
    story: Story, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Injects a directory for temporary files that is gone, as good as full or read-only."""
    # The log of what nobody thought of shows all that there was: seconds of work.
    with monkeypatch.context() as broken, capture_logs():
        broken.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
        story.tell(WEB, SHOP)
        assert story.last.outcome is Outcome.REJECTED
        assert "No such file or directory" in story.last.reason
        assert live(story) == 1
    assert story.until(lambda: story.serves("shop")) < 10


# --- files that cannot be used ----------------------------------------------------------------------------------------


def _broken_templates() -> Iterator[tuple[str, str, str]]:
    shipped = SHIPPED.read_text()
    yield "syntax", "{% if %}", "location.conf.j2:1"
    yield "undefined", "{{ location.flavour | q }}", "flavour"
    yield "first-gate", shipped + "}\n", "whatever the values are"
    yield "second-gate", shipped + "unwelcome on;\n", "unwelcome"


@pytest.mark.parametrize(
    ("template", "said"),
    [pytest.param(template, said, id=name) for name, template, said in _broken_templates()],
)
def test_a_broken_template_costs_no_change_of_the_catalog(story: Story, own: Path, template: str, said: str) -> None:
    """The files before stay in force, whole and with the reason told, until a file changes again."""
    story.world.nginx.faults.refused = {"unwelcome"}
    change(own, template, story)
    assert said in story.world.reconciler.state.files_problem
    story.tell(WEB, SHOP)
    assert story.serves("shop")
    assert said in story.world.reconciler.state.files_problem
    assert left_out(story) == set()
    change(own, SHIPPED.read_text() + "# mended\n", story)
    assert b"# mended" in story.files()
    assert not story.world.reconciler.state.files_problem


def test_a_broken_template_is_told_apart_from_an_absent_nginx(story: Story, own: Path) -> None:
    """Both at once: each has its own reason, and nginx's return is enough for the catalog to go on."""
    story.world.nginx.kill()
    change(own, "{{ location.flavour | q }}", story)
    assert story.last.outcome is Outcome.REJECTED
    assert "flavour" in story.world.reconciler.state.files_problem
    assert "nginx" in story.last.reason
    assert "flavour" not in story.last.reason
    assert story.world.nginx.start()
    story.tell(WEB, SHOP)
    assert story.serves("shop")
    assert "flavour" in story.world.reconciler.state.files_problem
    change(own, SHIPPED.read_text(), story)
    assert not story.world.reconciler.state.files_problem


def test_files_that_are_mended_while_nginx_is_away_are_no_problem_any_more(story: Story, own: Path) -> None:
    change(own, "{% if %}", story)
    assert story.world.reconciler.state.files_problem
    story.world.nginx.kill()
    change(own, SHIPPED.read_text() + "# mended\n", story)
    assert story.last.outcome is Outcome.REJECTED
    assert story.world.nginx.start()
    story.until(lambda: b"# mended" in story.files())
    assert not story.world.reconciler.state.files_problem


@pytest.mark.incident("T63")
@pytest.mark.parametrize("broken", ["nonsense on;\n", "{{ nothing_of_that_name }}\n"])
def test_a_broken_stamp_template_costs_no_change_of_the_catalog(story: Story, own: Path, broken: str) -> None:
    """What plans and what delivers belong together: both go back to the templates before."""
    story.world.nginx.faults.refused = {"nonsense"}
    stamp = own.with_name("stamp.conf.j2")
    shipped = SHIPPED.with_name(stamp.name).read_text()
    change(stamp, broken + shipped, story)
    assert story.world.reconciler.state.files_problem
    story.tell(WEB, SHOP)
    assert story.serves("shop")
    assert story.world.reconciler.state.files_problem
    change(stamp, "# mended\n" + shipped, story)
    assert not story.world.reconciler.state.files_problem
    story.tell(WEB)
    assert live(story) == 4


def test_a_service_that_is_refused_with_any_files_does_not_stand_in_the_way_of_the_new_ones(
    story: Story, own: Path
) -> None:
    """Injects a service and a template in one go, where the service is refused with the template before, too."""
    story.world.nginx.faults.refused = {"bad.test"}
    story.world.tell(catalog(WEB, BAD))
    change(own, SHIPPED.read_text() + "# mended\n", story)
    assert b"# mended" in story.files()
    assert left_out(story) == {"bad"}
    assert not story.world.reconciler.state.files_problem


# --- refused services -------------------------------------------------------------------------------------------------


def test_a_refused_service_whose_health_flaps_costs_the_others_nothing(story: Story) -> None:
    """One reload stumbles over a taken port, and the service's checks have no say in when the next one does."""
    story.world.nginx.faults.taken = {15432}
    story.tell(WEB, SHOP, DB)
    story.until(lambda: story.serves("shop"))
    before = story.world.nginx.reloads
    for number, health in zip(range(10), itertools.cycle([Health.CRITICAL, Health.PASSING]), strict=False):
        story.tell(WEB, SHOP, replace(DB, health=health, modify_index=number), seconds=0.5)
    assert story.world.nginx.reloads == before
    story.tell(WEB, SHOP, DB, FLEET[1])
    assert story.serves("mail")
    assert story.world.nginx.reloads == before + 1


# --- without a catalog ------------------------------------------------------------------------------------------------


def test_nginx_that_comes_before_consul_is_enough_to_be_live(story: Story) -> None:
    """Both are away at the start: what is on disk is proven once nginx serves it, whatever Consul does."""
    story.world.stop()
    story.world.nginx.kill()
    story.begin(with_consul=False)
    story.world.wait(2)
    assert story.last.outcome is Outcome.REJECTED
    assert story.world.reconciler.state.live_since is None
    assert story.world.nginx.start()
    story.until(lambda: story.world.reconciler.state.live_since is not None)
    assert story.last.outcome in (Outcome.APPLIED, Outcome.UNCHANGED)
    assert story.world.reconciler.begun == 0, "nor the catalog on disk"


def test_what_is_unchecked_is_looked_at_again_once_consul_can_be_asked(story: Story) -> None:
    """Injects a Consul that cannot be asked while the limit ends, and then says what it said before: no new catalog."""
    spoken = replace(WEB, speaks=True)
    story.tell(spoken, *FLEET)
    story.world.is_fresh = False
    story.tell(replace(spoken, health=Health.CRITICAL, unchecked=True, speaks=False), *FLEET, seconds=1_000)

    def kept() -> bool:
        plan = story.world.reconciler.state.plan
        assert plan is not None
        (web,) = (service for service in plan.services if service.name == "web")
        # Whoever is kept says so.
        assert bool(web.warnings) is (web.instances[0].health is Health.PASSING)
        return bool(web.warnings)

    assert kept()
    story.world.is_fresh = True
    assert story.until(lambda: not kept()) < 302


# --- what is live -----------------------------------------------------------------------------------------------------


def test_what_is_only_published_is_not_live(alone: Story) -> None:
    """An operator who goes back to where he is asks nginx nothing."""
    assert (alone.last.outcome, live(alone)) == (Outcome.REJECTED, 1)
    assert alone.go_back().outcome is Outcome.UNCHANGED
    assert (alone.world.reconciler.state.live, alone.world.reconciler.state.live_since) == (None, None)
    assert alone.world.nginx.start()
    alone.until(lambda: alone.world.reconciler.state.live == 1)


def test_what_waits_for_nginx_is_not_live_before_it_is_back(story: Story) -> None:
    """Injects the end of nginx: the next generation is published, and what was served last stays what is live."""
    since = story.world.reconciler.state.live_since
    story.world.nginx.kill()
    story.tell(WEB, SHOP)
    assert (story.last.outcome, live(story)) == (Outcome.REJECTED, 2)
    assert story.go_back(2).outcome is Outcome.UNCHANGED
    assert (story.world.reconciler.state.live, story.world.reconciler.state.live_since) == (1, since)
    assert story.world.nginx.start()
    story.until(lambda: story.world.reconciler.state.live == 2)
    assert story.world.reconciler.state.live_since != since


def test_where_the_stamp_is_asked_for_elsewhere_a_pinned_generation_is_not_live(story: Story) -> None:
    """Injects another nginx.stamp and the end of nginx: what is pinned cannot tell that it is served."""
    story.tell(WEB, SHOP)
    assert story.go_back().outcome is Outcome.APPLIED
    story.world.stop()
    story.world.nginx.kill()
    before = story.world.settings
    elsewhere = before.nginx.model_copy(update={"stamp": "127.0.0.1:18083"})
    story.world.settings = before.model_copy(update={"nginx": elsewhere})
    story.begin()
    story.world.wait(5)
    assert story.last.outcome is Outcome.HELD
    assert story.world.reconciler.state.live is None


# --- rollback ---------------------------------------------------------------------------------------------------------


def test_a_catalog_that_comes_while_something_is_finished_is_the_first_that_is_carried(story: Story) -> None:
    """What waits for the next pass with a catalog must not wait for two."""
    story.world.stop()
    story.begin(with_consul=False)
    reconciler = story.world.reconciler
    story.world.wait(1)
    assert reconciler.state.last is not None
    assert (reconciler.begun, reconciler.carried) == (0, 0)
    story.tell(WEB, SHOP, seconds=0.05)
    assert (reconciler.begun, reconciler.carried) == (1, 0)
    story.world.wait(5)
    assert (reconciler.begun, reconciler.carried) == (1, 1)
    assert story.serves("shop")


def test_a_rollback_that_nginx_does_not_live_to_see_is_a_step_a_pin_and_is_finished(story: Story) -> None:
    """Injects the end of nginx: its next start reads the generation that the operator asked for, and it stays."""
    story.tell(WEB, SHOP)
    story.world.nginx.kill()
    step = story.go_back()
    assert (step.outcome, step.generation) == (Outcome.REJECTED, 1)
    assert story.steps[-1] == story.last == step
    assert (live(story), story.world.reconciler.state.pinned) == (1, 1)
    assert story.world.nginx.start()
    story.until(lambda: story.last.outcome is Outcome.HELD)
    assert (live(story), story.world.reconciler.state.pinned) == (1, 1)
    assert story.release().outcome is Outcome.APPLIED
    assert story.serves("shop")


def test_a_rollback_that_ends_where_it_began_pins_nothing(story: Story) -> None:
    with pytest.raises(OutputUnusable, match="no generation 7"):
        story.go_back(7)
    assert story.go_back(1).outcome is Outcome.UNCHANGED
    assert story.world.reconciler.state.pinned is None
    story.tell(WEB, SHOP)
    assert story.serves("shop")


def test_a_hold_that_is_released_before_consul_was_read_is_released(story: Story) -> None:
    story.tell(WEB, SHOP)
    assert story.go_back().outcome is Outcome.APPLIED
    story.world.stop()
    story.begin(with_consul=False)
    assert story.world.reconciler.state.pinned == 1
    with pytest.raises(CatalogUnavailable):
        story.release()
    assert story.world.reconciler.state.pinned is None


# --- holds ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_fresh", [True, False], ids=["consul-answers", "consul-cannot-be-asked"])
def test_what_is_not_held_goes_live_during_a_hold(story: Story, is_fresh: bool) -> None:
    """A hold lasts for as long as Consul cannot be asked."""
    story.tell(WEB, *FLEET)
    story.world.is_fresh = is_fresh
    story.tell(WEB, seconds=5 if is_fresh else 1_000)
    assert "3 of 4 servers" in str(story.world.reconciler.state.holds)
    story.tell(WEB, BAD)
    assert story.serves("bad")
    assert story.serves("mail")
    assert story.world.reconciler.state.holds


# --- the catalog on disk ----------------------------------------------------------------------------------------------


def test_losses_are_told_across_a_restart(story: Story) -> None:
    story.tell(WEB, *FLEET)
    story.world.stop()
    story.begin(with_consul=False)
    story.tell(WEB)
    assert "3 of 4 servers" in str(story.world.reconciler.state.holds)
    assert story.serves("mail")


def test_a_start_without_consul_goes_on_from_the_catalog_on_disk(story: Story, snippets: Path) -> None:
    story.tell(WEB, *FLEET)
    assert story.world.reconciler.state.stale_since is None
    story.world.stop()
    (snippets / "server.conf").write_text("add_header X-Changed-While-Consul-Was-Down yes;\n")
    story.begin(with_consul=False)
    story.world.wait(10)
    assert b"X-Changed-While-Consul-Was-Down" in story.files()
    assert story.serves("mail")
    assert story.world.reconciler.state.stale_since is not None
    story.tell(WEB, *FLEET, BAD)
    assert story.world.reconciler.state.stale_since is None


def test_a_catalog_older_than_the_live_generation_is_not_gone_back_to(story: Story) -> None:
    """A kill between the proof and the saving leaves that."""
    file = story.world.output / "state/catalog.json"
    old = file.read_bytes()
    story.tell(WEB, SHOP)
    assert file.read_bytes() != old
    story.world.stop()
    file.write_bytes(old)
    story.begin(with_consul=False)
    story.world.wait(60)
    assert story.serves("shop")
    assert story.world.reconciler.state.plan is None
    assert live(story) == 2


# --- the governor -----------------------------------------------------------------------------------------------------


@pytest.fixture
def governed() -> Iterator[Story]:
    """Two reloads may come at once, and later ones a second apart; old workers are no reason to wait."""
    pace = {"reload.gap": "10ms", "reload.burst": "2", "reload.interval": "1s", "reload.max_draining": "60"}
    yield from a_story(**pace)


def test_a_flood_of_changes_costs_a_bounded_number_of_reloads(governed: Story) -> None:
    """Each is another service's: none of them flaps."""
    governed.world.wait(10)
    before = governed.world.nginx.reloads
    newcomers = [instance(f"app{number}", 100 + number, f"route=app{number}.test") for number in range(100)]
    for number in range(len(newcomers)):
        governed.tell(WEB, *newcomers[: number + 1], seconds=0.05)
    # Five seconds: each after the first two had to earn its time.
    assert 5 <= governed.world.nginx.reloads - before <= 2 + 5
