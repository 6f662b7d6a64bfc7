"""How an attempt ended, by the word that log, API, metrics and the files on disk have for it."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Outcome(StrEnum):
    """How an attempt to change what nginx serves ended."""

    APPLIED = "applied"
    UNCHANGED = "unchanged"
    HELD = "held"
    REJECTED = "rejected"
    ROLLED_BACK = "rolled back"


class WayToNginx(StrEnum):
    """By what a change reached nginx."""

    RELOAD = "reload"
    PUSH = "push"


DONE: Final = (Outcome.APPLIED, Outcome.UNCHANGED)
"""nginx serves what was asked for."""
FAILED: Final = (Outcome.REJECTED, Outcome.ROLLED_BACK)
"""It was refused; nginx serves what it served before."""
