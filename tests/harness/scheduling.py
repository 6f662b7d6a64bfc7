"""Which worker of pytest-xdist runs which test: what shares something started once goes to one, in the order given.

pytest-xdist's own groups rest on how pytest 8 kept a test's id: with 9.2 they are lost without a word. Here each worker
writes down the groups that it made, and ids stay those by which a test can be run again.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest
from xdist.scheduler import LoadScopeScheduling

_WHERE: Final = "proxygen_groups"
"""The key of a worker's input: the directory in which workers write their groups."""

_directory = pytest.StashKey[Path]()


def pytest_configure_node(node: Any) -> None:
    if _directory not in node.config.stash:
        node.config.stash[_directory] = Path(tempfile.mkdtemp(prefix="pg-groups-"))
    node.workerinput[_WHERE] = str(node.config.stash[_directory])


def pytest_unconfigure(config: pytest.Config) -> None:
    if _directory in config.stash:
        shutil.rmtree(config.stash[_directory], ignore_errors=True)


def tell_groups(config: pytest.Config, items: Sequence[pytest.Item]) -> None:
    """Write down, in a worker, which tests must stay together."""
    workerinput: dict[str, str] = config.workerinput  # type: ignore[attr-defined]
    file = Path(workerinput[_WHERE]) / workerinput["workerid"]
    fresh = file.with_suffix(".new")
    fresh.write_text(json.dumps({item.nodeid: _group(item) for item in items}))
    os.replace(fresh, file)


def _group(item: pytest.Item) -> str:
    names = sorted({str(marker.args[0]) for marker in item.iter_markers("xdist_group")})
    return "_".join(names) or item.nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return _Groups(config, log)


class _Groups(LoadScopeScheduling):  # type: ignore[misc, unused-ignore]
    """Hands out one group after the other, each when a worker has one test left to run."""

    _known: dict[str, str] | None = None

    def _split_scope(self, nodeid: str) -> str:
        if self._known is None:
            # Every worker has collected, and all of them the same tests.
            file = next(iter(sorted(self.config.stash[_directory].glob("gw*[0-9]"))))
            self._known = json.loads(file.read_text())
        return self._known[nodeid]

    def _reschedule(self, node: Any) -> None:
        """As its parent, which hands out one more test: at the end that one would wait behind a long one."""
        if node.shutting_down:
            return
        if not self.workqueue:
            node.shutdown()
        elif self._pending_of(self.assigned_work[node]) <= 1:
            self._assign_work_unit(node)
