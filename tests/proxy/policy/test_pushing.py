"""Whether servers are pushed: by the settings, the operator's files and what nginx's workers may read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxygen.proxy.pipeline import open_pipeline
from proxygen.proxy.policy.pushing import Pushing, find_pushing
from proxygen.settings import OutputSettings
from tests.model.world import World


def pushing(world: World, *, has_lua: bool = True) -> Pushing:
    """What a start finds, and renders by."""
    world.nginx.has_lua = has_lua
    world.start()
    try:
        found = world.reconciler.pipeline.pushing
        rendered = world.reconciler.pipeline.stamp_block("1 0123456789abcdef")
        assert (b"proxygen.take" in rendered) is (found.document is not None)
        return found
    finally:
        world.stop()


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own"
    path.mkdir()
    return path


def a_world(**knobs: str) -> Iterator[World]:
    world = World(**knobs)
    try:
        assert world.nginx.start()
        yield world
    finally:
        world.close()


def found_with(**knobs: str) -> Pushing:
    (found,) = [pushing(world) for world in a_world(**knobs)]
    return found


def test_an_nginx_with_lua_is_pushed_to() -> None:
    found = found_with()
    assert found.problem == ""
    assert found.document is not None
    assert found.document.parts[-3:] == ("output", "push", "document")


def test_settings_switch_it_off_without_a_word() -> None:
    assert found_with(**{"reload.push": "off"}) == Pushing(document=None)


def test_an_nginx_without_lua_is_named() -> None:
    for world in a_world():
        assert pushing(world, has_lua=False).problem == "nginx does not load the http Lua module"


@pytest.mark.parametrize("name", ["upstream.conf.j2", "http.conf.j2", "lua/push.lua"])
def test_an_own_template_that_would_have_to_push_takes_reloads(own: Path, name: str) -> None:
    shipped = Path(__file__).parents[3] / "templates" / name
    (own / name).parent.mkdir(exist_ok=True)
    (own / name).write_bytes(shipped.read_bytes())
    found = found_with(**{"proxy.templates": str(own)})
    assert (found.document, name in found.problem) == (None, True)


def test_another_own_template_takes_none(own: Path) -> None:
    (own / "status.html").write_text("nothing of a push\n")
    assert found_with(**{"proxy.templates": str(own)}).problem == ""


@pytest.mark.parametrize(
    "line",
    ["init_by_lua_block { x = 1 }", "  log_by_lua_file x.lua;", "lua_shared_dict  proxygen 1m;"],
)
def test_a_fragment_with_what_may_stand_once_is_named(own: Path, line: str) -> None:
    (own / "http.conf").write_text(f"# ours\n{line}\n")
    found = found_with(**{"proxy.snippets": str(own)})
    assert found.document is None
    assert str(own / "http.conf") in found.problem


def test_other_fragments_are_in_nobodys_way(own: Path) -> None:
    (own / "http.conf").write_text("lua_shared_dict theirs 1m;\n# init_by_lua_block\n")
    assert found_with(**{"proxy.snippets": str(own)}).problem == ""


def test_a_path_that_means_more_in_lua_is_not_given_to_nginx(tmp_path: Path) -> None:
    output = OutputSettings(directory=tmp_path / 'a "quoted" place')
    for world in a_world():
        assert pushing(world).problem == ""
        pipeline = world.loop.run_until_complete(open_pipeline(world.settings))
        settings = world.settings.model_copy(update={"output": output})
        assert pipeline.binary is not None
        assert pipeline.conf is not None
        found = world.loop.run_until_complete(find_pushing(settings, pipeline.binary, pipeline.conf))
        assert (found.document, "set output.directory to a plain path" in found.problem) == (None, True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs workers as another user")
def test_a_directory_that_workers_cannot_pass_is_named() -> None:
    for world in a_world():
        world.directory.chmod(0o700)
        assert f"cannot pass {world.directory}" in pushing(world).problem
