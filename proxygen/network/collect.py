"""Collecting the leases of hosts that left for good. One host does it: the holder of a lock."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Final, NoReturn

from proxygen.kit.errors import CatalogUnavailable
from proxygen.kit.log import get_logger
from proxygen.network.records import COLLECTOR, View, host_key, subnet_key
from proxygen.network.session import Terms
from proxygen.network.settling import Settling
from proxygen.network.store import LostRace, NetworkStore

_log: Final = get_logger(__name__)

_OFTEN: Final = 60.0
_GAP: Final = 3
"""After so many missed looks nobody knows whether a host came back in between."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Left:
    """Keys of a host that does not live, with the indexes at which they were seen."""

    host_id: str
    subnet: IPv4Network
    keys: tuple[tuple[str, int], ...]


class Collector:
    """Deletes leases that were seen without their lock, unchanged, for the whole grace.

    Only this host's clock counts, and only while it looks: after an outage the grace begins anew.
    """

    def __init__(self, store: NetworkStore, session: Callable[[], str], *, terms: Terms) -> None:
        self._store = store
        self._session = session
        self._terms = terms
        self._seen: dict[_Left, float] = {}
        self._counted_for = ""
        """Our session since we count."""
        self._looked = 0.0
        self._settling = Settling(store, terms=terms)

    @property
    def rhythm(self) -> float:
        """Seconds between two looks: often enough that a grace is overrun by a tenth at most."""
        return min(_OFTEN, self._terms.grace / 10)

    async def run(self) -> NoReturn:
        """Look every minute until cancelled."""
        while True:
            try:
                await self.sweep()
            except CatalogUnavailable as error:
                _log.warning("leases not collected", reason=str(error))
            except LostRace:
                # While we settled that a network is new, its config changed; the next look tells.
                pass
            await asyncio.sleep(self.rhythm * random.uniform(0.9, 1.0))

    async def sweep(self) -> tuple[IPv4Network, ...]:
        """Look once, if this host is the one who does. Return the subnets that are free now."""
        session = self._session()
        if session != self._counted_for:
            # No session outlives a loss of data, after which the same keys may have the same indexes.
            self._begin_anew()
            self._counted_for = session
        if not await self._is_our_turn(session):
            self._begin_anew()
            return ()
        view = await self._store.look()
        now = time.monotonic()
        if now > self._looked + _GAP * self.rhythm:
            self._begin_anew()
        self._looked = now
        self._seen = {left: self._seen.get(left, now) for left in _left(view)}
        # So that the next newcomer need not wait for it.
        await self._settling.look(view)
        ripe = [left for left, since in self._seen.items() if now >= since + self._terms.grace]
        return tuple([left.subnet for left in ripe if await self._collect(left, session)])

    def _begin_anew(self) -> None:
        self._seen.clear()
        self._settling.restart()

    async def _is_our_turn(self, session: str) -> bool:
        if not session:
            return False
        lock = await self._store.entry(COLLECTOR)
        if lock is not None and lock.session:
            return lock.session == session
        try:
            await self._store.commit(self._store.lock(COLLECTOR, b"", session))
        except LostRace:
            return False
        return True

    async def _collect(self, left: _Left, session: str) -> bool:
        deletions = [operation for key, index in left.keys for operation in self._store.delete(key, index)]
        try:
            await self._store.commit(self._store.locked(COLLECTOR, session), *deletions)
        except LostRace:
            # Its host is back, or the lock went to another host; the next look tells.
            return False
        del self._seen[left]
        _log.info("lease collected", host=left.host_id, subnet=str(left.subnet), grace=self._terms.grace)
        return True


def _left(view: View) -> Iterator[_Left]:
    """Yield what nobody who lives has: leases without a lock, and hosts' keys without a lease."""
    for record in view.records.values():
        if record.session or record.host_id in view.reservations.get(record.subnet, ()):
            continue
        pointer = view.pointers.get(record.host_id)
        keys = [(subnet_key(record.subnet), record.index)]
        if pointer is not None and pointer.subnet == record.subnet:
            keys.append((host_key(record.host_id), pointer.index))
        yield _Left(host_id=record.host_id, subnet=record.subnet, keys=tuple(keys))
    for host_id, pointer in view.pointers.items():
        record_there = view.records.get(pointer.subnet)
        if record_there is None or record_there.host_id != host_id:
            yield _Left(host_id=host_id, subnet=pointer.subnet, keys=((host_key(host_id), pointer.index),))
