"""Who is left out of a candidate and until when: what one attempt learns for the next."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Final

from proxygen.catalog import Catalog, Instance, ServiceName
from proxygen.kit.errors import CheckRefused, FilesRefused, RefusedWithoutName
from proxygen.kit.log import get_logger
from proxygen.proxy.apply.apply import Applied
from proxygen.proxy.apply.outcome import Outcome
from proxygen.proxy.check.blame import blame_log
from proxygen.proxy.check.gates import RefusedCandidate
from proxygen.proxy.check.structure import Refusal
from proxygen.proxy.draft import Draft
from proxygen.proxy.plan.types import Claim, Quarantine, Service
from proxygen.proxy.quarantine.culprits import Accepts, find_culprits
from proxygen.proxy.quarantine.quarantines import quarantines
from proxygen.proxy.quarantine.refusals import Refusals
from proxygen.proxy.quarantine.suspects import Deduction, Suspects, is_familiar
from proxygen.proxy.quarantine.trial import Trial

_log = get_logger("proxygen.proxy.passage")

_NAMED: Final = 3

_LONGEST_WAIT: Final = 3_600.0
"""Seconds for which a service waits for others' reloads at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedReload(RefusedCandidate):
    """nginx did not take a reload, and services are or may be the cause."""

    applied: Applied
    guilty: tuple[Quarantine, ...]
    waiting: tuple[Quarantine, ...] = ()
    """Of these nobody knows anything bad."""

    def __str__(self) -> str:
        return self.applied.reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A candidate, and what must be known to judge who is at fault where it is refused."""

    draft: Draft
    observed: Catalog
    """The newest catalog, before anything in it is kept as it was."""
    live: Mapping[ServiceName, tuple[Instance, ...]]
    """The instances that the live plan was made from."""
    holders: Mapping[Claim, ServiceName]
    """Of the live plan; it may be an earlier run's."""
    trial: Trial | None


