"""What share each variant of a service gets: as its instances state it, as the operator asks, and in effect."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from proxygen.proxy.plan.members import JudgedInstance
from proxygen.proxy.plan.types import Variant
from proxygen.tags.shares import CANARY, STABLE, Share, settle_shares


def stated_shares(members: Iterable[JudgedInstance]) -> dict[str, Share]:
    """Return the lowest share that each variant's instances state in their tags."""
    return {name: min(shares) for name, shares in _stated(members).items()}


def disagreements(members: Iterable[JudgedInstance]) -> list[str]:
    """Return a warning for each variant whose instances do not all state the same share."""
    return [
        f"instances of variant {name} disagree on its share; the lowest is used"
        for name, shares in sorted(_stated(members).items())
        if len(shares) > 1
    ]


def asked_shares(members: Iterable[JudgedInstance], override: Mapping[str, Share] | None) -> dict[str, Share]:
    """Return each variant's share: the operator's override, else what its instances state."""
    stated = stated_shares(members)
    return {name: (override or {}).get(name, share) for name, share in stated.items()}


def variants_of(asked: Mapping[str, Share], alive: Iterable[str]) -> tuple[Variant, ...]:
    # A variant that was set to 0 stays drained even where nobody else is left.
    willing = frozenset(name for name in alive if asked.get(name) != 0)
    effective = settle_shares(asked, willing)
    rest = Share(max(0, 10_000 - sum(asked.values())))
    names = sorted(asked, key=lambda name: (name != CANARY, name))
    return (
        Variant(name=STABLE, asked=rest, effective=effective.get(STABLE, Share(0))),
        *(Variant(name=name, asked=asked[name], effective=effective.get(name, Share(0))) for name in names),
    )


def _stated(members: Iterable[JudgedInstance]) -> dict[str, set[Share]]:
    stated: dict[str, set[Share]] = {}
    for variant in (member.tags.variant for member in members):
        if variant is not None:
            stated.setdefault(variant.name, set()).add(variant.share)
    return stated
