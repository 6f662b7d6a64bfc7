"""Blocking queries, by the rules of Consul's documentation.

The index only says where to wait from. It is thrown away (0 is asked, which answers at once) when it goes backwards
or is below 1, and after every failure: a server that restarted or was restored counts from lower, and to an index
larger than its own it would answer only when the whole wait is over. An answer under a lower index is not believed,
and is no failure: what the leader says when it is asked from 0 tells which it was.

From Consul 1.10 on a wait may be for a view that the agent keeps (`answers.Backend`), and nobody ends it when the
servers are lost, come back, or begin anew. So every wait ends when the ledger hears that they are back; and after
that, and after each failure, the servers themselves are asked for a while: a view that lost them looks for them ever
less often, up to once a minute.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from proxygen.consul.answers import Reply
from proxygen.consul.client import Consistency, ConsulClient, Params
from proxygen.consul.ledger import Ledger
from proxygen.consul.witness import loss_of
from proxygen.kit.aio import Pace, retrying, unless
from proxygen.kit.errors import CatalogUnavailable, stay_away
from proxygen.kit.log import get_logger

_log: Final = get_logger(__name__)

_LONGEST_PAUSE: Final = 30.0
_PATHFINDER_PAUSE: Final = 1.0
"""One question keeps knocking, so that an outage of any length is over for us within two seconds of its end."""
_MOST_KNOCKS: Final = 15
"""As many as begin before the first is given up."""
_BLIND: Final = 75.0
"""Seconds for which a view that lost the servers may not know that they are back: it pauses for 60 s at most, and then
connects (agent/submatview, 1.14.0)."""
_BURST: Final = 5.0
_RATE: Final = 2.0
"""Answers a second; an index may move without end and mean nothing."""


def _as_it_is(index: int) -> tuple[int, Params]:
    return index, ()


def _no_witness() -> str | None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked of Consul again and again."""

    source: str
    """What it is called in the ledger."""
    path: str
    params: Params = ()
    pathfinder: bool = False
    """Whether it keeps knocking while Consul is down, and tells the other questions when it is back."""
    rate: float = _RATE
    """Answers a second in the long run."""
    narrow: Callable[[int], tuple[int, Params]] = _as_it_is
    """Gets the index to wait from, and says where to ask from and with which further parameters; from 0 the question is
    asked as it is."""
    witness: Callable[[], str | None] = _no_witness
    """Names a key whose loss means that the question's whole prefix may be gone; see `witness`."""


def _heed_no_failure(error: CatalogUnavailable) -> None:
    """The ledger has it."""


class Poll:
    """A standing question: ask, hand the answer to ``heed``, ask again from there, for ever.

    An answer may well be the same as the one before; ``heed`` compares contents. When it raises CatalogUnavailable,
    the answer is not believed and the question is asked anew.
    """

    def __init__(
        self,
        client: ConsulClient,
        ledger: Ledger,
        question: Question,
        heed: Callable[[Reply], Awaitable[object]],
        *,
        on_failure: Callable[[CatalogUnavailable], None] = _heed_no_failure,
    ) -> None:
        self._client = client
        self._ledger = ledger
        self._heed = heed
        self._question = question
        datacenter = client.settings.datacenter
        self._where = f"{question.path}?dc={datacenter}" if datacenter else question.path
        self._on_failure = on_failure
        self._index = 0
        self._down = False
        self._by_servers_until = 0.0

    async def run(self, *, until_quiet: bool = False) -> None:
        """Ask until cancelled, or until a whole ``consul.wait`` passed without a move of the index."""
        pace = Pace(burst=_BURST, rate=self._question.rate)
        longest = _PATHFINDER_PAUSE if self._question.pathfinder else _LONGEST_PAUSE
        self._ledger.expect(self._question.source)
        try:
            while True:
                caller = retrying(CatalogUnavailable, longest=longest, at_least=stay_away, sleep=self._ledger.pause)
                moved: bool = await caller(self._ask)
                if until_quiet and not moved:
                    return
                await pace.step()
        finally:
            self._ledger.forget(self._question.source)
            self._client.oddities.forget(self._where)

    async def _ask(self) -> bool:
        """Ask once; return whether the index moved."""
        asked, further = self._question.narrow(self._index)
        try:
            reply = await self._read(asked, further)
            if reply is not None:
                self._client.oddities.heed(self._where, reply)
            if reply is None or reply.index < asked:
                self._begin_anew(asked, reply)
                return True
            self._index = reply.index
            # Also where the index did not move: a token that lost a rule changes the content and no index.
            await self._heed(reply)
        except CatalogUnavailable as error:
            self._index = 0
            self._down = True
            self._ask_servers()
            self._ledger.failed(self._question.source, error)
            self._on_failure(error)
            raise
        self._ledger.believed(self._question.source)
        if self._down:
            self._down = False
            if self._question.pathfinder:
                self._ledger.recover()
        return self._index != asked

    async def _read(self, asked: int, further: Params) -> Reply | None:
        """Return the answer; None where what was waited for may have been told to nobody."""
        if not asked:
            # Where we start from is the leader's word; after that, any server that is not behind our index.
            return await (
                self._knock() if self._question.pathfinder else unless(self._read_leader(), self._ledger.recovered())
            )
        consistency: Consistency = "any"
        streamed = time.monotonic() >= self._by_servers_until
        params = (*self._question.params, *further)
        reading = self._client.read(
            self._question.path, params, index=asked, consistency=consistency, streamed=streamed
        )
        signals: list[Coroutine[Any, Any, object]] = [self._ledger.recovered()]
        witness = self._question.witness()
        if witness is not None:
            signals.append(loss_of(self._client, witness, index=asked, consistency=consistency))
        return await unless(reading, *signals)

    async def _read_leader(self) -> Reply:
        return await self._client.read(self._question.path, self._question.params)

    async def _knock(self) -> Reply:
        """Read, and once a second again beside reads that hang: what they hang on may be past."""
        most = min(_MOST_KNOCKS, max(1, self._client.settings.max_connections // 4))
        knocks: set[asyncio.Task[Reply]] = set()
        try:
            while True:
                if len(knocks) < most:
                    knocks.add(asyncio.ensure_future(self._read_leader()))
                ended, _ = await asyncio.wait(knocks, timeout=_PATHFINDER_PAUSE, return_when=asyncio.FIRST_COMPLETED)
                for one in ended:
                    return one.result()
        finally:
            for one in knocks:
                one.cancel()
            await asyncio.gather(*knocks, return_exceptions=True)

    def _begin_anew(self, asked: int, reply: Reply | None) -> None:
        self._index = 0
        if reply is None or not reply.tells_contact:
            self._ask_servers()
            return
        _log.info("consul index went backwards", source=self._question.source, asked=asked, answered=reply.index)
        if self._question.pathfinder:
            self._ledger.recover()

    def _ask_servers(self) -> None:
        self._by_servers_until = time.monotonic() + _BLIND