class LeftOut:
    """Remembers who was refused, what waits, and what nginx was seen to serve."""

    def __init__(
        self,
        tag_prefix: str,
        *,
        again: Callable[[], None],
        pause: Callable[[int], float],
        tell: Callable[[Applied], None],
    ) -> None:
        """``again`` has the newest catalog gone over once more, ``pause`` that too after a pause with so many
        doublings, and returns its end; ``tell`` hears of a reload that does not end an attempt."""
        self._again: Final = again
        self._pause: Final = pause
        self._tell: Final = tell
        self.refusals: Final = Refusals(tag_prefix)
        self._suspects: Final = Suspects()
        self._untried: frozenset[ServiceName] = frozenset()
        """Those that wait for the next attempt, since the search in this one ran out."""
        self._passed: Mapping[ServiceName, Service] | None = None
        """What a search that ran out had kept; None where the last one came to its end."""
        self._served: Mapping[ServiceName, Service] | None = None
        """The services as this run last saw nginx serve them."""

    def begin(self) -> None:
        """Give those their turn that the last search did not come to."""
        self.refusals.release(self._untried)
        self._untried = frozenset()

    def clear(self) -> None:
        """Give everybody another chance: nginx or a file of the operator's is another one."""
        self.refusals.clear()
        self._passed = None

    # --- who is at fault

    def by_lines(self, case: Case, refusals: tuple[Refusal, ...]) -> None:
        """Leave out whose lines a gate refused. Raise CheckRefused where they are nobody's."""
        found = quarantines(refusals, self.refusals.quarantines).values()
        if case.trial is not None:
            case.trial.judge(found)
        for quarantine in found:
            self.refusals.refuse(quarantine, case.observed)

    async def by_search(self, case: Case, error: RefusedWithoutName, accepts: Accepts) -> None:
        """Find out who is at fault for a refusal that names no service, and leave those out for some time: it may be
        others that it does not go together with. Raise CheckRefused where it is nobody's fault."""
        if self._untried:
            # The search ran out in this attempt, and what it had kept does not go with what was served.
            raise error
        _log.warning("looking for the service that nginx refuses", reason=error.reason)
        known, served = dict(self.refusals.quarantines), self._served_before(case)
        found = await find_culprits(case.draft.plan, error, accepts, known=known, served=served, passed=self._passed)
        self._passed = found.kept if found.untried else None
        if case.trial is not None:
            case.trial.judge(found.guilty.values())
        for quarantine in found.guilty.values():
            self._postpone(quarantine, case)
        if found.untried:
            self._hold_untried(found.untried, case, error)

    def _hold_untried(self, untried: Mapping[ServiceName, Quarantine], case: Case, error: RefusedWithoutName) -> None:
        """Have those that the search did not come to wait for the next attempt.

        Raise CheckRefused where some are served as they are, or the operator's changed files may be at fault: nothing
        is changed then.
        """
        services = [each for each in case.draft.plan.services if each.name in untried]
        served = self._served_before(case)
        if case.trial is not None or any(is_familiar(each, served) for each in services):
            raise CheckRefused(
                f"{error}; the search for the service at fault goes on in the next pass, {len(services)} are not tried"
                " yet and nothing is changed until then"
            )
        self._let_wait(untried.values(), case, error.reason)
        self._untried = frozenset(untried)
        self._again()

    def blame(self, case: Case, applied: Applied) -> RefusedReload | None:
        """Say who is, or may be, why nginx did not take a reload; None where nobody is.

        Raise FilesRefused where the operator's changed files are more likely the cause.
        """
        if applied.outcome is not Outcome.ROLLED_BACK or applied.ended_workers:
            return None
        known = self.refusals.quarantines.keys()
        blamed = blame_log((applied.reason, *applied.log), case.draft.rendered)
        new = tuple(refusal for refusal in blamed if not set(refusal.services) <= known)
        if new:
            return RefusedReload(applied=applied, guilty=tuple(quarantines(new, {}).values()))
        return self._suspect(case, applied) if applied.refused_reload else None

    def _suspect(self, case: Case, applied: Applied) -> RefusedReload | None:
        plan = case.draft.plan
        if case.trial is not None:
            plan = replace(plan, services=tuple(each for each in plan.services if each.name in case.trial.excused))
        found = self._suspects.refused(plan, self._served_before(case))
        if found.guilty is None and not found.waiting:
            if case.trial is None:
                return None
            self._tell(applied)
            raise FilesRefused(f"nginx did not take a reload with the changed files: {applied.reason}")
        alone = f"nginx did not take a reload with this service, which is new, and names no cause: {applied.reason}"
        among = f"waits, since nginx did not take a reload with it and others and names no cause: {applied.reason}"
        return RefusedReload(
            applied=applied,
            guilty=() if found.guilty is None else (_suspicion(found.guilty, alone),),
            waiting=tuple(_suspicion(name, among) for name in found.waiting),
        )

    def by_reload(self, case: Case, refused: RefusedReload) -> None:
        """Leave out for some time who is or may be the cause."""
        self._tell(refused.applied)
        for quarantine in refused.guilty:
            self._postpone(quarantine, case)
        self._let_wait(refused.waiting, case, refused.applied.reason)

    # --- for how long

    def _postpone(self, quarantine: Quarantine, case: Case) -> None:
        """Leave out for some time what a reload stumbled over; the pauses double."""
        self._leave_out_until(self._setback(quarantine.service), quarantine, case)

    def _leave_out_until(self, until: float, quarantine: Quarantine, case: Case) -> None:
        """Who is served stays as he is served, and only what he states anew is left out: he may be innocent. Where he
        states nothing anew, or is not served, he is quarantined."""
        name = quarantine.service
        is_served = self._served is None or name in self._served
        as_served = is_served and self.refusals.states_anew(name, case.draft.catalog, case.live)
        self.refusals.refuse(quarantine, case.observed, until=until, as_served=as_served)

    def _setback(self, name: ServiceName) -> float:
        return self._pause(self.refusals.count_setback(name))

    def _let_wait(self, waiting: Collection[Quarantine], case: Case, reason: str) -> None:
        """Leave out for now services of which nobody knows anything bad."""
        until = time.monotonic() + _LONGEST_WAIT
        for quarantine in waiting:
            self._leave_out_until(until, quarantine, case)
        if waiting:
            some = ", ".join(sorted(quarantine.service for quarantine in waiting)[:_NAMED])
            _log.info("services wait", count=len(waiting), services=some, reason=reason)

    # --- what nginx serves

    def note_live(self, draft: Draft) -> None:
        """Forget the setbacks of those that went live."""
        self.refusals.forgive(service.name for service in draft.plan.services if service.quarantine is None)

    def note_served(self, draft: Draft) -> None:
        """Take note of what nginx serves, and of what follows for those that wait."""
        self._served = {service.name: service for service in draft.plan.services if service.quarantine is None}
        found = self._suspects.took(self._served, {*self.refusals.quarantines, *self.refusals.as_served})
        if found.guilty is not None:
            reason = "nginx did not take a reload with this service, and took one without it; no cause can be read"
            self.refusals.convict(_suspicion(found.guilty, reason), self._setback(found.guilty))
        self.refusals.release(found.tried)
        if found != Deduction():
            self._again()

    def _served_before(self, case: Case) -> Mapping[ServiceName, Service]:
        """The services as nginx serves them; of an earlier run only the claims are remembered."""
        if self._served is not None:
            return self._served
        return {
            service.name: service
            for service in case.draft.plan.services
            if service.claims and all(case.holders.get(claim) == service.name for claim in service.claims)
        }


def _suspicion(name: ServiceName, reason: str) -> Quarantine:
    return Quarantine(service=name, place="the reload", reason=reason, withdrawn=True)
