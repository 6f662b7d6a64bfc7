"""A service's shares as they are asked for, as a body of the admin API. Shares are basis points."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareReport:
    """What one variant is asked to get, and gets."""

    name: str
    asked: int
    in_kv: int | None
    """None where KV says nothing of it."""
    in_tags: int | None
    """The lowest that its instances state; None where none does."""
    effective: int | None
    """What nginx gives it; None where it has no such variant. A change in KV takes a moment to get there."""
    waiting: int | None = None
    """As in `VariantReport`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharesReport:
    """A service's lever: its shares in KV, which go before those in tags."""

    service: str
    variants: tuple[ShareReport, ...]
    """Stable first, which gets what the others leave, then by name."""
    key: str
    """In Consul's KV."""
    index: int | None
    """What the next write has to name in ``If-Match``; None where that must be read first."""
    problem: str
    """Why what stands in KV counts for nothing; "" where it does count."""
    warnings: tuple[str, ...] = ()
