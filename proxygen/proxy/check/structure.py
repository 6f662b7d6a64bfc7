"""The first gate: crossplane's view of the candidate must be the plan's.

It stands before ``nginx -t``, so that hostile input never reaches nginx's own parser. It reads only units that it
has not accepted before: a unit is complete in itself, so units that were accepted one by one may stand together.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import crossplane

from proxygen.catalog import ServiceName
from proxygen.kit.errors import CheckRefused
from proxygen.proxy.check.skeleton import Node, Oddity, difference, forbidden, skeleton
from proxygen.proxy.plan.types import Claim
from proxygen.proxy.render.pushed import SPLIT
from proxygen.proxy.render.renderer import MAX_SHAPES, Rendered, RenderedFile, Unit

_LUA_TEXT: Final = re.compile(r'"([^"]*)"')
"""In a text of ours there are no quotes and no escapes."""

_REMEMBERED: Final = 10_000
"""Units at least that are remembered as accepted: about a megabyte. It is more where a candidate has many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """What a gate refused, where, and whose lines they are (None: nobody's, so the whole candidate fails)."""

    gate: str
    file: str
    line: int
    services: tuple[ServiceName, ...]
    reason: str
    claims: frozenset[Claim] = frozenset()
    """The hosts or ports that are refused themselves, and not what is said about them."""

    def __str__(self) -> str:
        whose = f" (service {', '.join(self.services)})" if self.services else ""
        return f"{self.gate} refused {self.file}:{self.line}{whose}: {self.reason}"


class StructureGate:
    """The first gate. It remembers what it accepted, by content."""

    def __init__(self, *, own_templates: bool) -> None:
        self._own_templates: Final = own_templates
        self._accepted: dict[bytes, None] = {}
        """Marks of units, those seen last at the end."""
        self._inert: dict[tuple[str, str], tuple[Node, ...]] = {}

    def refusals(self, rendered: Rendered) -> tuple[Refusal, ...]:
        """Check the units that were not accepted lately."""
        found = []
        accepted: dict[bytes, None] = {}
        new: dict[bytes, tuple[RenderedFile, int, Unit]] = {}
        for file in rendered.files:
            for place, unit in enumerate(file.units):
                # What is copied from nginx.conf is nginx's alone to judge.
                if unit.is_operators:
                    continue
                accepted[unit.mark] = None
                if unit.mark not in self._accepted:
                    new[unit.mark] = (file, place, unit)
        trees = _parse([(unit.context, unit.text) for _, _, unit in new.values()])
        self._learn([unit for _, _, unit in new.values()])
        for (mark, (file, place, unit)), (tree, error) in zip(new.items(), trees, strict=True):
            oddity = error or self._judge(unit, tree)
            if oddity is not None:
                del accepted[mark]
                found.append(
                    Refusal(
                        gate="crossplane",
                        file=file.path,
                        line=sum(each.lines for each in file.units[:place]) + oddity.line,
                        services=unit.owners_at(oddity.line),
                        reason=oddity.reason,
                    )
                )
        self._remember(accepted)
        return (*found, *_lost(rendered))

    def _remember(self, accepted: dict[bytes, None]) -> None:
        """A search for a culprit goes back and forth between services served and left out."""
        for mark in accepted:
            self._accepted.pop(mark, None)
        self._accepted |= accepted
        too_many = len(self._accepted) - max(_REMEMBERED, 3 * len(accepted))
        for mark in list(islice(self._accepted, max(0, too_many))):
            del self._accepted[mark]

    def _learn(self, units: Sequence[Unit]) -> None:
        """Parse the inert twins that are new; units of one shape share one twin."""
        if len(self._inert) > MAX_SHAPES:
            self._inert.clear()
        twins = {(unit.context, str(unit.inert)) for unit in units} - self._inert.keys()
        ordered = sorted(twins)
        for twin, (tree, error) in zip(ordered, _parse(ordered), strict=True):
            if error is not None:
                raise CheckRefused(f"a template is wrong whatever the values are: {error.reason}")
            if not self._own_templates:
                for oddity in forbidden(tree, (twin[0],)):
                    raise CheckRefused(f"a shipped template says more than it may: {oddity.reason}")
            self._inert[twin] = skeleton(tree)

    def _judge(self, unit: Unit, tree: list[dict[str, Any]]) -> Oddity | None:
        oddity = difference(skeleton(tree), self._inert[unit.context, str(unit.inert)], tree)
        return oddity or _unplanned(unit, tree) or _unpushed(unit, tree)


