"""What a push consists of, and its words. ``templates/lua/push.lua`` reads them::

    proxygen 1
    from 41 0123456789abcdef      the stamp of what is served, which this follows
    to 42 fedcba9876543210        the stamp of what is served then
    u web_stable round_robin - 10.0.0.1:80/1/1/5/0/p 10.0.0.2:80/1/1/5/0/p
    s web_share 500:web_canary 9500:web_stable
    end 2

An upstream is a line ``u``, a split a line ``s``, as `proxygen.proxy.render.pushed` words them; ``end`` counts both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from proxygen.proxy.check.part import UPSTREAMS
from proxygen.proxy.nginx.stamp import Stamp
from proxygen.proxy.render.pushed import Entries
from proxygen.proxy.render.rendered import Rendered, Unit

LONGEST: Final = 16 * 1024 * 1024
"""Bytes of a document that nginx's workers read."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What one upstream, or one split, is from now on."""

    kind: str
    """``u`` for an upstream, ``s`` for a split."""
    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name} {self.text}"


def encode_document(before: Stamp, after: Stamp, entries: Iterable[Entry]) -> bytes:
    """Write a document. It may be longer than nginx reads."""
    lines = [str(entry) for entry in entries]
    return "\n".join(("proxygen 1", f"from {before}", f"to {after}", *lines, f"end {len(lines)}", "")).encode()


def entries_between(served: Rendered, candidate: Rendered) -> tuple[Entry, ...] | None:
    """Return what leads from one rendering to another; None where that takes a reload."""
    if [(file.path, len(file.units)) for file in served.files] != [
        (file.path, len(file.units)) for file in candidate.files
    ]:
        return None
    found: list[Entry] = []
    for before, after in zip(served.files, candidate.files, strict=True):
        for old, new in zip(before.units, after.units, strict=True):
            if old is new or old.text == new.text:
                continue
            if after.path != UPSTREAMS or not _differ_in_what_is_pushed(old, new):
                return None
            found += _changed(old, new)
    return tuple(found)


def _differ_in_what_is_pushed(old: Unit, new: Unit) -> bool:
    return old.pushable is not None and new.pushable is not None and old.pushable.fixed == new.pushable.fixed


def _changed(old: Unit, new: Unit) -> Iterator[Entry]:
    assert old.pushable is not None
    assert new.pushable is not None
    yield from _news("u", old.pushable.upstreams, new.pushable.upstreams)
    yield from _news("s", old.pushable.splits, new.pushable.splits)


def _news(kind: str, before: Entries, after: Entries) -> Iterator[Entry]:
    known = dict(before)
    return (Entry(kind, name, text) for name, text in after if known.get(name) != text)
