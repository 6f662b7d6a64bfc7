"""How many examples a property is tried with where it says so itself."""

from __future__ import annotations

from hypothesis import settings

_USUAL = 100
"""What hypothesis takes by default; a profile that takes fewer has fewer everywhere."""


def examples(usual: int) -> int:
    """Return ``usual``, or its part by the profile that is loaded, such as `few` (tests/harness/units.py)."""
    profile = settings.default
    assert profile is not None
    return max(1, usual * profile.max_examples // _USUAL)
