"""Naming the first of many, and counting the others."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import islice
from typing import Final

_SOME: Final = 3
"""A line with three names is still read."""


def name_some(names: Collection[str], most: int = _SOME, *, between: str = ", ") -> str:
    """Return the first names, and how many more there are: ``web, shop and 7 more``."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return between.join(islice(names, most)) + more


def keep_some(texts: Sequence[str], most: int, others: str) -> tuple[str, ...]:
    """Return the first texts; of more, one that counts the others, such as ``and {} more warnings``."""
    return (*texts[:most], others.format(len(texts) - most)) if len(texts) > most else tuple(texts)
