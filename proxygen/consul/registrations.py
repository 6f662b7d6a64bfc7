"""Finding the services whose registrations changed: node by node, when the index of catalog/services moves.

Meta, weights, ports and instances without checks move that index and are part of nothing else that Consul tells in
one piece. A node's answer has all its services with the index at which each was written, so a hundred nodes are a
hundred small answers where a thousand services would be a thousand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NoReturn

from proxygen.consul.answers import Reply
from proxygen.consul.changes import compare_registrations
from proxygen.consul.client import ConsulClient
from proxygen.consul.decode import RegistrationState, decode_nodes, decode_registrations
from proxygen.consul.fetch import Fetcher, Sweep
from proxygen.consul.ledger import Ledger
from proxygen.consul.names import is_askable
from proxygen.consul.reads import is_about_one_service as is_about_one
from proxygen.kit.aio import retrying, start_eternal
from proxygen.kit.errors import CatalogUnavailable, stay_away

_NODES_PATH: Final = "/v1/catalog/nodes"
_SOURCE: Final = "nodes"
_MOST_READERS: Final = 8
_RESYNC: Final = 300.0
_LONGEST_PAUSE: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrationReader:
    """Someone who wants to know which services' registrations changed."""

    gap: float
    """Seconds between two looks at the nodes, at most ``longest_gap`` while a look finds nothing; see `fetch.Sweep`."""
    longest_gap: float
    known: Callable[[str, Mapping[str, RegistrationState]], Mapping[str, RegistrationState]]
    """Says, of a node and its first answer, what was known of it before."""
    ask: Callable[[Iterable[str]], bool]
    """Is told the services that differ; returns whether for any of them the next look is to come sooner."""
    look_everywhere: Callable[[], None]
    """Is called in place of that for nodes that cannot be asked by their name."""


class RegistrationScan:
    """Compares what each node has registered with what it had, and tells the readers what differs.

    It is one for all of them, and looks as often as the one who looks most often: each look is an answer for each node.
    A reader who joins late is told what changed since the last look, so a change that it has read itself may be told
    again, and none is missed.
    """

    def __init__(self, client: ConsulClient, ledger: Ledger, group: asyncio.TaskGroup) -> None:
        self._client = client
        self._ledger = ledger
        self._group = group
        self._readers: tuple[RegistrationReader, ...] = ()
        self._index = 0
        self._listing_moved = asyncio.Event()
        self._registered: dict[str, Mapping[str, RegistrationState]] = {}
        self._nodes: tuple[str, ...] = ()
        self._has_own_indexes = False
        """Whether a node's answer has an index of that node alone, as on 1.14: it does not tell who is behind."""
        workers = min(_MOST_READERS, max(1, client.settings.max_connections // 8))
        self._fetcher = Fetcher(self._read, ledger, workers=workers, what="node")
        self._looking: tuple[asyncio.Task[None], ...] = ()
        start_eternal(group, self._fetcher.run(), name="reading of nodes")

    def join(self, reader: RegistrationReader) -> None:
        """Tell this reader too what differs, and look at all nodes at once: from what the last look saw on."""
        self._readers = (*self._readers, reader)
        self._look_anew()

    def leave(self, reader: RegistrationReader) -> None:
        """Tell this reader no more; where nobody is left, nothing is asked."""
        self._readers = tuple(one for one in self._readers if one is not reader)
        self._look_anew()

    def moved(self, index: int) -> None:
        """Take in that the index of catalog/services moved to this."""
        self._index = index
        self._listing_moved.set()

    def _look_anew(self) -> None:
        """Look at the pace of those who read now."""
        for task in self._looking:
            task.cancel()
        self._looking = ()
        if not self._readers:
            self._forget_all()
            return
        quickest = min(self._readers, key=lambda reader: reader.gap)
        sweep = Sweep(
            self._fetcher, lambda: self._nodes, gap=quickest.gap, longest_gap=quickest.longest_gap, every=_RESYNC
        )
        self._looking = (
            start_eternal(self._group, sweep.run(), name="sweep over all nodes"),
            start_eternal(self._group, self._follow_moves(sweep, quickest.gap), name="listing of nodes"),
        )
        if self._index:
            # What was under way is cut off.
            self._listing_moved.set()

    def _forget_all(self) -> None:
        for node in self._nodes:
            self._fetcher.forget(node)
        self._ledger.forget(_SOURCE)
        self._nodes = ()
        self._registered.clear()

    async def _follow_moves(self, sweep: Sweep, gap: float) -> NoReturn:
        while True:
            await self._listing_moved.wait()
            self._listing_moved.clear()
            caller = retrying(CatalogUnavailable, longest=_LONGEST_PAUSE, at_least=stay_away, sleep=self._ledger.pause)
            nodes: tuple[str, ...] = await caller(self._list_nodes)
            for gone in set(self._nodes) - set(nodes):
                self._fetcher.forget(gone)
                self._tell(gone, self._registered.pop(gone, None), {})
            self._nodes = tuple(node for node in nodes if is_askable(node))
            if len(self._nodes) < len(nodes):
                self._look_everywhere()
            sweep.moved()
            await asyncio.sleep(gap)

    async def _list_nodes(self) -> tuple[str, ...]:
        try:
            nodes = decode_nodes((await self._client.read(_NODES_PATH)).body)
        except CatalogUnavailable as error:
            self._ledger.failed(_SOURCE, error)
            raise
        self._ledger.believed(_SOURCE)
        return nodes

    async def _read(self, node: str, urgent: bool) -> bool:
        try:
            return await self._compare(node)
        except CatalogUnavailable as error:
            if is_about_one(error):
                self._look_everywhere()
            raise

    async def _compare(self, node: str) -> bool:
        after = decode_registrations((await self._registrations(node)).body)
        before = self._registered.get(node)
        self._registered[node] = after
        return self._tell(node, before, after)

    def _tell(
        self, node: str, before: Mapping[str, RegistrationState] | None, after: Mapping[str, RegistrationState]
    ) -> bool:
        """Tell each reader what differs; return whether any wants the next look sooner."""
        wishes = [
            reader.ask(compare_registrations(reader.known(node, after) if before is None else before, after))
            for reader in self._readers
        ]
        return any(wishes)

    def _look_everywhere(self) -> None:
        for reader in self._readers:
            reader.look_everywhere()

    async def _registrations(self, node: str) -> Reply:
        """Read a node from any server that is not behind the one that told of the move; the leader is behind nobody."""
        index, path = self._index, f"/v1/catalog/node/{node}"
        if not self._has_own_indexes:
            reply = await self._client.read(path, consistency="any")
            if reply.index >= index:
                return reply
        reply = await self._client.read(path)
        self._has_own_indexes = self._has_own_indexes or 0 < reply.index < index
        return reply
