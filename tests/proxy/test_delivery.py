"""From a draft to nginx: what a generation is known by, and what is left of one that never became it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxygen.proxy.apply.outcome import Outcome
from proxygen.proxy.apply.publish import MANIFEST, current, generations
from proxygen.proxy.delivery import DIGEST_LENGTH
from tests.integration.certificates import Authority
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
    assert world.reconciler.state.last is not None
    assert (world.reconciler.state.last.outcome, world.reconciler.state.last.generation) == (Outcome.UNCHANGED, None)
    assert world.reconciler.state.live is None
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


# --- copies of certificates


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[World]:
    """Generation 1 is live, with web.test over TLS; the operator has a pair for shop.test too."""
    for name in ("certificates", "snippets"):
        (tmp_path / name).mkdir()
    for name in ("web", "shop"):
        Authority().issue(tmp_path / "certificates", name, f"{name}.test")
    folders = {f"proxy.{name}": str(tmp_path / name) for name in ("certificates", "snippets")}
    world = World(**{"output.keep": "9", **folders})
    try:
        assert world.nginx.start()
        world.start()
        world.tell(catalog(SECURE))
        world.wait(5)
        yield world
        assert not world.laws.broken, world.laws.broken
    finally:
        world.close()


SECURE = instance("web", 1, "route=web.test", "tls=auto")


def missing_copies(world: World) -> set[str]:
    """Files that a generation on disk has nginx read, and that are not there."""
    texts = [path.read_text() for path in (world.output / "generations").glob("*/http.d/*.conf")]
    named = {path for text in texts for path in re.findall(r'ssl_certificate(?:_key)? "?([^";]+)', text)}
    assert named
    return {path for path in named if not Path(path).exists()}


def test_copies_stay_while_a_generation_on_disk_cannot_be_read(secure: World, tmp_path: Path) -> None:
    """What cannot be read, for want of a descriptor for instance, may name any of them."""
    manifest = secure.output / "generations/000001" / MANIFEST
    text = manifest.read_text()
    manifest.unlink()
    manifest.mkdir()
    Authority().issue(tmp_path / "certificates", "web", "web.test")
    secure.reconciler.files_changed()
    secure.wait(5)
    assert current(secure.output) == 2
    assert not missing_copies(secure)
    manifest.rmdir()
    manifest.write_text(text)
    secure.ask(secure.reconciler.roll_back(1))
    assert current(secure.output) == 1


def test_a_pair_that_the_files_in_force_hold_stays_though_newer_files_were_refused(
    secure: World, tmp_path: Path
) -> None:
    """A pair is renewed together with a fragment that nginx refuses: the pair before is the one in force."""
    Authority().issue(tmp_path / "certificates", "shop", "shop.test")
    secure.nginx.faults.refused = {"misspelt"}
    (tmp_path / "snippets/http.conf").write_text("misspelt on;\n")
    secure.reconciler.files_changed()
    secure.wait(5)
    assert "misspelt" in secure.reconciler.state.files_problem
    secure.tell(catalog(SECURE, SHOP))
    secure.wait(5)
    secure.tell(catalog(SECURE, instance("shop", 2, "route=shop.test", "tls=auto")))
    secure.wait(5)
    assert current(secure.output) == 3
    assert not missing_copies(secure)
