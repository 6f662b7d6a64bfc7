"""One container engine for all tests of deploy/, with the base images that its files name."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.bases import import_debian
from tests.harness.engine import Engine

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.fixture(scope="session")
def yard() -> Iterator[Engine]:
    """The engine; its images live as long as the session."""
    directory = Path(tempfile.mkdtemp(prefix="pg-"))
    engine = Engine(directory, driver="overlay")
    try:
        engine.start()
        yield engine
    finally:
        engine.stop()
        shutil.rmtree(directory)


@pytest.fixture(scope="session")
def debian(yard: Engine, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of the base image."""
    return import_debian(yard, tmp_path_factory.mktemp("debian"))
