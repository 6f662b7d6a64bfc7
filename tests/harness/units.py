"""Which tests are unit tests: laws and pure parts, which start nothing of what a machine must have installed.

A plugin: ``pytest -p tests.harness.units`` leaves out every other test. `tests/run --units` says so.
"""

from __future__ import annotations

from typing import Final

import hypothesis
import pytest

hypothesis.settings.register_profile("few", deadline=None, max_examples=20)

WITH_REAL_PARTS: Final = ("bench", "browser", "conformance", "deploy", "faults", "integration", "pythons")
"""Directories of tests, which are not even collected: what they import need not be installed."""
REAL_PARTS: Final = frozenset(
    {
        "any_nginx_binary",
        "consul",
        "consul_session",
        "engine",
        "lab",
        "make_consul",
        "make_nginx",
        "nginx_binary",
    }
)
"""Fixtures that start a real part or look for its program; whoever asks for one of them, through others too, is no
unit test."""


def pytest_ignore_collect(collection_path: object, config: pytest.Config) -> bool | None:
    directories = [config.rootpath / "tests" / name for name in WITH_REAL_PARTS]
    return True if collection_path in directories else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    others = [item for item in items if not is_unit(item)]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if is_unit(item)]


def is_unit(item: pytest.Item) -> bool:
    return item.get_closest_marker("whole") is None and REAL_PARTS.isdisjoint(getattr(item, "fixturenames", ()))
