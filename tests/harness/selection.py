"""Which tests run, in which order, and which of them must stay in one worker.

Plainly started, pytest leaves out what is marked `whole`; ``--all`` runs it too. Whoever names tests (by path, node id,
``-k``, ``-m``, ``--lf``) gets what was named.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import pytest
from hypothesis import settings

from tests.harness import scheduling

_ENGINE: Final = "engine"
"""The fixture of tests with containers: the plain run asks for no engine."""

_REASONS: Final[Mapping[str, str]] = MappingProxyType(
    {"faults": "fault scenarios", "second_consul": "a second Consul", "slow": "slow"}
)
"""Markers that imply `whole`, and what the summary calls them. `whole` itself names its reason."""

_ORDER: Final = ("pythons", "deploy", "browser", "faults", "conformance", "integration", "model")
"""Directories whose tests take longest; started first, so that no worker is left with one of them at the end."""

_WORKERS_PER_CORE: Final = 2.5
"""Tests with real parts wait for them half of the time (seen on two cores), and one or two workers hold the unit tests
on other Pythons, which take only what the others leave."""

settings.register_profile("brisk", deadline=None, max_examples=40)
"""Of the plain run: every law, with fewer examples than ``--all`` tries."""

_left_out = pytest.StashKey[Counter[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("selection")
    group.addoption("--all", action="store_true", help="run every test; plain leaves out those marked `whole`")
    group.addoption("--faults", action="store_true", help="run the fault scenarios alone (tests/faults/README.md)")
    group.addoption("--plain", action="store_true", help="leave out what is marked `whole` though tests are named")


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    if config.pluginmanager.has_plugin("dsession"):
        config.pluginmanager.register(scheduling)
    if is_plain(config) and config.getoption("--hypothesis-profile", None) is None:
        # Before any test is collected, which reads how many examples are usual.
        settings.load_profile("brisk")
    config.stash[_left_out] = Counter()


def is_plain(config: pytest.Config) -> bool:
    """Whether only the plain selection runs."""
    if config.getoption("--plain"):
        return True
    return not (config.getoption("--all") or config.getoption("--faults") or _are_named(config))


def _are_named(config: pytest.Config) -> bool:
    options = config.option
    by_marker = options.markexpr not in {"", "not bench"}
    return config.args_source is config.ArgsSource.ARGS or by_marker or bool(options.keyword or options.lf)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what was not asked for, and put the rest in order."""
    for item in items:
        _imply(item)
    if config.getoption("--faults"):
        _keep(config, items, [item for item in items if item.get_closest_marker("faults")])
    if is_plain(config):
        plain = [item for item in items if item.get_closest_marker("whole") is None]
        config.stash[_left_out].update(map(_reason, (item for item in items if item.get_closest_marker("whole"))))
        _keep(config, items, plain)
    if hasattr(config, "workerinput"):
        for item in items:
            _group(item)
        items.sort(key=_longest_first)
        scheduling.tell_groups(config, items)
    else:
        items.sort(key=_quickest_first)


def _keep(config: pytest.Config, items: list[pytest.Item], kept: list[pytest.Item]) -> None:
    among = set(kept)
    config.hook.pytest_deselected(items=[item for item in items if item not in among])
    items[:] = kept


def _imply(item: pytest.Item) -> None:
    if item.get_closest_marker("incident"):
        item.add_marker("faults")
    for marker, reason in _REASONS.items():
        if item.get_closest_marker(marker):
            item.add_marker(pytest.mark.whole(reason))
    if _needs_engine(item):
        item.add_marker(pytest.mark.whole("with containers"))


def _needs_engine(item: pytest.Item) -> bool:
    """Whether the test asks for the engine of tests/conftest.py; a fake of the same name is no engine."""
    fixtures = item._fixtureinfo.name2fixturedefs.get(_ENGINE, ()) if isinstance(item, pytest.Function) else ()
    return any(fixture.baseid == "tests" for fixture in fixtures[-1:])


def _reason(item: pytest.Item) -> str:
    marker = item.get_closest_marker("whole")
    assert marker is not None
    return str(marker.args[0])


# --- order and groups ------------------------------------------------------------------------------------------------


def _quickest_first(item: pytest.Item) -> tuple[bool, bool, bool]:
    """What fails fast first: unit tests, then the real parts, then faults, then what is slow."""
    is_slow, is_fault = (item.get_closest_marker(marker) is not None for marker in ("slow", "faults"))
    return is_slow, is_fault, "integration" in item.path.parts


def _longest_first(item: pytest.Item) -> tuple[int, bool]:
    directories = (number for number, name in enumerate(_ORDER) if name in item.path.parts)
    return next(directories, len(_ORDER)), item.get_closest_marker("slow") is None


def _group(item: pytest.Item) -> None:
    """Keep tests together that share what is started once, and quick ones by file, since each hand-over costs."""
    if item.get_closest_marker("xdist_group"):
        return
    is_quick = not set(_ORDER).intersection(item.path.parts)
    if is_quick or _shares(item):
        item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))


def _shares(item: pytest.Item) -> bool:
    """Whether a fixture of the test is made once for its module."""
    if not isinstance(item, pytest.Function):
        return True
    fixtures = (definitions[-1] for definitions in item._fixtureinfo.name2fixturedefs.values())
    return any(fixture.scope == "module" and not fixture.argname.startswith("_") for fixture in fixtures)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Say how many workers ``-n auto`` means: none where tests are named, which one process is quicker to start."""
    return 0 if _are_named(config) else round(_WORKERS_PER_CORE * len(os.sched_getaffinity(0)))


# --- telling ---------------------------------------------------------------------------------------------------------


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        counts = session.config.stash[_left_out]
        session.config.workeroutput["left_out"] = dict(counts)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take the counts from a worker; each collects the same tests."""
    counts: dict[str, int] = getattr(node, "workeroutput", {}).get("left_out", {})
    node.config.stash[_left_out] = Counter(counts)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    counts = config.stash[_left_out]
    if counts:
        parts = ", ".join(f"{count:,} {reason}" for reason, count in counts.most_common())
        terminalreporter.write_sep("=", "left out")
        terminalreporter.write_line(f"{counts.total():,} tests ({parts}); tests/run --all runs them too")
