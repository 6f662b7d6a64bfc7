"""FRR's version, as far as anything here depends on it."""

from __future__ import annotations

import re
from typing import Final, NamedTuple, Self

_NUMBER: Final = re.compile(r"([0-9]{1,4})\.([0-9]{1,4})(?:\.([0-9]{1,4}))?")


class FrrVersion(NamedTuple):
    """The three numbers of a release; what a distribution adds to them says nothing here."""

    major: int
    minor: int
    patch: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``8.4.4`` or ``10.1-dev``. Raise ValueError."""
        match = _NUMBER.match(text)
        if match is None:
            raise ValueError(f"{text[:40]!r} is no version of FRR")
        return cls(int(match[1]), int(match[2]), int(match[3] or 0))

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


OLDEST: Final = FrrVersion(8, 0)
"""Older ones print their configuration in ways that nothing here was tried on."""
POINT_TO_MULTIPOINT: Final = FrrVersion(10, 1)
"""Has ``ip ospf network point-to-multipoint non-broadcast`` (FRR's pull request 15660)."""
