"""What a pass remembers for the next one, in simulated time: each incident begins as if there had been none before."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from proxygen.catalog import Health, Instance
from proxygen.kit.errors import OutputUnusable, Refused
from proxygen.proxy.apply.outcome import Outcome
from proxygen.proxy.apply.publish import current, generations
from proxygen.proxy.plan.types import RouteClaim
from proxygen.proxy.quarantine import culprits
from proxygen.proxy.record.steps import Step
from proxygen.proxy.state.memory import recall
from tests.model.story import BAD, DB, FLEET, WEB, Story, a_story, left_out
from tests.proxy.plan.catalogs import catalog, instance


@pytest.fixture
def roomy() -> Iterator[Story]:
    """Keeps many generations."""
    yield from a_story(**{"output.keep": "10"})


# --- holds ------------------------------------------------------------------------------------------------------------


def test_a_hold_right_after_a_release_lasts_as_long_as_the_first_would_have(story: Story) -> None:
    """Nothing of the first is left: no early end, and no licence to lose servers."""
    story.tell(WEB, *FLEET)
    story.tell(WEB)
    assert story.last.outcome is Outcome.HELD
    first = story.world.reconciler.state.held_since
    story.world.wait(200)
    assert story.release().outcome is Outcome.APPLIED
    assert not story.serves("mail")
    assert (story.world.reconciler.state.held, story.world.reconciler.state.held_since) == (None, None)
    story.tell(WEB, *FLEET)
    assert story.serves("mail")
    story.tell(WEB, seconds=1)
    began = story.now - 1
    assert story.last.outcome is Outcome.HELD
    assert story.world.reconciler.state.held_since != first
    story.until(lambda: not story.serves("mail"))
    assert 300 <= story.now - began < 302


def test_a_hold_ends_by_itself_and_the_next_does_too(story: Story) -> None:
    for _ in range(2):
        story.tell(WEB, *FLEET)
        story.tell(WEB, seconds=0.1)
        assert story.serves("mail")
        assert 299 < story.until(lambda: not story.serves("mail")) < 302
        assert story.world.reconciler.state.held_since is None


def test_a_hold_that_ends_because_all_is_back_leaves_the_next_its_whole_time(story: Story) -> None:
    """A timer of the first must neither be taken for the second's nor stand in its way."""
    story.tell(WEB, *FLEET)
    story.tell(WEB, seconds=290)
    story.tell(WEB, *FLEET)
    assert not story.world.reconciler.state.holds
    story.world.wait(70)
    story.tell(WEB, seconds=0.1)
    assert story.world.reconciler.state.holds
    assert 299 < story.until(lambda: not story.serves("mail")) < 302


def test_a_hold_that_cannot_be_confirmed_is_looked_at_each_time_it_could_be_over(story: Story) -> None:
    story.tell(WEB, *FLEET)
    story.world.is_fresh = False
    story.tell(WEB, seconds=1_000)
    assert story.serves("mail")
    story.world.is_fresh = True
    assert story.until(lambda: not story.serves("mail")) < 302


def test_a_released_pin_lets_nothing_else_go(story: Story) -> None:
    """A loss after it is judged as ever: the operator let a plan through, not every one to come."""
    story.tell(WEB, *FLEET)
    assert story.go_back(1).outcome is Outcome.APPLIED
    assert story.release().outcome is Outcome.APPLIED
    assert story.serves("mail")
    story.tell(WEB)
    assert story.last.outcome is Outcome.HELD
    assert story.serves("mail")


def test_a_released_pin_lets_nothing_else_go_where_the_plan_that_it_let_through_failed(story: Story) -> None:
    """What comes instead of it loses servers, and nobody said that it may."""
    story.tell(WEB, *FLEET)
    story.go_back(1)
    story.world.nginx.faults.is_signal_refused = True
    assert story.release().outcome is Outcome.ROLLED_BACK
    story.tell(WEB)
    story.world.nginx.faults.is_signal_refused = False
    story.world.wait(60)
    assert story.world.reconciler.state.holds
    assert story.serves("mail")


def test_where_nothing_is_held_nothing_can_be_released(story: Story) -> None:
    with pytest.raises(Refused, match="nothing is held"):
        story.release()
    story.tell(WEB, *FLEET)
    story.tell(WEB)
    story.release()
    with pytest.raises(Refused, match="nothing is held"):
        story.release()


def test_a_hold_is_told_when_it_begins_when_other_services_join_and_when_it_ends(story: Story) -> None:
    story.tell(WEB, *FLEET)
    with capture_logs() as log:
        story.tell(FLEET[2])
        since = story.world.reconciler.state.held_since
        assert since is not None
        story.tell(FLEET[2], BAD)
        story.tell(BAD)
        assert story.world.reconciler.state.held_since == since
        story.world.wait(400)
    told = [line for line in log if line["event"] in ("servers held", "hold over")]
    assert [(line["event"], line.get("services")) for line in told] == [
        ("servers held", 3),
        ("servers held", 4),
        ("hold over", None),
    ]


