"""A service kept on the local agent: put there, looked after, taken away."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Any, Final

from proxygen.kit.aio import retrying
from proxygen.kit.errors import CatalogUnavailable, stay_away
from proxygen.registration.agent import Agent
from proxygen.registration.checks import Status
from proxygen.registration.health import ALIVE, HealthProbe, TtlReport
from proxygen.registration.journal import get_journal
from proxygen.registration.service import (
    BoundCheck,
    CompleteRegistration,
    HeldByAgent,
    changed_checks,
    changed_fields,
    missing_checks,
    operators_part,
    stale_checks,
)

LOOK: Final = 10.0
"""Seconds between two looks at the agent where no TTL asks for more."""
_PATIENCE: Final = 3.0
"""Seconds to get a farewell through to the agent; it has its own ways to find out."""
_LAST_TRY: Final = 1.0
"""The same, once the agent did not take the first part of it: no application waits long for a dead agent."""
LEAVING: Final = "proxygen: leaving"
"""Reason of the maintenance that precedes a deregistration; whoever comes back under the same id ends it."""
_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


class Lease:
    """One service on one agent. `keep` is its life; `withdraw` and `deregister` are its end."""

    def __init__(self, service: CompleteRegistration, agent: Agent) -> None:
        self.service = service
        self.attempted = asyncio.Event()
        """Set once the agent was asked for the first time, whatever it said."""
        self.registered = False
        """Whether the agent held the service when it last answered."""
        self._agent = agent
        self._hurried = asyncio.Event()
        self._log = get_journal(__name__)
        self._next = service
        self._has_moved = False
        self._may_be_held = False
        self._patience = _PATIENCE
        self._compared = False
        self._trouble: type[Exception] | None = None
        self._statuses: dict[str, Status] = {}
        self._beats = tuple(check for check in service.checks if check.ttl is not None)
        self.rhythm = min([LOOK, *(check.ttl / 3 for check in service.checks if check.ttl is not None)])
        self._probes = {
            check.id: HealthProbe(check.health, deadline=(check.ttl or LOOK) / 3)
            for check in self._beats
            if check.health
        }

    async def keep(self) -> None:
        """Register, and stay so, until cancelled. Nothing that Consul does ends it."""
        while True:
            with_patience = retrying(Exception, longest=self.rhythm, at_least=stay_away)
            await with_patience(self._attempt)
            self._hurried.clear()
            with suppress(TimeoutError):
                # Many instances that one agent lost together do not come back in step.
                async with asyncio.timeout(self.rhythm * random.uniform(0.9, 1.0)):
                    await self._hurried.wait()

    def hurry(self) -> None:
        """Tell Consul now how we are, where health is known to have changed."""
        self._hurried.set()

    def move(self, service: CompleteRegistration) -> None:
        """Announce the same service at another address from the next look on."""
        self._next = service

    async def _attempt(self) -> None:
        try:
            await self.renew()
        except Exception as error:
            self._say_trouble(error)
            raise
        finally:
            self.attempted.set()
        if self._trouble is not None:
            self._log.info("registration is kept up again", service=self.service.name, id=self.service.id)
            self._trouble = None

    async def renew(self) -> None:
        """Look at what the agent holds, write what is not as it should be, and tell it how we are.

        The first look compares everything. The later ones only ask whether the service and its checks are there: what
        an operator changes on a live registration (``proxygen tags set``) stays until the next start.
        """
        if self._next is not self.service:
            self.service, self._has_moved = self._next, True
        ids = [check.id for check in self._beats]
        reports = dict(zip(ids, await asyncio.gather(*map(self._report, self._beats)), strict=True))
        held = await self._agent.look(self.service.id)
        if held is None:
            await self._write(self.service.checks, reports, why="lost by the agent" if self._compared else "new")
        else:
            await self._mend(held, reports)
        self._compared = self.registered = self._may_be_held = True
        self._has_moved = False
        for check_id, report in reports.items():
            await self._agent.beat(check_id, report.status, report.note)

    async def _mend(self, held: HeldByAgent, reports: dict[str, TtlReport]) -> None:
        own = {check.id for check in self.service.checks}
        self._statuses |= {id: check["Status"] for id, check in held.checks.items() if id in own}
        checks, fields = self._differences(held)
        if not self._compared:
            await self._clear(held)
        if checks or fields:
            names = (*fields, *(f"check {check.id}" for check in checks))
            kept = operators_part(held) if self._compared else {}
            await self._write(checks, reports, why=f"changed: {', '.join(names)}", kept=kept)
        elif not self._compared:
            self._log.info(
                "already registered", service=self.service.name, id=self.service.id, agent=self._agent.address
            )

    def _differences(self, held: HeldByAgent) -> tuple[tuple[BoundCheck, ...], tuple[str, ...]]:
        """The checks and the fields that are to be written."""
        if self._compared and not self._has_moved:
            return missing_checks(self.service, held), ()
        fields = changed_fields(self.service, held)
        if self._compared:
            fields = tuple(name for name in fields if name == "address")
        return changed_checks(self.service, held), fields

    async def _clear(self, held: HeldByAgent) -> None:
        """Remove what an earlier life under this id left behind."""
        for check_id in stale_checks(self.service, held):
            await self._agent.remove_check(check_id)
        maintenance = held.checks.get(f"_service_maintenance:{self.service.id}")
        if maintenance is None:
            return
        if maintenance.get("Notes") == LEAVING:
            await self._agent.set_maintenance(self.service.id, enable=False)
        else:
            self._log.warning("in maintenance", id=self.service.id, reason=maintenance.get("Notes"))

    async def _write(
        self,
        checks: Sequence[BoundCheck],
        reports: dict[str, TtlReport],
        *,
        why: str,
        kept: Mapping[str, Any] = _NOTHING,
    ) -> None:
        statuses = self._statuses | {check_id: report.status for check_id, report in reports.items()}
        # An answer that is lost on its way does not mean that nothing was written.
        self._may_be_held = True
        await self._agent.register({**self.service.body(checks, statuses), **kept})
        self._log.info(
            "registered",
            service=self.service.name,
            id=self.service.id,
            address=self.service.address,
            port=self.service.port,
            agent=self._agent.address,
            because=why,
        )

    async def _report(self, check: BoundCheck) -> TtlReport:
        probe = self._probes.get(check.id)
        return ALIVE if probe is None else await probe.ask()

    def _say_trouble(self, error: Exception) -> None:
        self.registered = False
        if self._trouble is type(error):
            return
        self._trouble = type(error)
        facts = {"service": self.service.name, "id": self.service.id, "reason": str(error)}
        if isinstance(error, CatalogUnavailable):
            self._log.warning("registration cannot be kept up, trying again", **facts)
        else:
            self._log.error("registration failed unexpectedly, trying again", **facts, exc_info=error)

    async def withdraw(self) -> bool:
        """Take the service out of traffic and leave it registered. Tell whether the agent took it."""
        if not self._may_be_held:
            return False
        self._log.info("leaving", service=self.service.name, id=self.service.id)
        refusal = await self._within_patience(
            lambda: self._agent.set_maintenance(self.service.id, enable=True, reason=LEAVING)
        )
        if refusal is not None:
            self._log.warning("not withdrawn", service=self.service.name, id=self.service.id, reason=refusal)
        return refusal is None

    async def deregister(self) -> None:
        """Take the service away, if it may be there. An agent that cannot be told finds out by the checks."""
        for probe in self._probes.values():
            probe.close()
        if not self._may_be_held:
            return
        refusal = await self._within_patience(lambda: self._agent.deregister(self.service.id))
        if refusal is not None:
            self._log.warning("not deregistered", service=self.service.name, id=self.service.id, reason=refusal)
            return
        self._may_be_held = self.registered = False
        self._log.info("deregistered", service=self.service.name, id=self.service.id)

    async def _within_patience(self, call: Callable[[], Awaitable[None]]) -> str | None:
        """Ask the agent again and again; return why it did not take the call in time, None where it did."""
        reason = "no answer"

        async def attempt() -> None:
            nonlocal reason
            try:
                await call()
            except CatalogUnavailable as error:
                reason = str(error)
                raise

        with suppress(TimeoutError):
            async with asyncio.timeout(self._patience):
                await retrying(CatalogUnavailable, longest=1.0)(attempt)
                return None
        self._patience = _LAST_TRY
        return reason
