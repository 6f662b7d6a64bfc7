"""What went live, and what of it the next run would know."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

import pytest

from proxygen.catalog import Catalog, Health, Instance
from proxygen.proxy.accepted import Accepted
from proxygen.proxy.draft import Draft, Drafter
from proxygen.proxy.pipeline import Pipeline
from proxygen.proxy.plan.types import Memory, PlannedState, RouteClaim
from proxygen.proxy.render.rendered import Rendered
from proxygen.proxy.state.last_good import LastGood, load_last_good, save_last_good
from proxygen.proxy.state.memory import recall
from proxygen.settings import GuardSettings, Settings, load
from tests.proxy.plan.catalogs import catalog, instance

WEB = instance("web", 1, "route=web.example.com")
FLEET = tuple(instance(name, 20 + number, f"route={name}.test") for number, name in enumerate(("shop", "mail", "chat")))
SAVED_AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "state").mkdir()
    guard = GuardSettings(loss=0.6, window=40.0, hold=200.0, minimum_instances={"pay*": 2})
    return load({"output.directory": str(tmp_path)}, environment={}).model_copy(update={"guard": guard})


@pytest.fixture
def drafter(settings: Settings) -> Drafter:
    return Pipeline(settings, binary=None, conf=None).drafter


def accepted(settings: Settings, *, is_fresh: bool = True) -> Accepted:
    return Accepted(settings, is_fresh=lambda: is_fresh)


def drafted(drafter: Drafter, known: Catalog, memory: Memory) -> Draft:
    return Draft(plan=drafter.plan(known, memory), rendered=Rendered(plan=None, files=()), catalog=known)  # type: ignore[arg-type]


async def take(found: Accepted, drafter: Drafter, *instances: Instance, generation: int | None) -> None:
    await found.take(drafted(drafter, catalog(*instances), found.memory), generation)


async def test_the_next_run_knows_what_this_one_took(settings: Settings, drafter: Drafter) -> None:
    found = accepted(settings)
    before = datetime.now(UTC)
    await take(found, drafter, WEB, generation=3)
    assert found.is_written
    assert found.memory.holders[RouteClaim("web.example.com", "/")] == "web"
    assert recall(settings.output.directory).plan == found.memory
    last_good = load_last_good(settings.output.directory)
    assert last_good is not None
    assert (last_good.catalog, last_good.generation) == (catalog(WEB), 3)
    assert before <= last_good.saved_at <= datetime.now(UTC)


async def test_a_catalog_is_written_once_for_each_generation(settings: Settings, drafter: Drafter) -> None:
    """A pass that changes nothing writes nothing; one that made no generation has nothing to name."""
    found = accepted(settings)
    file = settings.output.directory / "state/catalog.json"
    await take(found, drafter, WEB, generation=None)
    assert not file.exists()
    await take(found, drafter, WEB, generation=3)
    first = file.stat().st_ino
    await take(found, drafter, WEB, *FLEET, generation=3)
    await take(found, drafter, WEB, *FLEET, generation=None)
    assert file.stat().st_ino == first
    await take(found, drafter, WEB, *FLEET, generation=4)
    assert load_last_good(settings.output.directory).catalog == catalog(WEB, *FLEET)  # type: ignore[union-attr]


@pytest.mark.parametrize(("live", "is_stored"), [(None, True), (3, True), (4, False), (2, False)])
async def test_a_stored_catalog_stands_in_only_for_the_generation_that_was_made_from_it(
    settings: Settings, drafter: Drafter, live: int | None, is_stored: bool
) -> None:
    """What was lost since it is told either way."""
    stored = LastGood(catalog=catalog(WEB, *FLEET), generation=3, saved_at=SAVED_AT)
    save_last_good(settings.output.directory, stored)
    found = accepted(settings)
    found.take_up(drafter, live)
    assert found.stored == (stored if is_stored else None)
    held = found.judge(drafter.plan(catalog(WEB), found.memory), catalog(WEB))
    assert held is not None
    assert held.services == {"shop": 1, "mail": 1, "chat": 1}
    file = settings.output.directory / "state/catalog.json"
    before = file.stat().st_ino
    await take(found, drafter, WEB, *FLEET, generation=3)
    assert (file.stat().st_ino == before) is is_stored


def test_where_nothing_was_stored_nothing_is_taken_up(settings: Settings, drafter: Drafter) -> None:
    found = accepted(settings)
    found.take_up(drafter, None)
    assert found.stored is None
    assert found.judge(drafter.plan(catalog(), found.memory), catalog()) is None


async def test_what_could_not_be_written_is_written_later(settings: Settings, drafter: Drafter) -> None:
    """The memory at once, the catalog with the next one taken; until both are, the next run would not know."""
    found = accepted(settings)
    state = settings.output.directory / "state"
    state.rename(settings.output.directory / "gone")
    found.pin(4)
    assert (found.pinned, found.is_written) == (4, False)
    found.write_again()
    assert not found.is_written
    await take(found, drafter, WEB, generation=5)
    state.mkdir()
    found.write_again()
    assert recall(settings.output.directory).pinned == 4
    assert recall(settings.output.directory).plan == found.memory
    assert not found.is_written, "the catalog is missing"
    await take(found, drafter, WEB, generation=5)
    assert found.is_written
    assert load_last_good(settings.output.directory).generation == 5  # type: ignore[union-attr]


def test_what_is_written_is_not_written_again(settings: Settings) -> None:
    found = accepted(settings)
    found.pin(4)
    file = settings.output.directory / "state/memory.json"
    before = os.stat(file).st_ino
    found.pin(4)
    found.write_again()
    assert os.stat(file).st_ino == before
    found.pin(None)
    assert recall(settings.output.directory).pinned is None


async def test_who_changes_nothing_any_more_does_not_wait_for_a_tag_that_cannot_be_read(
    settings: Settings, drafter: Drafter
) -> None:
    """It is served with the tags before: what Consul says of it is no change for that."""
    found = accepted(settings)
    others = [instance("web", 2, "route=web.example.com", f"weight={weight}") for weight in range(1, 12)]
    await take(found, drafter, WEB, others[0], generation=None)
    unreadable = replace(WEB, tags=(*WEB.tags, "proxygen.canary=lots"))
    for other in others:
        await take(found, drafter, unreadable, other, generation=None)
    assert found.memory.good_tags
    assert found.keep_flapping(catalog(WEB, others[-1]), crowded=False).waiting == {"web"}, "it would have to"
    assert found.keep_flapping(catalog(unreadable, others[-1]), crowded=False).waiting == frozenset()


async def test_a_pin_and_what_is_remembered_of_plans_do_not_wipe_each_other_out(
    settings: Settings, drafter: Drafter
) -> None:
    found = accepted(settings)
    found.pin(4)
    await take(found, drafter, WEB, generation=5)
    assert found.pinned == 4
    memory = found.memory
    found.pin(None)
    assert found.memory == memory
    again = accepted(settings)
    assert (again.pinned, again.memory) == (None, memory)
    assert again.is_written


async def test_a_release_lets_losses_go_live_once(settings: Settings, drafter: Drafter) -> None:
    found = accepted(settings)
    await take(found, drafter, WEB, *FLEET, generation=1)

    def is_held(*instances: Instance) -> bool:
        return found.judge(drafter.plan(catalog(*instances), found.memory), catalog(*instances)) is not None

    assert is_held(WEB)
    found.release()
    assert not is_held(WEB)
    await take(found, drafter, WEB, generation=2)
    await take(found, drafter, WEB, *FLEET, generation=3)
    assert is_held(WEB)


async def test_each_limit_is_the_settings_own(
    settings: Settings, drafter: Drafter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loss 0.6 of all, in a window of 40 s, for 200 s; and two of what begins with pay."""
    now = 1_000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    found = accepted(settings)
    pay = (instance("pay", 31, "route=pay.test"), instance("pay", 32, "route=pay.test"))
    await take(found, drafter, WEB, *FLEET, *pay, generation=1)

    def held(*instances: Instance) -> dict[str, int]:
        judged = found.judge(drafter.plan(catalog(*instances), found.memory), catalog(*instances))
        return dict(judged.services) if judged is not None else {}

    assert held(WEB, *FLEET, pay[0]) == {"pay": 1}
    assert held(FLEET[2], *pay) == {}, "three of six are not more than 0.6"
    assert held(*pay) == {"web": 1, "shop": 1, "mail": 1, "chat": 1}
    now += 199
    assert held(*pay)
    now += 1
    assert held(*pay) == {}
    await take(found, drafter, *pay, generation=2)
    await take(found, drafter, WEB, *FLEET, *pay, generation=3)
    await take(found, drafter, FLEET[1], FLEET[2], *pay, generation=4)
    now += 39
    assert held(*pay) == {"web": 1, "shop": 1, "mail": 1, "chat": 1}, "what went before is counted along"
    now += 2
    assert held(*pay) == {}