def _unplanned(unit: Unit, tree: Sequence[dict[str, Any]]) -> Oddity | None:
    """Compare names and counts with the plan's own."""
    upstreams, names, paths, targets = [], [], [], []
    for directive in tree:
        block = directive.get("block") or ()
        if directive["directive"] == "upstream":
            # Once more each as a backup, where they rest.
            addresses = dict.fromkeys(line["args"][0] for line in block if line["directive"] == "server")
            upstreams.append((directive["args"][0], tuple(addresses)))
        elif directive["directive"] == "server":
            names += [name for line in block if line["directive"] == "server_name" for name in line["args"]]
            paths += [line["args"][-1] for line in block if line["directive"] == "location"]
        elif directive["directive"] == "map" and unit.targets:
            targets += [(line["directive"], *line["args"]) for line in block if line["directive"] != "default"]
    first = tree[0]["line"] if tree else 1
    if tuple(upstreams) != unit.upstreams:
        return Oddity(first, f"upstreams {upstreams!r} are not the plan's {list(unit.upstreams)!r}")
    if unit.names and tuple(names) != unit.names:
        return Oddity(first, f"server names {names!r} are not the plan's {list(unit.names)!r}")
    if missing := set(unit.paths) - set(paths):
        return Oddity(first, f"locations {sorted(missing)!r} of the plan are missing")
    planned = [*unit.targets, *unit.labels]
    if targets != planned:
        return Oddity(first, f"targets {targets!r} are not the plan's {planned!r}")
    return None


def _unpushed(unit: Unit, tree: Sequence[dict[str, Any]]) -> Oddity | None:
    """Compare the servers and shares in Lua's texts with the plan's own."""
    if unit.pushable is None:
        return None
    upstreams, splits = [], []
    for directive in tree:
        for line in directive.get("block") or ():
            if line["directive"] == "balancer_by_lua_block":
                upstreams.append(_upstream_of(_LUA_TEXT.findall(line["args"][0])))
            elif directive["directive"] == "map" and directive["args"][1].endswith(SPLIT):
                splits.append((directive["args"][1][1 : -len(SPLIT)], line["args"][0]))
    if (tuple(upstreams), tuple(splits)) == (unit.pushable.upstreams, unit.pushable.splits):
        return None
    return Oddity(tree[0]["line"], f"Lua's servers {upstreams!r} or shares {splits!r} are not the plan's")


def _upstream_of(texts: Sequence[str]) -> tuple[str, str]:
    """What `upstream.conf.j2` says by its texts: the name twice, the words, and what joins them."""
    name, words = texts[:1], texts[2:-1]
    return (name[0] if name == texts[1:2] else "", " ".join(words))


def _lost(rendered: Rendered) -> Iterator[Refusal]:
    """Find hosts that share a virtual server and whose upstream is nowhere: in a map nginx would not miss it before a
    request asks for it."""
    sharing = [(file, unit) for file in rendered.files for unit in file.units if unit.targets]
    if not sharing:
        return
    upstreams = {name for file in rendered.files for unit in file.units for name, _ in unit.upstreams}
    for file, unit in sharing:
        for host, target in unit.targets:
            if target.rpartition("/")[2] not in upstreams:
                reason = f"{host} leads to {target}, which is no upstream"
                yield Refusal(gate="structure", file=file.path, line=0, services=(), reason=reason)


def _parse(units: Sequence[tuple[str, str]]) -> list[tuple[list[dict[str, Any]], Oddity | None]]:
    """Parse all units in one go; when that fails, one by one, to know which it was."""
    together = _parse_together(units)
    if together is not None:
        return [(tree, None) for tree in together]
    return [_parse_alone(unit) for unit in units]


def _parse_together(units: Sequence[tuple[str, str]]) -> list[list[dict[str, Any]]] | None:
    if not units:
        return []
    # Each unit in a block of its own kind; one that closes its block early makes the count differ.
    document = _crossplane("".join(f"{context} {{\n{text}}}\n" for context, text in units))
    if document["status"] != "ok":
        return None
    parsed = document["config"][0]["parsed"]
    if [block["directive"] for block in parsed] != [context for context, _ in units]:
        return None
    trees = []
    for block, (_, text) in zip(parsed, units, strict=True):
        trees.append([_shifted(directive, block["line"]) for directive in block["block"]])
        if any(directive["line"] > text.count("\n") for directive in trees[-1]):
            return None
    return trees


def _parse_alone(unit: tuple[str, str]) -> tuple[list[dict[str, Any]], Oddity | None]:
    context, text = unit
    document = _crossplane(f"{context} {{\n{text}}}\n")
    if document["status"] != "ok":
        error = document["errors"][0]
        reason = re.sub(r" in \S+:\d+$", "", str(error["error"])) or "unbalanced braces"
        return [], Oddity(max(1, (error.get("line") or 2) - 1), reason)
    parsed = document["config"][0]["parsed"]
    if len(parsed) != 1:
        return [], Oddity(max(1, parsed[-1]["line"] - 1), f'unexpected directive "{parsed[-1]["directive"]}"')
    return [_shifted(directive, 1) for directive in parsed[0]["block"]], None


def _shifted(directive: dict[str, Any], lines: int) -> dict[str, Any]:
    """The same directive with line numbers that count from the unit's first line."""
    moved = {**directive, "line": directive["line"] - lines}
    if "block" in directive:
        moved["block"] = [_shifted(child, lines) for child in directive["block"]]
    return moved


def _crossplane(text: str) -> dict[str, Any]:
    # crossplane reads files only.
    with tempfile.NamedTemporaryFile("w", suffix=".conf", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        document: dict[str, Any] = crossplane.parse(file.name, single=True, catch_errors=True, check_ctx=True)
    return document
