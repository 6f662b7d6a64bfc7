"""Who is at fault where nginx refuses a candidate and names no service, as where names collide in one of its hashes.

Candidates without some of the services are tested until those are found without which it passes. Whoever was served
before or registered earlier is kept, whoever came later is left out; so services that are only wrong together cost the
newest of them. A search that runs out of trials blames only whom it found, and the next one goes on where it ended.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Generic, TypeVar

from proxygen.catalog import ServiceName
from proxygen.kit.errors import CheckRefused, RefusedWithoutName
from proxygen.proxy.plan.types import Claim, Plan, Quarantine, Service
from proxygen.proxy.quarantine.suspects import is_familiar

MOST_TRIALS: Final = 200
MOST_SECONDS: Final = 60.0
"""Of the search, from its beginning; a test that has begun is waited for."""
FEWEST_TRIALS: Final = 8
"""However long they take, so that each search gets further than the one before it."""

_PLACE: Final = "the configuration as a whole"
_GUILTY: Final = "without this service nginx accepts it"
_UNTRIED: Final = (
    "nginx names no service, and the search for the one at fault has not come to this one yet: it goes on in the next"
    " pass"
)

_T = TypeVar("_T")

Accepts = Callable[[Mapping[ServiceName, Quarantine]], Awaitable[bool]]
"""Says whether nginx accepts a candidate with these services in quarantine."""


class Spent(Exception):
    """The search had its number of trials, or its time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sifted(Generic[_T]):
    """What a search knows at its end, each in the order in which it was given."""

    kept: tuple[_T, ...]
    """These pass together."""
    left_out: tuple[_T, ...]
    """Each of these fails with those kept before it."""
    untried: tuple[_T, ...] = ()