async def test_what_nobody_can_confirm_is_not_believed(
    settings: Settings, drafter: Drafter, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    found = accepted(settings, is_fresh=False)
    await take(found, drafter, WEB, *FLEET, generation=1)
    for _ in range(2):
        assert found.judge(drafter.plan(catalog(WEB), found.memory), catalog(WEB)) is not None
        now += 1_000


def test_a_damaged_state_is_no_memory(settings: Settings, drafter: Drafter) -> None:
    for name in ("catalog.json", "memory.json"):
        (settings.output.directory / "state" / name).write_bytes(b"{")
    found = accepted(settings)
    found.take_up(drafter, 3)
    assert (found.stored, found.pinned, found.memory.holders) == (None, None, MappingProxyType({}))
    shutil.rmtree(settings.output.directory / "state")
    found.pin(3)
    assert found.pinned == 3


def test_what_is_unchecked_since_a_restart_keeps_the_place_that_it_had_before(
    settings: Settings, drafter: Drafter
) -> None:
    """An agent and its sidecar are often updated together."""
    spoken = replace(WEB, speaks=True)
    save_last_good(settings.output.directory, LastGood(catalog=catalog(spoken), generation=3, saved_at=SAVED_AT))
    fallen = catalog(replace(spoken, health=Health.CRITICAL, unchecked=True, speaks=False))
    found = accepted(settings)
    assert found.keep_unchecked(fallen).catalog == fallen, "nobody knows yet what was served"
    found = accepted(settings)
    found.take_up(drafter, 3)
    kept = found.keep_unchecked(fallen)
    assert kept.catalog.services["web"][0].health is Health.PASSING  # type: ignore[index]
    assert [one.id for one in kept.begun] == ["web-1"]
    assert kept.due == pytest.approx(200, abs=5)


@pytest.mark.incident("T57")
async def test_the_tags_that_served_survive_a_restart_and_a_rolling_change(
    settings: Settings, drafter: Drafter
) -> None:
    """Each instance gets tags that cannot be used, one after the other, and one of them goes and comes back; the
    sidecar is started anew between any two."""
    one, two = (instance("web", number, "route=web.example.com", "weight=7") for number in (1, 2))
    await take(accepted(settings), drafter, one, two, generation=1)
    bad = {
        each.id: replace(each, tags=("proxygen.route=web.example.com", "proxygen.canary=lots")) for each in (one, two)
    }
    for generation, now in enumerate(
        ((bad["web-1"], two), (bad["web-1"],), tuple(bad.values()), tuple(bad.values())), 2
    ):
        found = accepted(settings)
        found.take_up(drafter, generation - 1)
        planned = drafter.plan(catalog(*now), found.memory)
        [service] = planned.services
        assert [(planned.id, planned.state, planned.weight) for planned in service.instances] == [
            (each.id, PlannedState.SERVING, 7) for each in now
        ]
        await take(found, drafter, *now, generation=generation)
    assert load_last_good(settings.output.directory).catalog == catalog(one, two)  # type: ignore[union-attr]


async def test_what_is_kept_until_the_operators_mistake_is_mended_is_given_up_then(
    settings: Settings, drafter: Drafter
) -> None:
    found = accepted(settings)
    await take(found, drafter, WEB, generation=1)
    bad = replace(WEB, tags=(*WEB.tags, "proxygen.weight=x"))
    await take(found, drafter, bad, generation=1)
    mended = replace(WEB, tags=(*WEB.tags, "proxygen.weight=9"))
    await take(found, drafter, mended, generation=2)
    assert found.memory.good_tags[WEB.service].there == (mended,)
