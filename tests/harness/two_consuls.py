"""Which tests run on two Consuls: the one of this machine, and one whose agents answer from views.

A pytest plugin; the fixture `which_consul` of tests/conftest.py says what each of the two is for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.harness.consul import choose_consul
from tests.harness.tools import STREAMING_VERSION, Consul, consul_version, find_consul

_TESTS: Final = Path(__file__).parents[1]

TWICE: Final = (
    "faults/test_consul.py",
    "faults/test_cut_off.py",
    "faults/test_datacenters.py",
    "faults/test_limits.py",
    "faults/test_losses.py",
    "faults/test_names.py",
    "faults/test_registration.py",
    "harness/test_fake_consul.py",
    "integration/test_acl_policy.py",
    "integration/test_acl_registration.py",
    "integration/test_consul_*.py",
    "integration/test_demo.py::test_the_demo_measures_its_split_and_removes_itself",
    "integration/test_network_lease.py",
    "integration/test_registration.py",
)
"""What asks Consul something that another version may answer otherwise: files, or a test of one; see `which_consul`."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "which_consul" in metafunc.fixturenames and _is_run_twice(
        Path(metafunc.module.__file__), metafunc.function.__name__
    ):
        metafunc.parametrize("which_consul", _consuls(), indirect=True, scope="session")


def _is_run_twice(path: Path, test: str) -> bool:
    within = path.relative_to(_TESTS)
    patterns = (pattern.partition("::") for pattern in TWICE)
    return any(within.match(file) and name in ("", test) for file, _, name in patterns)


def _consuls() -> list[object]:
    first = find_consul("first")
    name = ".".join(map(str, consul_version(first))) if first else "missing"
    return [
        pytest.param("first", id=f"consul-{name}"),
        pytest.param("streaming", id=f"consul-{STREAMING_VERSION}", marks=pytest.mark.second_consul),
    ]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before any fixture: those of the session too start the Consul of the test that is first to ask for them."""
    parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    which: Consul = parameters.get("which_consul", "first")  # type: ignore[assignment]
    choose_consul(which)
