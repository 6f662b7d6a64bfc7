"""Shares of a service's requests, in basis points: integers that always sum to the whole."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NewType

from proxygen.kit.errors import quoted

Share = NewType("Share", int)
"""Basis points between variants: 0 means drained, 10 000 everything."""

WHOLE: Final = Share(10_000)
NOTHING: Final = Share(0)

STABLE: Final = "stable"
"""The variant of every instance that names none; it gets what the others leave."""
CANARY: Final = "canary"

_SHARE: Final = re.compile(r"(0|[1-9][0-9]{0,2})(?:\.([0-9]{1,2}))?%?")
_VARIANT: Final = re.compile(r"[a-z][a-z0-9-]{0,30}")


def parse_share(value: str | float) -> Share:
    """Return the share that ``12.5%``, ``12.5`` or the number 12.5 asks for. Raise ValueError for anything else."""
    text = value if isinstance(value, str) else str(value)
    match = _SHARE.fullmatch(text)
    points = int(match[1]) * 100 + int((match[2] or "").ljust(2, "0")) if match else -1
    if not NOTHING <= points <= WHOLE:
        raise ValueError(
            f"{quoted(text)} is not a share; write a percentage from 0 to 100 with at most two decimals, such as 12.5%"
        )
    return Share(points)


def format_share(share: Share) -> str:
    """Return the shortest text that `parse_share` reads back."""
    percent, hundredths = divmod(share, 100)
    return f"{percent}.{hundredths:02d}".rstrip("0").rstrip(".") + "%"


def parse_variant_name(text: str) -> str:
    """Return the name of a variant other than stable. Raise ValueError for anything else."""
    if text == STABLE:
        raise ValueError("stable gets what the other variants leave; give a share to those")
    if not _VARIANT.fullmatch(text):
        raise ValueError(
            f"{quoted(text)} is not a variant's name; write a lower-case letter, "
            "then at most 30 lower-case letters, digits or hyphens"
        )
    return text


def parse_override(text: str) -> Mapping[str, Share]:
    """Return the shares in an operator's override, ``{"canary": "12.5%"}``, by variant.

    Raise ValueError with the reason for anything else, a variant that stands there twice included.
    """
    try:
        value = json.loads(text, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{quoted(text)} is not JSON ({error})") from None
    if not isinstance(value, _Pairs):
        raise ValueError(f'{quoted(text)} is not a JSON object; write one such as {{"canary": "12.5%"}}')
    shares: dict[str, Share] = {}
    for name, share in value:
        if parse_variant_name(name) in shares:
            raise ValueError(f"{quoted(name)} stands there twice")
        if isinstance(share, bool) or not isinstance(share, str | int | float):
            raise ValueError(f'the share of {name} is neither a text nor a number; write one such as "12.5%"')
        shares[name] = parse_share(share)
    return MappingProxyType(shares)


class _Pairs(list[tuple[str, object]]):
    """A JSON object as it was written: a dict would keep the last of two equal names in silence."""


def settle_shares(asked: Mapping[str, Share], alive: frozenset[str]) -> Mapping[str, Share]:
    """Say what each variant gets, given what was asked for the named ones and which variants anybody serves.

    Stable gets what is left. Named shares that sum to more than the whole are scaled down. What a variant that is
    not alive would get goes to stable, or, where stable is not alive either, to the alive others in proportion.
    The result names every variant of ``asked`` and ``alive`` and stable, and sums to the whole unless nobody is alive.
    """
    if STABLE in asked:
        raise ValueError("stable gets what is left; no share can be asked for it")
    settled = dict.fromkeys(sorted({*asked, *alive, STABLE}), NOTHING)
    named = {name: asked.get(name, NOTHING) for name in alive if name != STABLE}
    if STABLE in alive:
        within = apportion(WHOLE, asked) if sum(asked.values()) > WHOLE else asked
        settled.update((name, within[name]) for name in named if name in within)
        settled[STABLE] = Share(WHOLE - sum(settled.values()))
    elif named:
        everyone_at_zero = not any(named.values())
        settled.update(apportion(WHOLE, dict.fromkeys(named, 1) if everyone_at_zero else named))
    return MappingProxyType(settled)


def apportion(whole: int, weights: Mapping[str, int]) -> dict[str, Share]:
    """Divide ``whole`` in proportion to weights that are not all 0, each part less than 1 off the exact proportion.

    By largest remainder; but a positive weight whose part would be rounded away comes first, because a variant
    with a share must stay reachable. Ties go by name, so that the same weights give the same parts.
    """
    total = sum(weights.values())
    parts = {name: Share(whole * weight // total) for name, weight in weights.items()}
    remainders = {name: whole * weight % total for name, weight in weights.items()}
    owed = [name for name, remainder in remainders.items() if remainder]
    owed.sort(key=lambda name: (parts[name] > 0, -remainders[name], name))
    for name in owed[: whole - sum(parts.values())]:
        parts[name] = Share(parts[name] + 1)
    return parts


def ranges(shares: Mapping[str, Share]) -> tuple[tuple[Share, str], ...]:
    """Cut the hash space into (size, variant) pieces, bottom to top, without empty ones.

    The canary stands at the bottom, all other named variants are stacked from the top down by the alphabet, and
    stable has the gap between: a canary that comes, grows or goes takes keys from stable and gives them back, and
    moves no other key; nor does one other variant. Of several others, one that grows shifts those below it.
    """
    others = sorted(name for name in shares if name not in (STABLE, CANARY))
    order = [CANARY, STABLE, *reversed(others)]
    return tuple((shares[name], name) for name in order if shares.get(name))
