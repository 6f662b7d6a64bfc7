"""A host's subnet: found, kept, and never taken from anybody.

Two facts are kept apart. *Ownership* is the record in KV, which stays when its host dies. *Liveness* is the lock that
the host's session has on it. A record without its lock keeps its routes: Consul's troubles are not the containers'.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Network
from typing import Final, NoReturn

from proxygen.kit.errors import CatalogUnavailable, stay_away
from proxygen.kit.log import get_logger
from proxygen.network.choice import Adopt, Busy, Claim, Claimant, Settle, Standing, Stay, decide
from proxygen.network.memory import AgentMemory, Predecessor
from proxygen.network.records import Attributes, Record, subnet_key, write_value
from proxygen.network.session import HostSession, Terms
from proxygen.network.settling import Settling
from proxygen.network.status import LeaseStatus, News
from proxygen.network.store import (
    LockDelayed,
    LostRace,
    NetworkStore,
    Operation,
    SessionLost,
    adopting,
    claiming,
    releasing,
    replacing,
)

_log: Final = get_logger(__name__)

_SOON: Final = 0.05
"""Seconds, times a growing number, until the next try after another host was quicker."""
_DELAYED: Final = 1.0
"""Seconds until the next try where Consul does not give the lock yet."""
_SLOW: Final = "Consul answers too slowly to confirm it in time"
_NEVER: Final = float("-inf")


class SubnetLease:
    """One host's lease. `keep` is its life; `close` or `release`, once `keep` is cancelled, are its end."""

    def __init__(
        self, store: NetworkStore, host_id: str, attributes: Attributes, *, memory: AgentMemory, terms: Terms
    ) -> None:
        self.host_id = host_id
        self._store = store
        self._attributes = attributes
        self._memory = memory
        self._terms = terms
        past = memory.recall(host_id)
        self._live = past.live
        self._hint = past.hint
        self._session = HostSession(store, f"proxygen network: {attributes.node}", terms=terms, past=past.session)
        self._confirmed = past.confirmed if past.confirmed is not None else _NEVER
        self._record: Record | None = None
        self._conflict = ""
        self._reason = "Consul was not asked yet"
        self._problems: tuple[str, ...] = ()
        self._settling = Settling(store, terms=terms)
        self._busy: tuple[str, float] | None = None
        self._refused: set[IPv4Network] = set()
        self._lost = 0
        self._news = News(host_id)
        self._woken = asyncio.Event()

    # --- what others see

    @property
    def session(self) -> str:
        """Empty while there is none."""
        return self._session.id

    @property
    def status(self) -> LeaseStatus:
        """How it stands by now: an unconfirmed lease expires without a word from Consul."""
        standing = self._standing()
        reason = "" if standing is Standing.HELD else self._conflict or self._reason or _SLOW
        return LeaseStatus(standing=standing, subnet=self._live, reason=reason, problems=self._problems)

    def _standing(self) -> Standing:
        now = time.monotonic()
        if self._conflict:
            return Standing.CONFLICT
        if self._live is None:
            return Standing.WAITING
        if self._record is not None and now < self._confirmed + self._terms.ttl:
            return Standing.HELD
        # Whoever collects counts from the end of our session, which is later.
        return Standing.UNCONFIRMED if now < self._confirmed + self._terms.grace else Standing.EXPIRED

    async def moved(self) -> LeaseStatus:
        """Wait until something may be different, and return the status then."""
        await self._news.wait()
        return self.status

    async def held(self) -> IPv4Network:
        """Wait until there is a subnet that is this host's, and return it."""
        while True:
            status = self.status
            if status.standing is Standing.HELD and status.subnet is not None:
                return status.subnet
            await self.moved()

    def announce(self, attributes: Attributes) -> None:
        """Tell other hosts something else from now on: another address, another MAC."""
        self._attributes = attributes
        self._woken.set()

    # --- its life

    def _pause_after(self, failures: int, error: CatalogUnavailable) -> float:
        longest = min(self._terms.rhythm, 0.5 * 2 ** min(failures, 10))
        return max(stay_away(error), random.uniform(longest / 4, longest))

    async def keep(self) -> NoReturn:
        """Find a subnet and keep it until cancelled. Nothing that Consul does ends it."""
        failures = 0
        while True:
            asked = time.monotonic()
            try:
                pause = await self._beat(asked)
                failures = 0
            except CatalogUnavailable as error:
                failures += 1
                self._doubt(error)
                pause = self._pause_after(failures, error)
            self._news.tell(self.status)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._woken.wait()
            self._woken.clear()

    async def _beat(self, asked: float) -> float:
        """Renew, look whether the record is as we left it, and mend what is not. Return seconds until the next."""
        if not await self._session.renew():
            self._record = None
            # No session outlives a loss of data, after which the same keys may have the same indexes.
            self._settling.restart()
            self._reason = "the session in Consul is a new one"
            self._remember()
        try:
            if self._record is not None and await self._is_ours(self._record):
                await self._update(self._record)
                self._confirm(asked)
                return self._in_time(asked)
            return await self._obtain(asked)
        except SessionLost:
            self._session.abandon()
            return _SOON
        except LostRace as error:
            return self._try_again(error)

    async def _is_ours(self, held: Record) -> bool:
        found = await self._store.record(held.subnet)
        if found is not None and found.host_id == held.host_id and found.session == held.session:
            if found.generation == held.generation:
                self._record = replace(held, index=found.index)
                return True
            # Somebody has our identity and even our session: a copy of this machine. We leave it the session.
            _log.error("another agent has this host's id and session", host=self.host_id, session=self.session)
            self._session.abandon()
        self._record = None
        self._reason = f"the lease of {held.subnet} is not as this host left it"
        return False

    async def _update(self, held: Record) -> None:
        if held.attributes == self._attributes:
            return
        wanted = replace(held, attributes=self._attributes)
        key, value = subnet_key(held.subnet), write_value(self.host_id, self._attributes, held.generation)
        indexes = await self._store.commit(
            self._store.unchanged(key, held.index), self._store.lock(key, value, self.session)
        )
        self._record = replace(wanted, index=indexes[key])

    async def _obtain(self, asked: float) -> float:
        """Come by a subnet, or find out why not."""
        if not self.session:
            return _SOON
        view = await self._store.look()
        self._problems = view.problems
        step = decide(view, self._claimant(), calm=await self._settling.look(view), refused=self._refused)
        if not isinstance(step, Busy):
            self._busy = None
        match step:
            case Adopt(record=read, pointer_index=pointer):
                record = self._own(read.subnet, generation=read.generation + 1)
                await self._write(record, adopting(self._store, record, read=read, pointer_index=pointer), asked)
            case Claim(subnet=subnet, config_index=config, pointer_index=pointer, replaced=replaced):
                record = self._own(subnet, generation=1)
                gone = () if replaced is None else replacing(self._store, replaced, self.session)
                claim = claiming(self._store, record, config_index=config, pointer_index=pointer)
                try:
                    await self._write(record, [*gone, *claim], asked)
                except LockDelayed:
                    if self._live is None and replaced is None:
                        self._refused.add(subnet)
                    raise
            case Busy(record=record):
                return self._wait_for_lock(record)
            case Settle():
                wait = self._terms.settle if self._live is None else self._terms.lapse
                return self._stand(
                    Standing.WAITING,
                    f"Consul may have lost its data: waiting {wait:g} s for hosts which hold subnets to come forward",
                )
            case Stay(standing=standing, reason=reason):
                self._refused.clear()
                return self._stand(standing, reason)
        return self._in_time(asked)

    def _claimant(self) -> Claimant:
        return Claimant(
            host_id=self.host_id,
            session=self.session,
            public_ip=self._attributes.public_ip,
            live=self._live,
            confirmed=time.monotonic() < self._confirmed + self._terms.ttl,
            hint=self._hint,
        )

    def _own(self, subnet: IPv4Network, *, generation: int) -> Record:
        return Record(
            subnet=subnet,
            host_id=self.host_id,
            attributes=self._attributes,
            generation=generation,
            session=self.session,
            index=0,
        )

    async def _write(self, record: Record, operations: Sequence[Operation], asked: float) -> None:
        indexes = await self._store.commit(*operations)
        self._record = replace(record, index=indexes[subnet_key(record.subnet)])
        self._live = self._hint = record.subnet
        self._confirm(asked)

    def _wait_for_lock(self, record: Record) -> float:
        """Our own record is locked by a session that is not ours: an agent before us, or a copy of this host."""
        now = time.monotonic()
        if self._busy is None or self._busy[0] != record.session:
            self._busy = (record.session, now)
        if now < self._busy[1] + self._terms.busy:
            reason = f"the lease of {record.subnet} is locked by the session of this host's earlier agent until it ends"
            return self._stand(Standing.WAITING, reason)
        return self._stand(
            Standing.CONFLICT,
            f"another host lives under this host's id {self.host_id} and has {record.subnet} "
            f"({record.attributes.node}, {record.attributes.public_ip}); give each host a machine id of its own",
        )

    def _stand(self, standing: Standing, reason: str) -> float:
        self._record = None
        self._conflict = reason if standing is Standing.CONFLICT else ""
        self._reason = reason
        return self._terms.rhythm / 2 * random.uniform(0.8, 1.0)

    def _try_again(self, error: LostRace) -> float:
        self._record = None
        if isinstance(error, LockDelayed) and not self._refused:
            self._reason = f"Consul keeps the lock from everybody for {self._terms.lock_delay:g} s after a session"
            return _DELAYED
        self._lost += 1
        self._reason = "somebody else wrote at the same time"
        return random.uniform(_SOON, _SOON * 2 ** min(self._lost, 6))

    def _in_time(self, asked: float) -> float:
        """Return the pause after which the session is renewed again, however long this beat took."""
        return max(0.0, asked + self._terms.rhythm * random.uniform(0.9, 1.0) - time.monotonic())

    # --- what is so

    def _confirm(self, asked: float) -> None:
        self._confirmed = asked
        self._conflict = self._reason = ""
        self._busy = None
        self._lost = 0
        self._refused.clear()
        self._remember()

    def _doubt(self, error: CatalogUnavailable) -> None:
        self._reason = str(error)
        self._settling.restart()
        self._busy = None

    def _remember(self) -> None:
        confirmed = None if self._confirmed == _NEVER else self._confirmed
        known = Predecessor(live=self._live, hint=self._hint, session=self.session, confirmed=confirmed)
        try:
            self._memory.keep(self.host_id, known)
        except OSError as error:
            _log.warning("lease not remembered", reason=str(error))

    # --- its end

    async def close(self) -> None:
        """Leave the subnet to this host and say that its agent is gone, so that the next one need not wait.

        Raise CatalogUnavailable; the session then ends by itself.
        """
        held, self._record = self._record, None
        if held is not None:
            key = subnet_key(held.subnet)
            value = write_value(self.host_id, held.attributes, held.generation)
            # Unlocked first: what a session still holds when it ends, nobody gets for a while.
            with suppress(LostRace):
                await self._store.commit(self._store.unlock(key, value, self.session))
        await self._session.end()
        self._remember()

    async def release(self) -> None:
        """Give the subnet back: no container of this host may have it any more. Raise CatalogUnavailable, LostRace."""
        # Before anything is asked: an answer that is lost may still be a lease that is gone.
        self._record = self._live = None
        self._reason = "the subnet was given back"
        self._remember()
        operations = releasing(self._store, await self._store.look(), self.host_id, self.session)
        if operations:
            await self._store.commit(*operations)
        self._hint = None
        await self._session.end()
        self._memory.forget()
