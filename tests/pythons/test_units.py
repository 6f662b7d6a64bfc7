"""The unit tests on each other Python that is promised and that this machine has (`tests/run --all` makes them ready).

A second Python finds what differs in the language: neither more examples nor pages.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
OTHERS = [text for text in os.environ.get("TESTS_OTHER_PYTHONS", "").split(os.pathsep) if text]
NONE = pytest.param("", marks=pytest.mark.skip(reason="no other Python was made ready by `tests/run --all`"))
ELSEWHERE = ("test_docs.py", "test_selection.py")


@pytest.mark.slow
@pytest.mark.timeout(2_400)
@pytest.mark.parametrize("python", OTHERS or [NONE])
def test_the_unit_tests_pass(python: str) -> None:
    options = ["-p", "tests.harness.units", "--quiet", "--timeout=600", "--hypothesis-profile=few"]
    options += [f"--ignore=tests/{name}" for name in ELSEWHERE]
    # Nobody waits for it: it takes what the tests with real parts leave of the processor.
    command = ["nice", "-n", "10", python, "-m", "pytest", *options]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-8_000:] + done.stderr[-2_000:]