def test_what_is_held_is_told_as_held_where_nothing_else_changes(story: Story) -> None:
    story.tell(WEB, *FLEET)
    story.steps.clear()
    story.tell(WEB)
    (step,) = story.steps
    assert (step.outcome, step.generation) == (Outcome.HELD, 2)
    assert step.reason == story.world.reconciler.state.held.reason  # type: ignore[union-attr]
    assert story.world.reconciler.state.holds == (step.reason,)


# --- unchecked instances ----------------------------------------------------------------------------------------------


def test_each_unchecked_instance_keeps_its_place_for_the_whole_time_and_no_longer(story: Story) -> None:
    """Nothing new comes from Consul: a timer ends it. A second one begins later and ends later."""
    spoken = [replace(one, speaks=True) for one in (WEB, *FLEET)]
    fallen = [replace(one, health=Health.CRITICAL, unchecked=True, speaks=False) for one in spoken]
    story.tell(*spoken)

    def is_kept(name: str) -> bool:
        plan = story.world.reconciler.state.plan
        assert plan is not None
        (found,) = (service for service in plan.services if service.name == name)
        return found.instances[0].health is Health.PASSING

    with capture_logs() as log:
        story.tell(fallen[0], *spoken[1:], seconds=100)
        story.tell(fallen[0], fallen[1], *spoken[2:], seconds=150)
        assert is_kept("web")
    assert [line["count"] for line in log if line["event"] == "unchecked instances served as before"] == [1, 1]
    assert 49 < story.until(lambda: not is_kept("web")) < 52
    assert is_kept("shop")
    assert 99 < story.until(lambda: not is_kept("shop")) < 102


# --- the pin ----------------------------------------------------------------------------------------------------------


def test_going_back_in_vain_restores_the_pin_that_there_was(roomy: Story) -> None:
    """Not none, and not the one that failed: a restart goes to where the operator last was."""
    story = roomy
    story.tell(WEB, FLEET[0])
    story.tell(WEB, *FLEET)
    story.world.nginx.faults.is_signal_refused = True
    assert story.go_back(1).outcome is Outcome.ROLLED_BACK
    assert story.world.reconciler.state.pinned is None
    story.world.nginx.faults.is_signal_refused = False
    assert story.go_back(2).outcome is Outcome.APPLIED
    story.world.nginx.faults.is_signal_refused = True
    assert story.go_back(1).outcome is Outcome.ROLLED_BACK
    assert story.world.reconciler.state.pinned == 2
    with pytest.raises(OutputUnusable, match="no generation 9"):
        story.go_back(9)
    assert story.go_back(2).outcome is Outcome.UNCHANGED
    assert story.world.reconciler.state.pinned == 2
    story.world.stop()
    story.begin(with_consul=False)
    assert story.world.reconciler.state.pinned == 2


def test_a_generation_that_is_not_there_is_refused_before_anything_is_written(roomy: Story) -> None:
    """Killed in between, the next run would find the operator's word in a generation that nobody has, and let it go."""
    roomy.tell(WEB, FLEET[0])
    roomy.go_back(1)
    before = list(roomy.world.disk.steps)
    with pytest.raises(OutputUnusable, match="no generation 9"):
        roomy.go_back(9)
    assert roomy.world.disk.steps == before


def test_without_a_number_the_one_that_nginx_ran_before_is_gone_back_to(roomy: Story) -> None:
    for count in range(3):
        roomy.tell(WEB, *FLEET[: count + 1])
    assert (roomy.go_back().generation, roomy.world.reconciler.state.pinned) == (3, 3)
    assert roomy.last.outcome is Outcome.APPLIED
    assert (roomy.go_back().generation, roomy.world.reconciler.state.pinned) == (4, 4)


def test_what_comes_while_the_operator_holds_a_generation_goes_live_once_he_lets_go(story: Story) -> None:
    story.tell(WEB, FLEET[0])
    story.go_back(1)
    story.tell(WEB, *FLEET)
    assert (story.last.outcome, story.last.generation) == (Outcome.HELD, 1)
    assert story.last.reason == "the operator went back to generation 1; `proxygen release-hold` lets new plans through"
    assert story.world.reconciler.state.holds == (story.last.reason,)
    assert not story.serves("shop")
    story.release()
    assert story.serves("mail")
    assert story.world.reconciler.state.pinned is None
    assert story.world.reconciler.state.holds == ()


def test_a_pinned_generation_is_gone_to_again_where_another_one_is_live_at_the_start(story: Story) -> None:
    """Killed between the pin and the switch, or the switch undone: the operator's word is kept."""
    story.tell(WEB, FLEET[0])
    story.go_back(1)
    story.world.stop()
    story.put_live(2)
    story.begin(with_consul=False)
    story.world.wait(3)
    assert (current(story.world.output), story.world.reconciler.state.pinned) == (1, 1)
    assert not story.serves("shop")


def test_a_pin_whose_generation_is_gone_holds_nothing(roomy: Story) -> None:
    roomy.tell(WEB, FLEET[0])
    roomy.go_back(1)
    roomy.world.stop()
    lost = roomy.world.output / "generations/000001"
    lost.rename(roomy.world.directory / "lost")
    roomy.put_live(2)
    with capture_logs() as log:
        roomy.begin()
        roomy.world.wait(5)
    assert ("hold released, its generation is gone", 1) in [(line["event"], line.get("generation")) for line in log]
    assert roomy.world.reconciler.state.pinned is None
    roomy.tell(WEB, *FLEET)
    assert roomy.serves("mail")


