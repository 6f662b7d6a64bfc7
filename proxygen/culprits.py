"""Who is at fault where nginx refuses a candidate and names no service, as where names collide in one of its hashes.

Candidates without some of the services are tested until those are found without which it passes. Whoever was served
before or registered earlier is kept, whoever came later is left out; so services that are only wrong together cost the
newest of them.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeVar

from proxygen.errors import CheckRefused, RefusedWithoutName
from proxygen.model import ServiceName
from proxygen.plan.types import Claim, Plan, Quarantine, Service
from proxygen.suspects import is_familiar

MOST_TRIALS: Final = 200
MOST_SECONDS: Final = 60.0
"""Of the search, from its beginning; a test that has begun is waited for."""

_PLACE: Final = "the configuration as a whole"

_T = TypeVar("_T")

Accepts = Callable[[Mapping[ServiceName, Quarantine]], Awaitable[bool]]
"""Says whether nginx accepts a candidate with these services in quarantine."""


class Spent(Exception):
    """The search had its number of trials, or its time."""


async def keep_most(
    order: Sequence[_T], passes: Callable[[Sequence[_T]], Awaitable[bool]], *, head: int = 1
) -> list[_T]:
    """Return which of ``order`` to leave out so that the rest passes: each fails with those kept before it.

    ``passes`` must hold for nothing at all and not for all; what it does not hold for must not pass by more. It may
    raise Spent: what was not tried by then is left out too. ``head``: how many of the first to try together. Each one
    left out costs about twice the binary logarithm of how many were kept since the one before.
    """
    kept: list[_T] = []
    left: list[_T] = []
    rest = list(order)
    try:
        while rest:
            fails, step, is_bracketed = len(rest), head, False
            while fails > 1:
                size = fails // 2 if is_bracketed else min(step, fails - 1)
                if await passes((*kept, *rest[:size])):
                    kept, rest = kept + rest[:size], rest[size:]
                    fails, step = fails - size, step * 2
                else:
                    fails, is_bracketed = size, True
            left.append(rest.pop(0))
            if not rest or await passes((*kept, *rest)):
                break
            head = 1
    except Spent:
        return left + rest
    return left


async def find_culprits(
    plan: Plan,
    refused: RefusedWithoutName,
    accepts: Accepts,
    *,
    known: Mapping[ServiceName, Quarantine],
    served: Mapping[ServiceName, Service],
) -> Mapping[ServiceName, Quarantine]:
    """Return the quarantines that let nginx accept the rest of a plan; none where it accepts the whole by now.

    ``known`` are those that gates asked for before, ``served`` the services as nginx was last seen to serve them. A
    service whose routes are refused even where they answer 503 is withdrawn. Raise CheckRefused where nginx refuses the
    same without any service, or most of those that it serves, since the operator's files must be why.
    """
    deadline = time.monotonic() + MOST_SECONDS
    trials = 0
    for withdrawn in (False, True):
        order = _order(plan, known, served, withdrawn=withdrawn)

        def without(names: Sequence[Service], *, withdrawn: bool = withdrawn) -> dict[ServiceName, Quarantine]:
            return {each.name: _quarantine(each, refused, known, withdrawn=withdrawn) for each in names}

        async def passes(kept: Sequence[Service], order: Sequence[Service] = order) -> bool:
            nonlocal trials
            trials += 1
            if trials > MOST_TRIALS or (kept and time.monotonic() > deadline):
                raise Spent
            names = {each.name for each in kept}
            return await accepts(without([each for each in order if each.name not in names]))

        if order and await passes(()):
            if await passes(order):
                # It was something that passed: a key being renewed, a name that could not be looked up.
                return {}
            familiar = [each for each in order if is_familiar(each, served)]
            left = await keep_most(order, passes, head=max(1, len(familiar)))
            _spare_the_served(left, familiar, refused)
            return without(left)
    raise CheckRefused(
        f"nginx -t refuses the operator's files with what all services share, without any service too: {refused.reason}"
    )


def _order(
    plan: Plan, known: Mapping[ServiceName, Quarantine], served: Mapping[ServiceName, Service], *, withdrawn: bool
) -> list[Service]:
    """Those that can still be left out, the one to be kept first at the front."""
    suspects = [
        service
        for service in plan.services
        if not (service.quarantine and (not withdrawn or service.quarantine.withdrawn))
    ]
    return sorted(
        suspects,
        key=lambda each: (not is_familiar(each, served), not _holds_all(each, plan), each.registered, each.name),
    )


def _holds_all(service: Service, plan: Plan) -> bool:
    return all(plan.memory.holders.get(claim) == service.name for claim in service.claims)


def _quarantine(
    service: Service, refused: RefusedWithoutName, known: Mapping[ServiceName, Quarantine], *, withdrawn: bool
) -> Quarantine:
    lost: frozenset[Claim] = known[service.name].lost if service.name in known else frozenset()
    return Quarantine(
        service=service.name,
        place=_PLACE,
        reason=f"nginx -t: {refused.reason}; without this service nginx accepts it",
        lost=lost,
        withdrawn=withdrawn,
    )


def _spare_the_served(left: Sequence[Service], familiar: Sequence[Service], refused: RefusedWithoutName) -> None:
    """Raise CheckRefused where most of what is served would go: the tags of those did not change."""
    names = {each.name for each in familiar}
    lost = [each.name for each in left if each.name in names]
    if 2 * len(lost) > len(names) > 0:
        raise CheckRefused(
            f"nginx -t refuses {len(lost)} of {len(names)} services that are served as they are, so the operator's"
            f" files must be why, and nothing is changed: {refused.reason}"
        )
