"""Which instances of a service count: one whose registration cannot be used costs nobody but itself.

One that served before goes on with the tags of then, one that never served is left out. That holds for what cannot be
read (tags, address, port), and for what makes no sense beside the others or refers to what the operator does not have.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Final

from proxygen.catalog import Instance, ServiceName
from proxygen.kit.errors import TagError
from proxygen.proxy.plan.members import JudgedInstance, Unusable, judge
from proxygen.proxy.plan.types import Claim, GoodTags, Memory, Policy
from proxygen.tags import ProxyTags

MAX_TRIALS: Final = 64
"""Combinations of instances that are tried; what has not been found by then is left out with the part it is in."""

_Key = tuple[str, str]

FindProblem = Callable[[Sequence[JudgedInstance]], TagError | None]
"""Says what makes no sense in what some instances state together. Those that state the same may be one of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What a service was served with, and the claims that it holds."""

    good_tags: GoodTags = field(default_factory=GoodTags)
    claims: frozenset[Claim] = frozenset()

    def instances(self) -> Mapping[_Key, Instance]:
        return {one.key: one for one in (*self.good_tags.gone, *self.good_tags.there)}


NO_PAST: Final = Past()


class Pasts:
    """The past of each service, out of a memory; most plans never ask."""

    def __init__(self, memory: Memory) -> None:
        self._memory: Final = memory

    def of(self, name: ServiceName) -> Past:
        good_tags = self._memory.good_tags.get(name, GoodTags())
        return Past(good_tags=good_tags, claims=self._claims.get(name, frozenset()))

    @cached_property
    def _claims(self) -> Mapping[ServiceName, frozenset[Claim]]:
        found: dict[ServiceName, set[Claim]] = defaultdict(set)
        for claim, name in self._memory.holders.items():
            found[name].add(claim)
        return {name: frozenset(claims) for name, claims in found.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """The instances that count, and those whose registration does not."""

    members: tuple[JudgedInstance, ...]
    """In the order of the instances; those that are kept have the tags of before."""
    left_out: tuple[Unusable, ...] = ()
    kept: Mapping[_Key, Unusable] = field(default_factory=lambda: MappingProxyType({}))
    """As they are registered, by their keys."""


def admit(instances: Sequence[Instance], policy: Policy, past: Past, find_problem: FindProblem) -> Admitted:
    """Find the instances that can be served together: those that were are asked before newcomers."""
    before = past.instances()
    readable, unreadable = judge(instances, policy)
    sound, unsound = _sift(readable, before, find_problem)
    refused = {one.instance.key: one for one in (*unreadable, *unsound)}
    if not refused:
        return Admitted(members=tuple(sound))
    again, _ = judge([_as_before(one.instance, before) for key, one in refused.items() if key in before], policy)
    members, _ = _sift(again, before, find_problem, beside=sound)
    kept = {member.instance.key for member in members[len(sound) :]}
    order = {one.key: number for number, one in enumerate(instances)}
    return Admitted(
        members=tuple(sorted(members, key=lambda member: order[member.instance.key])),
        left_out=tuple(refused[key] for key in sorted(refused.keys() - kept, key=order.__getitem__)),
        kept=MappingProxyType({key: refused[key] for key in sorted(kept, key=order.__getitem__)}),
    )


def _as_before(instance: Instance, before: Mapping[_Key, Instance]) -> Instance:
    """The registration as it is now, but for what it states."""
    known = before[instance.key]
    return replace(instance, tags=known.tags, meta=known.meta)


def _sift(
    members: Sequence[JudgedInstance],
    before: Mapping[_Key, Instance],
    find_problem: FindProblem,
    *,
    beside: Sequence[JudgedInstance] = (),
) -> tuple[list[JudgedInstance], list[Unusable]]:
    """Add to ``beside`` all that make sense there; return these and those that do not."""
    if find_problem([*beside, *members]) is None:
        return [*beside, *members], []
    sound, unsound = list(beside), []
    pending, trials = [_by_trust(members, before)], 0
    while pending:
        part = pending.pop()
        together = [one for group in part for one in group]
        trials += 1
        problem = find_problem(_one_of_each([*sound, *together]))
        if problem is None:
            sound += together
        elif len(part) == 1 or trials >= MAX_TRIALS:
            unsound += [Unusable(one.instance, problem, one.tags) for one in together]
        else:
            half = len(part) // 2
            pending += [part[half:], part[:half]]
    return sound, unsound


def _by_trust(members: Iterable[JudgedInstance], before: Mapping[_Key, Instance]) -> list[list[JudgedInstance]]:
    """Group those that state the same: first what was served so before, then what asks for requests, then the older
    registrations."""
    groups: dict[ProxyTags, list[JudgedInstance]] = {}
    for member in members:
        groups.setdefault(member.tags, []).append(member)

    def distrust(group: Sequence[JudgedInstance]) -> tuple[bool, bool, int, _Key]:
        is_new = not any(_is_as_before(member.instance, before) for member in group)
        asks = bool(group[0].tags.route or group[0].tags.listen)
        return (is_new, not asks, *min((member.instance.create_index, member.instance.key) for member in group))

    return sorted(groups.values(), key=distrust)


def _is_as_before(instance: Instance, before: Mapping[_Key, Instance]) -> bool:
    known = before.get(instance.key)
    return known is not None and (known.tags, known.meta) == (instance.tags, instance.meta)


def _one_of_each(members: Iterable[JudgedInstance]) -> list[JudgedInstance]:
    """The newest of those that state the same, which is the one whose word counts."""
    newest: dict[ProxyTags, JudgedInstance] = {}
    for member in members:
        known = newest.get(member.tags)
        if known is None or member.instance.modify_index > known.instance.modify_index:
            newest[member.tags] = member
    return list(newest.values())