async def keep_most(
    order: Sequence[_T], passes: Callable[[Sequence[_T]], Awaitable[bool]], *, head: int = 1
) -> Sifted[_T]:
    """Sift ``order`` into those that pass together and those that fail with these.

    ``passes`` must hold for nothing at all and not for all; what it does not hold for must not pass by more. It may
    raise Spent. ``head``: how many of the first to try together. Each one left out costs about twice the binary
    logarithm of how many were kept since the one before.
    """
    kept: tuple[_T, ...] = ()
    left: tuple[_T, ...] = ()
    rest = tuple(order)
    try:
        while rest:
            fails, step, is_bracketed = len(rest), 1, False
            while fails > 1:
                size = fails // 2 if is_bracketed else min(max(head, step), fails - 1)
                if await passes((*kept, *rest[:size])):
                    kept, rest = kept + rest[:size], rest[size:]
                    # Small steps after the head: what one of them found is kept, should the next be one too many.
                    fails, step, head = fails - size, step * 2 if head == 1 else 1, 1
                else:
                    fails, is_bracketed = size, True
            left, rest = (*left, rest[0]), rest[1:]
            if not rest or await passes((*kept, *rest)):
                return Sifted(kept=(*kept, *rest), left_out=left)
            head = 1
    except Spent:
        pass
    return Sifted(kept=kept, left_out=left, untried=rest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a search for those at fault found."""

    guilty: Mapping[ServiceName, Quarantine] = field(default_factory=lambda: MappingProxyType({}))
    """nginx accepts those that were kept without these, and with none of them."""
    untried: Mapping[ServiceName, Quarantine] = field(default_factory=lambda: MappingProxyType({}))
    """The search ended before it came to these. With them and the guilty in quarantine nginx accepts the rest."""
    kept: Mapping[ServiceName, Service] = field(default_factory=lambda: MappingProxyType({}))
    """What it accepts together."""


class _Trials:
    """How often nginx may be asked in one search."""

    def __init__(self) -> None:
        self._deadline: Final = time.monotonic() + MOST_SECONDS
        self._made = 0

    def take(self) -> None:
        """Raise Spent where there is none left."""
        is_late = self._made >= FEWEST_TRIALS and time.monotonic() > self._deadline
        if is_late or self._made >= MOST_TRIALS:
            raise Spent
        self._made += 1


async def find_culprits(
    plan: Plan,
    refused: RefusedWithoutName,
    accepts: Accepts,
    *,
    known: Mapping[ServiceName, Quarantine],
    served: Mapping[ServiceName, Service],
    passed: Mapping[ServiceName, Service] | None = None,
) -> Found:
    """Find the quarantines that let nginx accept the rest of a plan; none where it accepts the whole by now.

    ``known`` are those that gates asked for before, ``served`` the services as nginx was last seen to serve them,
    ``passed`` what a search that ran out had kept. A service whose routes are refused even where they answer 503 is
    withdrawn. Raise CheckRefused where nginx refuses the same without any service, or most of those that it serves,
    since the operator's files must be why.
    """
    trials = _Trials()
    for withdrawn in (False, True):
        order = _order(plan, known, served, passed or {}, withdrawn=withdrawn)

        def without(
            names: Sequence[Service], why: str = _GUILTY, *, withdrawn: bool = withdrawn
        ) -> dict[ServiceName, Quarantine]:
            said = f"nginx -t: {refused.reason}; {why}"
            return {each.name: _quarantine(each, said, known, withdrawn=withdrawn) for each in names}

        async def passes(kept: Sequence[Service], order: Sequence[Service] = order) -> bool:
            trials.take()
            names = {each.name for each in kept}
            return await accepts(without([each for each in order if each.name not in names]))

        if order and await passes(()):
            if await passes(order):
                # It was something that passed: a key being renewed, a name that could not be looked up.
                return Found()
            first = sum(is_familiar(each, served if passed is None else passed) for each in order)
            sifted = await keep_most(order, passes, head=max(1, first))
            guilty = without(sifted.left_out)
            _spare_the_served(plan, {**known, **guilty}, served, refused)
            return Found(
                guilty=guilty,
                untried=without(sifted.untried, _UNTRIED),
                kept={each.name: each for each in sifted.kept},
            )
    raise CheckRefused(
        f"nginx -t refuses the operator's files with what all services share, without any service too: {refused.reason}"
    )


def _order(
    plan: Plan,
    known: Mapping[ServiceName, Quarantine],
    served: Mapping[ServiceName, Service],
    passed: Mapping[ServiceName, Service],
    *,
    withdrawn: bool,
) -> list[Service]:
    """Those that can still be left out, the one to be kept first at the front."""
    suspects = [
        service
        for service in plan.services
        if not (service.quarantine and (not withdrawn or service.quarantine.withdrawn))
    ]
    return sorted(
        suspects,
        key=lambda each: (
            not is_familiar(each, passed),
            not is_familiar(each, served),
            not _holds_all(each, plan),
            each.registered,
            each.name,
        ),
    )


def _holds_all(service: Service, plan: Plan) -> bool:
    return all(plan.memory.holders.get(claim) == service.name for claim in service.claims)


def _quarantine(
    service: Service, reason: str, known: Mapping[ServiceName, Quarantine], *, withdrawn: bool
) -> Quarantine:
    lost: frozenset[Claim] = known[service.name].lost if service.name in known else frozenset()
    return Quarantine(service=service.name, place=_PLACE, reason=reason, lost=lost, withdrawn=withdrawn)


def _spare_the_served(
    plan: Plan,
    quarantines: Mapping[ServiceName, Quarantine],
    served: Mapping[ServiceName, Service],
    refused: RefusedWithoutName,
) -> None:
    """Raise CheckRefused where searches would take out most of what is served: the tags of those did not change."""
    familiar = [each.name for each in plan.services if is_familiar(each, served)]
    lost = [name for name in familiar if name in quarantines and quarantines[name].place == _PLACE]
    if 2 * len(lost) > len(familiar) > 0:
        raise CheckRefused(
            f"nginx -t refuses {len(lost)} of {len(familiar)} services that are served as they are, so the operator's"
            f" files must be why, and nothing is changed: {refused.reason}"
        )
