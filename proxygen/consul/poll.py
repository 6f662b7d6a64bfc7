"""Blocking queries, by the rules of Consul's documentation.

The index only says where to wait from. It is thrown away (0 is asked, which answers at once) when it goes backwards
or is below 1, and after every failure: a server that restarted or was restored counts from lower, and to an index
larger than its own it would answer only when the whole wait is over.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from proxygen.aio import Pace, retrying
from proxygen.consul.answers import Reply
from proxygen.consul.client import Consistency, ConsulClient, Params
from proxygen.consul.ledger import Ledger, stay_away
from proxygen.errors import CatalogUnavailable, ConsulUnreachable

_LONGEST_PAUSE: Final = 30.0
_PATHFINDER_PAUSE: Final = 1.0
"""One question keeps knocking, so that an outage of any length is over for us within two seconds of its end."""
_BURST: Final = 5.0
_RATE: Final = 2.0
"""Answers a second; an index may move without end and mean nothing."""


class Poll:
    """A standing question: ask, hand the answer to ``heed``, ask again from there, for ever.

    An answer may well be the same as the one before; ``heed`` compares contents. When it raises CatalogUnavailable,
    the answer is not believed and the question is asked anew. ``rate`` is how many answers a second it takes in the
    long run.
    """

    def __init__(
        self,
        client: ConsulClient,
        ledger: Ledger,
        heed: Callable[[Reply], Awaitable[object]],
        *,
        source: str,
        path: str,
        params: Params = (),
        pathfinder: bool = False,
        rate: float = _RATE,
        on_failure: Callable[[CatalogUnavailable], None] = lambda error: None,
    ) -> None:
        self._client = client
        self._ledger = ledger
        self._heed = heed
        self._source = source
        self._path = path
        self._params = tuple(params)
        self._pathfinder = pathfinder
        self._rate = rate
        self._on_failure = on_failure
        self._index = 0
        self._down = False

    async def run(self, *, until_quiet: bool = False) -> None:
        """Ask until cancelled, or until a whole ``consul.wait`` passed without a move of the index."""
        pace = Pace(burst=_BURST, rate=self._rate)
        longest = _PATHFINDER_PAUSE if self._pathfinder else _LONGEST_PAUSE
        self._ledger.expect(self._source)
        try:
            while True:
                caller = retrying(CatalogUnavailable, longest=longest, at_least=stay_away, sleep=self._ledger.pause)
                moved: bool = await caller(self._ask)
                if until_quiet and not moved:
                    return
                await pace.step()
        finally:
            self._ledger.forget(self._source)

    async def _ask(self) -> bool:
        """Ask once; return whether the index moved."""
        asked = self._index
        try:
            # Where we start from is the leader's word; after that, any server that is not behind our index.
            consistency: Consistency = "any" if asked else "default"
            reply = await self._client.read(self._path, self._params, index=asked, consistency=consistency)
            self._index = self._next_index(asked, reply)
            # Also where the index did not move: a token that lost a rule changes the content and no index.
            await self._heed(reply)
        except CatalogUnavailable as error:
            self._index = 0
            self._down = True
            self._ledger.failed(self._source, error)
            self._on_failure(error)
            raise
        self._ledger.believed(self._source)
        if self._down:
            self._down = False
            if self._pathfinder:
                self._ledger.recover()
        return self._index != asked

    def _next_index(self, asked: int, reply: Reply) -> int:
        if reply.index < asked:
            raise ConsulUnreachable(
                f"Consul's index went backwards from {asked} to {reply.index}: a restart, a restored snapshot or a "
                "server that lags; asking anew"
            )
        return max(0, reply.index)
