"""What is said to run on both Consuls is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.harness.two_consuls import TWICE

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("pattern", TWICE)
def test_each_pattern_is_of_tests_that_ask_which_consul(pattern: str) -> None:
    """A file that was renamed would run on one of them from then on, and nobody would know."""
    file, _, name = pattern.partition("::")
    files = list(TESTS.glob(file))
    assert files
    for path in files:
        text = path.read_text()
        assert re.search(rf"^(async )?def {name or 'test_'}", text, re.MULTILINE), path
        assert re.search(r"\b(which_consul|consul|consul_session|make_consul|agent)\b[:,]", text), path
