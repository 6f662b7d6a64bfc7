"""Candidates that took nginx down: none of them is tried again before its time."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from proxygen.kit.errors import CheckRefused


@dataclass(frozen=True, slots=True)
class Outage:
    """A candidate ended every worker; the next one is kept back until then, or until it is another one by what the
    operator's files say."""

    until: float
    """Monotonic time."""
    reason: str
    digest: str
    """The candidate's rendering."""
    count: int = 1
    """How many in a row there were, with this one."""
    have_files_changed: bool = False

    def require_over(self, digest: str) -> None:
        """Raise CheckRefused where a candidate of that digest must wait."""
        # A file that is written twice, or again as it was, makes no other candidate.
        may_differ = self.have_files_changed and digest != self.digest
        if time.monotonic() < self.until and not may_differ:
            raise CheckRefused(f"kept back, since the last candidate took nginx down: {self.reason}")

    def with_other_files(self) -> Outage:
        return replace(self, have_files_changed=True)