# --- what took nginx down ---------------------------------------------------------------------------------------------


def _outage(story: Story, *instances: Instance) -> float:
    """Have a candidate end every worker; return the seconds until it is tried again."""
    story.world.nginx.faults.fatal = {"bad.test"}
    story.world.tell(catalog(*instances))
    story.until(lambda: story.last.outcome is Outcome.ROLLED_BACK)
    reloads = story.world.nginx.reloads
    return story.until(lambda: story.world.nginx.reloads > reloads)


def test_what_took_nginx_down_is_kept_back_and_each_time_for_twice_as_long(story: Story) -> None:
    story.world.nginx.faults.fatal = {"bad.test"}
    outages: list[float] = []
    story.world.reconciler.subscribe(
        lambda step: outages.append(story.now) if step.outcome is Outcome.ROLLED_BACK else None
    )
    story.tell(WEB, BAD, seconds=250)
    pauses = [after - before for before, after in pairwise(outages)]
    assert [30 <= pauses[0] < 34, 60 <= pauses[1] < 64, 120 <= pauses[2] < 124] == [True] * 3, pauses
    assert "every worker ended" in story.last.reason
    assert story.world.nginx.accepting


def test_the_patience_after_an_outage_begins_anew_once_something_went_live(story: Story) -> None:
    _outage(story, WEB, BAD)
    story.until(lambda: story.last.outcome is Outcome.ROLLED_BACK)
    story.world.nginx.faults.fatal = set()
    story.until(lambda: story.serves("bad"))
    story.tell(WEB)
    story.until(lambda: not story.serves("bad"))
    assert 29 < _outage(story, WEB, BAD) < 33


def test_while_it_is_kept_back_whatever_comes_is_too_and_the_reason_is_told(story: Story) -> None:
    story.world.nginx.faults.fatal = {"bad.test"}
    story.world.tell(catalog(WEB, BAD))
    story.until(lambda: story.last.outcome is Outcome.ROLLED_BACK)
    reason = story.last.reason
    reloads = story.world.nginx.reloads
    story.tell(WEB, *FLEET, seconds=20)
    assert story.world.nginx.reloads == reloads
    assert story.last.outcome is Outcome.REJECTED
    assert story.last.reason.startswith("kept back, since the last candidate took nginx down: ")
    assert story.last.reason.removeprefix("kept back, since the last candidate took nginx down: ") in reason
    story.tell(WEB)
    assert story.last.outcome is Outcome.UNCHANGED, "what is served already needs no reload"


def test_another_file_of_the_operators_ends_the_time_of_what_took_nginx_down(fragments: Story, tmp_path: Path) -> None:
    """One that is written again as it was makes no other candidate: an editor writes it twice, and the second time
    comes when the first is already tried."""
    fragments.world.nginx.faults.fatal = {"bad.test"}
    fragments.world.tell(catalog(WEB, BAD))
    fragments.until(lambda: fragments.last.outcome is Outcome.ROLLED_BACK)
    reloads = fragments.world.nginx.reloads
    os.utime(fragments.world.settings.nginx.conf, (1, 1))
    fragments.world.reconciler.files_touched()
    fragments.world.wait(3)
    assert fragments.last.outcome is Outcome.REJECTED
    assert fragments.world.nginx.reloads == reloads
    fragments.world.nginx.faults.fatal = set()
    (tmp_path / "http.conf").write_text("# another one\n")
    fragments.world.reconciler.files_touched()
    assert fragments.until(lambda: fragments.serves("bad")) < 5


def test_who_asks_for_the_files_to_be_read_again_ends_the_time_of_what_took_nginx_down(story: Story) -> None:
    """What mended it may be a file of none that proxygen reads."""
    story.world.nginx.faults.fatal = {"bad.test"}
    story.world.tell(catalog(WEB, BAD))
    story.until(lambda: story.last.outcome is Outcome.ROLLED_BACK)
    story.world.nginx.faults.fatal = set()
    story.world.reconciler.files_changed()
    assert story.until(lambda: story.serves("bad")) < 5


# --- what a reload stumbled over --------------------------------------------------------------------------------------


def test_a_service_that_a_reload_stumbled_over_is_left_out_for_doubling_pauses(story: Story) -> None:
    story.world.nginx.faults.taken = {15432}
    story.tell(WEB, *FLEET, DB, seconds=15)
    assert story.serves("mail")
    assert not story.listens(15432)
    assert story.outcomes()[-2:] == [Outcome.ROLLED_BACK, Outcome.APPLIED]
    pauses = []
    for _ in range(3):
        reloads = story.world.nginx.reloads
        pauses.append(story.until(lambda: story.world.nginx.reloads > reloads))  # noqa: B023
        story.world.wait(8)
    assert [10 < pauses[0] < 32, 40 < pauses[1] < 62, 100 < pauses[2] < 122] == [True, True, True], pauses


