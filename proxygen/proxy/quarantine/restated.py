"""The instances of now with what was stated when their service was served, where their newest state waits. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from proxygen.catalog import Instance
from proxygen.tags.shares import CANARY, STABLE


def as_before(now: Sequence[Instance], before: Sequence[Instance], prefix: str) -> tuple[Instance, ...]:
    """Those that were served ``before``, with what they stated then. Where a rolling deploy left none of them, those
    that came: each states what one of its variant did, and nobody is sent to an address that is gone."""
    known = {one.key: one for one in before}
    there = [replace(one, tags=known[one.key].tags, meta=known[one.key].meta) for one in now if one.key in known]
    return tuple(there or _replacing(now, before, prefix))


def _replacing(now: Sequence[Instance], before: Sequence[Instance], prefix: str) -> Iterator[Instance]:
    """Those of a variant that was served; all, where there is none."""
    newest_first = sorted(before, key=lambda one: (-one.modify_index, one.key))
    of_variant: dict[str, list[Instance]] = {}
    for one in newest_first:
        of_variant.setdefault(_variant(one, prefix), []).append(one)
    pairs = [(one, of_variant.get(_variant(one, prefix))) for one in now]
    if not any(models for _, models in pairs):
        pairs = [(one, newest_first) for one in now]
    for number, (one, models) in enumerate(pairs):
        if models:
            # In turns, so that nothing is lost of what only some of them stated.
            yield _stating(one, models[number % len(models)], prefix)


def _stating(one: Instance, model: Instance, prefix: str) -> Instance:
    """An instance that states what another one did. Its weight is its own: what left was drained before, mostly."""
    weight = (f"{prefix}.weight=", f"{prefix}-weight")
    own = [tag for tag in one.tags if tag.startswith(weight[0]) or not tag.startswith(f"{prefix}.")]
    own_meta = {key: text for key, text in one.meta if key == weight[1] or not key.startswith(f"{prefix}-")}
    tags = [tag for tag in model.tags if tag.startswith(f"{prefix}.") and not tag.startswith(weight[0])]
    meta = {key: text for key, text in model.meta if key.startswith(f"{prefix}-") and key != weight[1]}
    return replace(one, tags=(*own, *tags), meta=tuple(sorted({**own_meta, **meta}.items())))


def _variant(one: Instance, prefix: str) -> str:
    """The name of its variant as it is written: what it states may not be usable."""
    said = dict(one.meta)
    for key in ("canary", "variant"):
        start = f"{prefix}.{key}="
        texts = [tag.removeprefix(start) for tag in one.tags if tag.startswith(start)]
        text = texts[0] if texts else said.get(f"{prefix}-{key}", "")
        if text:
            return CANARY if key == "canary" else text.partition(":")[0]
    return STABLE
