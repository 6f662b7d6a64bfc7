"""Images that are built once for a whole run of the tests, however many processes it has."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.harness.engine import Engine

VARIABLE: Final = "PROXYGEN_TEST_SHELF"
"""Names the directory that all processes of a run share; the first of them sets it."""


class Shelf:
    """Images that engines use and cannot change: each engine's containers, tags and own images stay its own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._builder = Engine(directory, driver="overlay")
        self.storage = directory / "storage"
        with self._locked("storage"):
            if not self.storage.exists():
                self._builder.configure()
                # Makes the storage, which the engines' own look for at each start.
                self._builder.call("images")

    def provide(self, name: str, make: Callable[[Engine], object]) -> str:
        """Return the image's name; have it made where this is the first to ask. The others wait for that."""
        made = self._directory / name.replace("/", "_")
        with self._locked(made.name):
            if not made.exists():
                make(self._builder)
                made.touch()
        return name

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        with (self._directory / f"{name}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def remove_shelf(directory: Path) -> None:
    """Remove it after the last engine that uses it."""
    layers = directory / "storage" / "overlay"
    if layers.is_mount():
        # A build that was cut off leaves the mount that Podman makes for its time.
        subprocess.run(["umount", layers], check=False)
    shutil.rmtree(directory, ignore_errors=True)