def test_pauses_are_bounded_and_begin_anew_once_it_was_live(story: Story) -> None:
    story.world.nginx.faults.taken = {15432}
    story.tell(WEB, DB, seconds=15)
    story.world.wait(30 * (1 + 2 + 4 + 8 + 16 + 32) + 120)
    reloads = story.world.nginx.reloads
    longest = story.until(lambda: story.world.nginx.reloads > reloads)
    story.world.wait(8)
    reloads = story.world.nginx.reloads
    assert longest <= 970
    assert 940 < story.until(lambda: story.world.nginx.reloads > reloads) < 970
    story.world.nginx.faults.taken = set()
    story.until(lambda: story.listens(15432))
    story.world.nginx.faults.taken = {15433}
    moved = replace(DB, tags=("proxygen.protocol=tcp", "proxygen.listen=15433"))
    story.tell(WEB, moved, seconds=15)
    assert story.listens(15432)
    reloads = story.world.nginx.reloads
    assert story.until(lambda: story.world.nginx.reloads > reloads) < 31


def test_a_service_that_is_left_out_is_told_with_its_place_and_reason(story: Story) -> None:
    story.world.nginx.faults.refused = {"10.0.0.9:8080"}
    story.tell(WEB, BAD)
    plan = story.world.reconciler.state.plan
    assert plan is not None
    assert [one.service for one in plan.quarantined] == ["bad"]
    (published,) = (one for one in generations(story.world.output) if one.live)
    assert list(published.manifest["quarantined"]) == ["bad"]
    assert published.manifest["services"] == ["web"]


# --- the loop ---------------------------------------------------------------------------------------------------------


def test_retries_begin_with_the_shortest_pause_after_each_success(story: Story) -> None:
    def pauses(count: int) -> list[float]:
        story.steps.clear()
        times = []
        while len(times) <= count:
            seen = len(story.steps)
            story.until(lambda: len(story.steps) > seen, look=0.1)  # noqa: B023
            times.append(story.now)
        return [after - before for before, after in pairwise(times)]

    for extra in (FLEET[:1], FLEET[:2]):
        story.world.nginx.kill()
        story.world.tell(catalog(WEB, *extra))
        found = pauses(8)
        assert [round(pause * 2) / 2 for pause in found[:4]] == [0.5, 1, 2, 4], found
        assert max(found) < 31.5
        assert found[-1] > 29
        assert story.world.nginx.start()
        story.until(lambda: story.last.outcome is not Outcome.REJECTED)


def test_a_change_is_as_old_as_the_first_try_to_serve_it(story: Story) -> None:
    """Whatever happened in between; and the next change is as old as itself."""
    story.world.nginx.faults.is_signal_refused = True
    story.tell(WEB, FLEET[0], seconds=60)
    assert story.last.outcome is Outcome.ROLLED_BACK
    assert story.last.propagation is None
    story.world.nginx.faults.is_signal_refused = False
    waited = story.until(lambda: story.last.outcome is Outcome.APPLIED)
    assert story.last.propagation is not None
    assert abs(story.last.propagation - (60 + waited)) < 1
    story.tell(WEB, FLEET[1])
    assert story.last.propagation is not None
    assert story.last.propagation < 2
    story.world.wait(100)
    story.tell(WEB)
    story.tell(WEB, FLEET[0])
    assert story.last.propagation < 2


def test_what_is_live_is_what_nginx_was_last_seen_to_serve(story: Story) -> None:
    reconciler = story.world.reconciler
    assert reconciler.state.live == 1
    first = reconciler.state.live_since
    story.tell(WEB)
    assert (reconciler.state.live, reconciler.state.live_since) == (1, first)
    story.world.nginx.faults.refused_at_reload = {"bad.test"}
    story.tell(WEB, BAD, seconds=10)
    assert reconciler.state.live == 1
    story.world.nginx.faults.refused_at_reload = set()
    story.until(lambda: story.serves("bad"))
    story.until(lambda: reconciler.state.live == current(story.world.output))
    assert reconciler.state.live_since != first


def test_passes_are_counted_and_none_is_under_way_between_them(story: Story) -> None:
    reconciler = story.world.reconciler
    begun = reconciler.begun
    assert (reconciler.carried, reconciler.busy_since) == (begun, None)
    story.tell(WEB, FLEET[0], seconds=0.05)
    assert (reconciler.begun, reconciler.carried) == (begun + 1, begun)
    assert reconciler.busy_since is not None
    story.world.wait(5)
    assert (reconciler.carried, reconciler.busy_since) == (begun + 1, None)
    assert reconciler.state.stale_since is None


def test_a_start_without_consul_waits_for_it_a_while_and_then_says_how_old_its_catalog_is(story: Story) -> None:
    story.tell(WEB, FLEET[0])
    story.world.stop()
    story.begin(with_consul=False)
    story.world.wait(4.5)
    assert (story.world.reconciler.begun, story.world.reconciler.state.stale_since) == (0, None)
    story.world.wait(1)
    assert story.world.reconciler.state.stale_since is not None
    assert story.world.reconciler.begun == 1
    story.tell(WEB)
    assert story.world.reconciler.state.stale_since is None


