"""A service kept on the local agent: put there, looked after, taken away.

A Consul agent has no compare-and-set. So each write and each farewell looks first, and leaves alone what another owner
(`owners`) or another life (`lives`) holds. What is left is the time between that look and the write, some
milliseconds: a farewell that comes in between removes a successor's entry, and the successor, which is woken, writes it
again at once. A successor that cannot be woken (in another network namespace) does so with its next heartbeat.
"""

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
from proxygen.registration.lives import Alone, Seniority
from proxygen.registration.owners import LEAVING, endpoint, held_endpoint, is_leaving, other_owner
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
_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})
_ASIDE: Final = 1.0
"""Seconds between two looks at an id that another holds: once it is free it is taken."""
_HANDOVER_LOOK: Final = 0.05
_ALONE: Final = Alone()


class Lease:
    """One service on one agent. `keep` is its life; `withdraw` and `deregister` are its end."""

    def __init__(
        self,
        service: CompleteRegistration,
        agent: Agent,
        lives: Alone = _ALONE,
        *,
        statuses: Mapping[str, Status] = _NOTHING,
    ) -> None:
        """``statuses``: what is known of the checks under another id, by kind."""
        self.service = service
        self.attempted = asyncio.Event()
        """Set once the agent was asked for the first time, whatever it said."""
        self.registered = False
        """Whether the agent held the service when it last answered."""
        self._agent = agent
        self._lives = lives
        self._aside = ""
        self._saw_farewell = False
        self._written: tuple[str, str, int] | None = None
        self._sent: set[tuple[str, str, int]] = set()
        """What was written since, whose answers never came."""
        self._hurried = asyncio.Event()
        self._log = get_journal(__name__)
        self._next = self._taken = service
        self._token_mark = ""
        self._has_changed = False
        self._may_be_held = False
        self._patience = _PATIENCE
        self._compared = False
        self._trouble: type[Exception] | None = None
        self._known = {one.id: statuses[kind] for one in service.checks if (kind := _kind(one.id)) in statuses}
        self._statuses: dict[str, Status] = dict(self._known)
        self._beats = tuple(check for check in service.checks if check.ttl is not None)
        self.rhythm = min([LOOK, *(check.ttl / 3 for check in service.checks if check.ttl is not None)])
        self._probes = {
            check.id: HealthProbe(check.health, deadline=(check.ttl or LOOK) / 3)
            for check in self._beats
            if check.health
        }

    @property
    def statuses(self) -> Mapping[str, Status]:
        """Of the checks by kind, as the agent last told them."""
        return {_kind(check_id): status for check_id, status in self._statuses.items()}

    async def keep(self) -> None:
        """Register, and stay so, until cancelled. Nothing that Consul does ends it."""
        while True:
            with_patience = retrying(Exception, longest=self.rhythm, at_least=stay_away)
            await with_patience(self._attempt)
            self._hurried.clear()
            if await self._lives.join(self._look_again):
                # An older life may have left before it could see us.
                continue
            pause = min(self.rhythm, _ASIDE) if self._aside else self.rhythm
            with suppress(TimeoutError):
                # Many instances that one agent lost together do not come back in step.
                async with asyncio.timeout(pause * random.uniform(0.9, 1.0)):
                    await self._hurried.wait()

    def hurry(self) -> None:
        """Tell Consul now how we are, where health is known to have changed."""
        self._hurried.set()

    def move(self, service: CompleteRegistration) -> None:
        """Announce the same service at another address from the next look on."""
        self._next = service

    def _look_again(self) -> None:
        """Another life came or went, and may have written anything."""
        self._compared = False
        self.hurry()

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
        an operator changes on a live registration (``proxygen tags set``) stays until the next start. An entry that
        another holds is left alone.
        """
        self._take_up()
        standing = self._lives.standing()
        if standing is Seniority.SUCCEEDED:
            self._stand_aside("a newer life of this instance holds it")
            return
        ids = [check.id for check in self._beats]
        reports = dict(zip(ids, await asyncio.gather(*map(self._report, self._beats)), strict=True))
        held = await self._agent.look(self.service.id)
        if self._is_others(held, standing):
            return
        self._step_back()
        if held is None:
            await self._write(self.service.checks, reports, why="lost by the agent" if self._compared else "new")
        else:
            await self._mend(held, reports)
        self._compared = self.registered = self._may_be_held = True
        self._has_changed = False
        self._written = endpoint(self.service)
        self._sent.clear()
        for check_id, report in reports.items():
            await self._agent.beat(check_id, report.status, report.note)

    def _take_up(self) -> None:
        """Announce the service at its newest address, and by the newest token."""
        token_mark = self._agent.token_mark
        if self._next is not self._taken or token_mark != self._token_mark:
            self._taken, self._token_mark, self._has_changed = self._next, token_mark, True
            self.service = self._next.written_with(token_mark)

    async def _mend(self, held: HeldByAgent, reports: dict[str, TtlReport]) -> None:
        own = {check.id for check in self.service.checks}
        self._statuses |= {id: check["Status"] for id, check in held.checks.items() if id in own}
        if not self._compared:
            # The entry may be of another, who had this id until now.
            self._statuses |= self._known
        checks, fields = self._differences(held)
        if not self._compared:
            self._carry_over(held)
        if checks or fields:
            names = (*fields, *(f"check {check.id}" for check in checks))
            kept = operators_part(held) if self._compared else {}
            await self._write(checks, reports, why=f"changed: {', '.join(names)}", kept=kept)
        elif not self._compared:
            self._log.info(
                "already registered", service=self.service.name, id=self.service.id, agent=self._agent.address
            )
        await self._clear(held)

    def _carry_over(self, held: HeldByAgent) -> None:
        """Begin a check that an earlier life did not have as well as those that it had: that is what is known."""
        known = [check["Status"] for id, check in held.checks.items() if id.startswith(f"{self.service.id}:")]
        if known and all(status == "passing" for status in known):
            for check in self.service.checks:
                self._statuses.setdefault(check.id, "passing")

    def _differences(self, held: HeldByAgent) -> tuple[tuple[BoundCheck, ...], tuple[str, ...]]:
        """The checks and the fields that are to be written."""
        if self._compared and not self._has_changed:
            return missing_checks(self.service, held), ()
        fields = changed_fields(self.service, held)
        if self._compared:
            fields = tuple(name for name in fields if name == "address")
        return changed_checks(self.service, held), fields

    async def _clear(self, held: HeldByAgent) -> None:
        """Remove what an earlier life under this id left behind, once the entry is ours."""
        was_leaving, is_left = self._saw_farewell, is_leaving(held, self.service.id)
        if is_left and not was_leaving:
            # Its farewell may as well come after our first look.
            await self._agent.set_maintenance(self.service.id, enable=False)
        self._saw_farewell = is_left
        if self._compared:
            return
        for check_id in stale_checks(self.service, held):
            await self._agent.remove_check(check_id)
        maintenance = held.checks.get(f"_service_maintenance:{self.service.id}")
        if maintenance is not None and maintenance.get("Notes") != LEAVING:
            self._log.warning("in maintenance", id=self.service.id, reason=maintenance.get("Notes"))

    def _is_others(self, held: HeldByAgent | None, standing: Seniority) -> bool:
        """Whether the entry is to be left alone; say so once."""
        holder = self._other_holder(held, standing)
        if holder is not None:
            self._stand_aside(holder, refused=True)
        return holder is not None

    def _other_holder(self, held: HeldByAgent | None, standing: Seniority) -> str | None:
        if held is None:
            return "another living instance of this host" if standing is Seniority.BESIDE else None
        name, address, port = held_endpoint(held)
        if (owner := other_owner(self.service, held)) is not None:
            return owner
        if standing is Seniority.BESIDE:
            return f"a living instance of this host ({name} at {address}:{port})"
        return f"another instance ({name} at {address}:{port})" if self._is_overtaken(held) else None

    def _is_overtaken(self, held: HeldByAgent) -> bool:
        """Whether another life that we do not see wrote its own address over ours, and is not leaving."""
        is_ours = self._written is None or self._is_written_by_us(held)
        return not is_ours and not is_leaving(held, self.service.id)

    def _is_written_by_us(self, held: HeldByAgent) -> bool:
        return held_endpoint(held) in {self._written, *self._sent, endpoint(self.service)}

    def _stand_aside(self, holder: str, *, refused: bool = False) -> None:
        self.registered = self.registered and not refused
        if self._aside == holder:
            return
        self._aside = holder
        facts = {"service": self.service.name, "id": self.service.id, "holder": holder}
        if refused:
            remedy = f"give each its own id, or remove the entry: consul services deregister -id={self.service.id}"
            self._log.error("registration refused, the id is held by another, trying again", **facts, remedy=remedy)
        else:
            self._log.info("standing by", **facts)

    def _step_back(self) -> None:
        """Hold the entry again, where another did; it may have written anything."""
        if self._aside:
            self._log.info("the id is free", service=self.service.name, id=self.service.id)
            self._aside = ""
            self._compared = False

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
        self._sent.add(endpoint(self.service))
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
        self._lives.leave()
        if not self._may_be_held or self._is_handed_over():
            return False
        self._log.info("leaving", service=self.service.name, id=self.service.id)
        if self._lives.waiting() and await self._hand_over():
            return True
        refusal = await self._within_patience(self._withdraw)
        self._lives.wake()
        if refusal is not None:
            self._log.warning("not withdrawn", service=self.service.name, id=self.service.id, reason=refusal)
        return refusal is None and self._may_be_held

    async def deregister(self) -> None:
        """Take the service away, if it may be there. An agent that cannot be told finds out by the checks."""
        for probe in self._probes.values():
            probe.close()
        self._lives.leave()
        if not self._may_be_held or self._is_handed_over():
            return
        refusal = await self._within_patience(self._deregister)
        self._lives.wake()
        if refusal is not None:
            self._log.warning("not deregistered", service=self.service.name, id=self.service.id, reason=refusal)
            return
        if self._may_be_held:
            self._log.info("deregistered", service=self.service.name, id=self.service.id)
        self._may_be_held = self.registered = False

    def _is_handed_over(self) -> bool:
        """Leave the entry to another life of this instance, where one lives, and wake it."""
        if not self._lives.heirs():
            return False
        self._lives.wake()
        self._let_go()
        return True

    def _let_go(self) -> None:
        self._may_be_held = self.registered = False
        self._log.info("left to its successor", service=self.service.name, id=self.service.id)

    async def _hand_over(self) -> bool:
        """Let another instance that waits for the id take it, still in service; tell whether it did in time."""
        self._lives.wake()
        with suppress(TimeoutError, CatalogUnavailable):
            async with asyncio.timeout(self._patience):
                while await self._holds():  # noqa: ASYNC110
                    # The agent tells nobody of a change of one service.
                    await asyncio.sleep(_HANDOVER_LOOK)
                self._let_go()
                return True
        return False

    async def _holds(self) -> bool:
        """Whether the entry is ours to take away; one that the agent does not tell of may be on its way."""
        held = await self._agent.look(self.service.id)
        if held is None:
            return True
        return other_owner(self.service, held) is None and self._is_written_by_us(held)

    async def _withdraw(self) -> None:
        if await self._holds():
            await self._agent.set_maintenance(self.service.id, enable=True, reason=LEAVING)
        else:
            self._let_go()

    async def _deregister(self) -> None:
        if await self._holds():
            await self._agent.deregister(self.service.id)
        else:
            self._let_go()

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


def _kind(check_id: str) -> str:
    return check_id.rpartition(":")[2]
