"""What each part wrote during a test that failed: sidecar, nginx, Consul, agents, FRR, containers.

`process.start` has the log of every process that it starts shown; what else a part writes, the harness names here.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from tests.harness.process import Started

_LINES: Final = 40
_WIDTH: Final = 400
_BYTES: Final = _LINES * _WIDTH


@dataclass(slots=True)
class _Log:
    """A file that a part writes, from where it was when the test began."""

    path: Path
    process: Started | None
    """While it runs, the next test may see the log grow too."""
    begin: int

    def mark(self) -> None:
        self.begin = _size(self.path)

    def tail(self) -> str:
        size = _size(self.path)
        with self.path.open("rb") as file:
            file.seek(max(self.begin if self.begin <= size else 0, size - _BYTES))
            return file.read(_BYTES).decode(errors="replace")


_logs: Final[dict[Path, _Log]] = {}
_sources: Final[dict[str, Callable[[], str]]] = {}


def log(path: Path, process: Started | None = None) -> None:
    """Show what is written to this file from now on, or from when the test began, should the test fail.

    That holds for this test, and for later ones while the process runs.
    """
    known = _logs.get(path)
    _logs[path] = _Log(path, process, known.begin if known else _size(path))


def source(name: str, read: Callable[[], str]) -> None:
    """Have something asked for its log should a test fail, until `forget`."""
    _sources[name] = read


def forget(name: str) -> None:
    _sources.pop(name, None)


def tails() -> list[tuple[str, str]]:
    """The last lines of each part that wrote something since the test began, by the part's name."""
    found = [(f"{part.path.parent.name}/{part.path.name}", _attempt(part.tail)) for part in _logs.values()]
    found += [(name, _attempt(read)) for name, read in _sources.items()]
    return [(name, _last_lines(text)) for name, text in found if text.strip()]


def _attempt(read: Callable[[], str]) -> str:
    """Whatever keeps a log from being read must not hide why the test failed."""
    try:
        return read()
    except FileNotFoundError:
        return ""
    except Exception as error:
        return f"not to be read: {error}"


def _last_lines(text: str) -> str:
    return "\n".join(line[:_WIDTH] for line in text.splitlines()[-_LINES:])


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    for path, part in list(_logs.items()):
        if part.process is None or part.process.poll() is not None:
            del _logs[path]
        else:
            part.mark()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        report.sections += [(f"seen of {name}", text) for name, text in tails()]
    return report