def test_what_the_operator_confirms_is_what_is_then(story: Story) -> None:
    """A request that was made of an older state changes nothing."""
    story.tell(WEB, FLEET[0])

    def refuse() -> None:
        raise Refused("changed since")

    with pytest.raises(Refused, match="changed since"):
        story.world.ask(story.world.reconciler.roll_back(1, confirm=refuse))
    assert story.world.reconciler.state.pinned is None
    story.go_back(1)
    with pytest.raises(Refused, match="changed since"):
        story.world.ask(story.world.reconciler.release_hold(confirm=refuse))
    assert story.world.reconciler.state.pinned == 1


# --- reloads that fail and name nobody --------------------------------------------------------------------------------


@pytest.fixture(params=["absent", "another's"])
def mute(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Story]:
    """An nginx whose error log cannot be read, or is another file than the one that is read."""
    log = tmp_path / "error.log"
    if request.param != "absent":
        log.touch()
    yield from a_story(**{"nginx.error_log": str(log)})


FLEET_NAMES = tuple(one.service for one in FLEET)


def judged(story: Story) -> set[str]:
    """Those that are left out because of what nginx did with them, and do not only wait."""
    plan = story.world.reconciler.state.plan
    assert plan is not None
    waits = ("waits", "has not come to this one yet")
    return {each.service for each in plan.quarantined if not any(text in each.reason for text in waits)}


@pytest.fixture
def patient() -> Iterator[Story]:
    """The same, where what a reload stumbled over is not tried again for an hour."""
    yield from a_story(**{"nginx.error_log": "/nonexistent/error.log", "reload.retry_max": "1h"})


@pytest.mark.incident("T50")
def test_a_taken_port_costs_its_service_alone_where_no_log_tells_of_it(mute: Story) -> None:
    """The ports that are new are suspected first; what came with them goes live, and the port is tried again."""
    mute.world.nginx.faults.taken = {15432}
    mute.tell(WEB, DB, *FLEET, seconds=60)
    assert mute.serves("mail")
    assert left_out(mute) == {"db"}
    assert Outcome.ROLLED_BACK in mute.outcomes()
    reloads = mute.world.nginx.reloads
    mute.world.wait(600)
    # Each try costs two, there and back, and the pauses double.
    assert mute.world.nginx.reloads - reloads <= 12
    assert left_out(mute) == {"db"}
    mute.world.nginx.faults.taken = set()
    mute.until(lambda: mute.listens(15432))
    assert left_out(mute) == set()


@pytest.mark.incident("T50")
def test_who_was_suspected_and_is_not_why_is_served_at_once(mute: Story) -> None:
    """Two ports are new and one of them is taken; the innocent one does not wait for a pause to end."""
    other = instance("queue", 30, "protocol=tcp", "listen=15433")
    mute.world.nginx.faults.taken = {15432}
    mute.tell(WEB, DB, other, seconds=60)
    assert mute.listens(15433)
    assert left_out(mute) == {"db"}


MANY = tuple(instance(f"app{number:02}", 40 + number, f"route=app{number:02}.test") for number in range(16))


@pytest.mark.incident("T50")
def test_many_new_services_of_which_one_is_at_fault_cost_few_reloads_where_no_log_can_be_read(mute: Story) -> None:
    mute.world.nginx.faults.refused_at_reload = {"app00.test"}
    reloads = mute.world.nginx.reloads
    mute.world.tell(catalog(WEB, *MANY))
    mute.until(lambda: mute.serves("app15") and left_out(mute) == {"app00"})
    assert mute.world.nginx.reloads - reloads <= 15


@pytest.mark.incident("T50")
def test_many_new_services_that_are_all_at_fault_cost_no_more_than_a_few_reloads_each(patient: Story) -> None:
    """A pass that leaves out the last of them changes nothing, and what was learnt before it stays learnt."""
    patient.world.nginx.faults.refused_at_reload = {f"{one.service}.test" for one in MANY}
    reloads = patient.world.nginx.reloads
    patient.world.tell(catalog(WEB, *MANY))
    patient.until(lambda: len(judged(patient)) == len(MANY))
    assert patient.world.nginx.reloads - reloads <= 4 * len(MANY)
    assert patient.serves("web")


@pytest.mark.incident("T50")
def test_who_waits_for_others_reloads_is_served_as_before(mute: Story) -> None:
    """Its tags changed together with those of one that nginx does not take."""
    mute.tell(WEB, *FLEET)
    mute.world.nginx.faults.refused_at_reload = {"bad.test"}
    changed = tuple(replace(one, tags=(*one.tags, "proxygen.timeout=9s")) for one in FLEET)
    gone: list[float] = []
    mute.world.reconciler.subscribe(lambda _: None if all(map(mute.serves, FLEET_NAMES)) else gone.append(mute.now))
    mute.tell(WEB, BAD, *changed, seconds=120)
    assert not gone
    assert left_out(mute) == {"bad"}
    assert b" 9000ms;" in mute.files()


@pytest.mark.incident("T50")
def test_a_service_that_only_a_running_nginx_refuses_is_found_though_its_log_names_nobody(story: Story) -> None:
    story.world.nginx.faults.refused_at_reload = {"bad.test"}
    story.tell(WEB, BAD, *FLEET, seconds=60)
    assert story.serves("mail")
    assert left_out(story) == {"bad"}


