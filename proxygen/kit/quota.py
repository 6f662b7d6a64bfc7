"""So many of a key in each period, and how many were left out. Pure: who calls says what time it is."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)


@dataclass(slots=True)
class _Period:
    ends: float
    seen: int = 0


class Quota(Generic[K]):
    """Counts each key from its first time on, for one period; then that key begins anew."""

    def __init__(self, *, most: int, seconds: float) -> None:
        self._most: Final = most
        self._seconds: Final = seconds
        self._periods: dict[K, _Period] = {}
        """In the order in which they end."""

    def admit(self, key: K, now: float) -> bool:
        """Count one more; return whether it is one of those that there may be."""
        period = self._periods.setdefault(key, _Period(ends=now + self._seconds))
        period.seen += 1
        return period.seen <= self._most

    def end(self, now: float) -> dict[K, int]:
        """End the periods that are over; return how many were left out of each in which some were."""
        over = []
        for key, period in self._periods.items():
            if now < period.ends:
                break
            over.append(key)
        seen = {key: self._periods.pop(key).seen for key in over}
        return {key: count - self._most for key, count in seen.items() if count > self._most}