LATER_PATH = "proxygen.route=shop.test/later"


@pytest.mark.incident("T50")
@pytest.mark.parametrize("fault", ["silent", "unnamed", "taken"])
def test_a_served_service_whose_new_state_is_refused_stays_as_it_is_served(story: Story, fault: str) -> None:
    """It may well be innocent; and what it states later than that is tried at once."""
    story.tell(WEB, *FLEET)
    story.world.nginx.faults.refused_at_reload = {"/later"} if fault == "silent" else set()
    story.world.nginx.faults.refused_unnamed = {"/later"} if fault == "unnamed" else set()
    story.world.nginx.faults.taken = {15432} if fault == "taken" else set()
    more = ("proxygen.protocol=tcp", "proxygen.listen=15432") if fault == "taken" else (*FLEET[0].tags, LATER_PATH)
    gone: list[float] = []
    story.world.reconciler.subscribe(lambda _: None if story.serves("shop") else gone.append(story.now))
    story.tell(WEB, replace(FLEET[0], tags=more), *FLEET[1:], seconds=1_000)
    assert not gone
    assert left_out(story) == set()
    assert story.world.reconciler.state.plan is not None
    assert "served as before: " in " ".join(
        t for each in story.world.reconciler.state.plan.services for t in each.warnings
    )
    story.tell(WEB, replace(FLEET[0], tags=(*FLEET[0].tags, "proxygen.timeout=9s")), *FLEET[1:])
    assert b" 9000ms;" in story.files()


@pytest.mark.incident("T50")
def test_a_rolling_deploy_that_is_refused_is_served_where_its_instances_are_now(story: Story) -> None:
    """All of them are others by now: they serve with what was stated before, and nobody is sent to those that left."""
    story.tell(WEB, *FLEET)
    story.world.nginx.faults.refused_at_reload = {"/later"}
    new = instance("shop", 90, *(tag.removeprefix("proxygen.") for tag in (*FLEET[0].tags, LATER_PATH)))
    story.tell(WEB, new, *FLEET[1:], seconds=60)
    assert story.serves("shop")
    assert left_out(story) == set()
    assert f"server {new.address}:8080" in story.files().decode()
    assert f"server {FLEET[0].address}:" not in story.files().decode()
    newer = replace(new, id="shop-91", address="10.0.0.91")
    story.tell(WEB, newer, *FLEET[1:], seconds=60)
    assert f"server {newer.address}:8080" in story.files().decode()
    story.world.nginx.faults.refused_at_reload = set()
    story.until(lambda: b"/later" in story.files())


@pytest.mark.parametrize("fault", ["refused", "refused_unnamed", "refused_at_reload"])
def test_a_refused_service_that_changes_all_the_time_is_tried_ever_more_rarely(story: Story, fault: str) -> None:
    """Each try costs a test, a search or a reload. Who corrects a mistake need not wait, and nor do others."""
    setattr(story.world.nginx.faults, fault, {"/later"})

    def changing(number: int) -> Instance:
        return replace(FLEET[0], tags=(*FLEET[0].tags, LATER_PATH, f"proxygen.timeout={number % 50 + 10}s"))

    def spent() -> int:
        return sum(step.startswith(("nginx -t", "HUP")) for step in story.world.disk.steps)

    story.tell(WEB, changing(0))
    story.tell(WEB, FLEET[0], seconds=1)
    assert story.serves("shop"), "a first correction is tried at once"
    story.world.wait(1_000)
    for number in range(30):
        story.tell(WEB, changing(number), seconds=1)
    before = spent()
    for number in range(300):
        story.tell(WEB, changing(number), seconds=1)
    assert spent() - before <= 6 * 12
    story.tell(WEB, FLEET[1], changing(0), seconds=1)
    assert story.serves("mail")
    story.tell(WEB, FLEET[0])
    assert story.until(lambda: LATER_PATH not in str(story.files()) and story.serves("shop")) <= 60


@pytest.mark.incident("T50")
def test_the_pauses_of_a_served_service_double_too(story: Story) -> None:
    story.tell(WEB, *FLEET)
    story.world.nginx.faults.refused_at_reload = {"/later"}
    changed = replace(FLEET[0], tags=(*FLEET[0].tags, LATER_PATH))
    story.tell(WEB, changed, *FLEET[1:], seconds=60)
    reloads = story.world.nginx.reloads
    # What changes beside it goes live, and makes it no younger.
    for number in range(60):
        story.tell(WEB, changed, *FLEET[1:], *MANY[: number % 2], seconds=10)
    assert story.world.nginx.reloads - reloads <= 60 + 12


@pytest.mark.incident("T50")
def test_a_served_service_that_is_refused_as_it_is_served_is_left_out(story: Story) -> None:
    """Else its newest state would be refused again and again."""
    story.tell(WEB, *FLEET)
    story.world.nginx.faults.refused_unnamed = {"shop.test"}
    story.tell(WEB, replace(FLEET[0], tags=(*FLEET[0].tags, LATER_PATH)), *FLEET[1:], BAD, seconds=60)
    assert left_out(story) == {"shop"}
    assert story.serves("bad")


def test_a_reload_that_nobody_could_ask_for_is_nobodys_fault(story: Story) -> None:
    story.world.nginx.faults.is_signal_refused = True
    story.tell(WEB, *FLEET)
    assert story.last.outcome is Outcome.ROLLED_BACK
    assert left_out(story) == set()


# --- services that flap -----------------------------------------------------------------------------------------------


@pytest.fixture
def wide() -> Iterator[Story]:
    """Has room for many old workers."""
    yield from a_story(**{"reload.max_draining": "60"})


@pytest.mark.incident("T55")
def test_who_recovers_is_served_at_once_however_much_it_and_another_flap(wide: Story) -> None:
    """Old workers stay, so that those that flap wait for half a minute: also for a loss, not for what ends it."""
    wide.tell(WEB, *FLEET)
    wide.world.nginx.drain = 1_000
    numbers = itertools.count()

    def go_on(health: Health) -> None:
        web = replace(WEB, tags=(*WEB.tags, f"proxygen.timeout={next(numbers) % 50 + 10}s"))
        wide.tell(web, replace(FLEET[0], health=health), *FLEET[1:], seconds=0.5)

    def seconds_until(health: Health) -> float:
        server, started = f"server {FLEET[0].address}:8080", wide.now
        while (server in wide.files().decode()) is not (health is Health.PASSING):
            go_on(health)
            assert wide.now - started < 100, wide.world.why()
        return wide.now - started

    for _ in range(120):
        go_on(Health.PASSING)
    waits = [(seconds_until(Health.CRITICAL), seconds_until(Health.PASSING)) for _ in range(4)]
    assert max(recovery for _, recovery in waits) < 5
    assert max(loss for loss, _ in waits) > 10, "nginx was crowded"


# --- candidates that nginx -t refuses without a name ------------------------------------------------------------------


@pytest.mark.incident("T45")
def test_services_that_are_refused_together_cost_the_newest_and_what_is_served_stays(story: Story) -> None:
    story.world.nginx.faults.collide = frozenset({"shop.test", "mail.test", "chat.test"})
    story.tell(WEB, FLEET[1], FLEET[2])
    assert story.serves("mail")
    story.tell(WEB, *FLEET)
    assert story.serves("chat")
    assert left_out(story) == {"shop"}
    story.tell(WEB, FLEET[0], FLEET[1])
    story.until(lambda: story.serves("shop"))
    assert left_out(story) == set()


@pytest.mark.incident("T45")
def test_a_search_that_runs_out_costs_nobody_who_was_not_tried(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were served stay as they are, new ones wait with a reason, and the search goes on in the next pass."""
    monkeypatch.setattr(culprits, "MOST_TRIALS", culprits.FEWEST_TRIALS)
    story.tell(WEB, *FLEET)
    story.world.nginx.faults.refused_unnamed = {"app03.test", "app09.test"}
    changed = tuple(replace(one, tags=(*one.tags, "proxygen.route=new.test/x", "proxygen.timeout=9s")) for one in FLEET)
    # Their turn comes before that of the ones that claim something new.
    early = tuple(instance(f"app{number:02}", 4 + number, f"route=app{number:02}.test") for number in range(16))
    gone: list[float] = []
    blamed: set[str] = set()
    told: set[str] = set()

    def look(_step: Step) -> None:
        assert story.world.reconciler.state.plan is not None
        told.update(text for each in story.world.reconciler.state.plan.services for text in each.warnings)
        blamed.update(judged(story))
        if not all(map(story.serves, FLEET_NAMES)):
            gone.append(story.now)

    story.world.reconciler.subscribe(look)
    with capture_logs() as log:
        story.tell(WEB, *early, *changed, seconds=25)
    assert not gone
    assert blamed == {"app03", "app09"} == left_out(story)
    assert story.serves("app15")
    assert b" 9000ms;" in story.files()
    assert "services wait" in {line["event"] for line in log}
    assert "served as before" in " ".join(told)


@pytest.mark.incident("T45")
def test_a_search_that_runs_out_among_what_is_served_changes_nothing(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(culprits, "MOST_TRIALS", culprits.FEWEST_TRIALS)
    story.tell(WEB, *FLEET, *MANY)
    generation = story.world.reconciler.state.live
    story.world.nginx.faults.refused_unnamed = {"app09.test"}
    story.tell(WEB, *FLEET, *MANY, BAD, seconds=0.5)
    assert story.last.outcome is Outcome.REJECTED
    assert "the search for the service at fault goes on in the next pass" in story.last.reason
    assert story.world.reconciler.state.live == generation
    story.until(lambda: story.serves("bad"))
    assert left_out(story) == {"app09"}


# --- changed files of the operator's, on trial ------------------------------------------------------------------------


@pytest.fixture
def fragments(tmp_path: Path) -> Iterator[Story]:
    """The operator's fragments lie in tmp_path, none yet."""
    yield from a_story(**{"proxy.snippets": str(tmp_path), "output.keep": "10"})


def try_fragment(story: Story, directory: Path, text: str, *instances: Instance) -> None:
    """Have the operator write a fragment in the moment in which Consul says something new."""
    (directory / "http.conf").write_text(text)
    story.world.reconciler.files_changed()
    story.tell(*instances, seconds=30)


@pytest.mark.incident("T50")
@pytest.mark.parametrize("newcomers", [(), FLEET[:1], FLEET], ids=["nobody", "one", "three"])
def test_no_service_is_suspected_of_what_a_changed_file_does_at_a_reload(
    newcomers: tuple[Instance, ...], fragments: Story, tmp_path: Path
) -> None:
    """Only a running nginx refuses the fragment, and names nothing; the files before stay in force."""
    fragments.world.nginx.faults.refused_at_reload = {"odd_zone"}
    try_fragment(fragments, tmp_path, "# odd_zone\n", WEB, *newcomers)
    assert "odd_zone" in fragments.world.reconciler.state.files_problem
    assert left_out(fragments) == set()
    assert all(fragments.serves(one.service) for one in (WEB, *newcomers))
    fragments.tell(WEB, *newcomers, BAD)
    assert fragments.serves("bad")
    assert fragments.world.nginx.reloads < 8
    fragments.world.nginx.faults.refused_at_reload = set()
    # No cause was known: the machine may have been too busy, or nginx was restarted since.
    fragments.until(lambda: not fragments.world.reconciler.state.files_problem)
    assert b"odd_zone" in fragments.files()


@pytest.mark.incident("T50")
def test_a_changed_file_is_not_suspected_of_what_a_service_does_at_a_reload(fragments: Story, tmp_path: Path) -> None:
    fragments.world.nginx.faults.refused_at_reload = {"bad.test"}
    try_fragment(fragments, tmp_path, "# welcome\n", WEB, *FLEET, BAD)
    assert fragments.world.reconciler.state.files_problem == ""
    assert b"# welcome" in fragments.files()
    fragments.until(lambda: all(fragments.serves(one.service) for one in FLEET))
    assert left_out(fragments) == {"bad"}
    assert fragments.world.nginx.reloads < 20


@pytest.mark.incident("T45")
def test_a_refusal_that_stays_without_any_service_changes_nothing(story: Story) -> None:
    story.world.nginx.faults.collide = frozenset({"server"})
    story.tell(WEB, *FLEET)
    assert story.last.outcome is Outcome.REJECTED
    assert "without any service too" in story.last.reason
    assert story.serves("web")
    assert left_out(story) == set()


def test_what_is_live_is_judged_again_by_changed_files_of_the_operators(story: Story) -> None:
    """Nothing else would change: nginx would refuse to start with it, and nobody would know."""
    story.tell(WEB, BAD)
    story.world.nginx.faults.refused = {"bad.test;"}
    conf = story.world.settings.nginx.conf
    conf.write_text(conf.read_text() + "# another comment\n")
    story.world.reconciler.files_changed()
    story.world.wait(5)
    assert left_out(story) == {"bad"}


def test_who_holds_what_is_known_of_the_live_generation_where_the_state_is_gone(story: Story) -> None:
    """An older service that claims a host later does not take it from who is served there, as on no other sidecar."""
    older = instance("older", 0, "route=older.test", "route=web.test")
    story.tell(WEB, older)
    story.world.stop()
    shutil.rmtree(story.world.output / "state")
    story.begin()
    story.world.wait(5)
    plan = story.world.reconciler.state.plan
    assert plan is not None
    assert [(conflict.loser, conflict.holder) for conflict in plan.conflicts] == [("older", "web")]
    assert recall(story.world.output).plan.holders[RouteClaim("web.test", "/")] == "web"


def test_a_service_that_is_refused_as_it_was_kept_is_left_out_until_what_it_states_changes(story: Story) -> None:
    """It is held: nginx refuses it with instances that are in no catalog any more. That they are not is no cure."""
    stays = instance("mail", 30, "route=mail.test", "weight=3")
    story.tell(WEB, *FLEET, instance("mail", 31, "route=mail.test"), stays)
    story.tell(WEB, stays)
    assert story.last.outcome is Outcome.HELD
    story.world.nginx.faults.refused = {"mail.test;"}
    conf = story.world.settings.nginx.conf
    conf.write_text(conf.read_text() + "# another comment\n")
    story.world.reconciler.files_changed()
    story.world.wait(5)
    assert left_out(story) == {"mail"}
    assert story.last.outcome is not Outcome.REJECTED, story.last.reason
    tests = story.world.disk.steps.count("nginx -t ")
    story.tell(WEB, stays, BAD)
    assert story.serves("bad")
    assert story.world.disk.steps.count("nginx -t ") == tests + 1, "it was not tried again"


def test_a_warning_of_nginxs_stays_in_sight_while_it_lasts(story: Story) -> None:
    story.world.nginx.faults.warnings = ("protocol options redefined for 0.0.0.0:443",)
    story.tell(WEB, FLEET[0])
    story.tell(WEB, *FLEET)
    assert story.world.reconciler.state.remarks == story.world.nginx.faults.warnings
    story.world.nginx.faults.warnings = ()
    story.tell(WEB)
    story.world.wait(400)
    assert story.world.reconciler.state.remarks == ()
