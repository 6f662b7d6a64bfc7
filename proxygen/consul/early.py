"""News of newcomers while the listing of all services is long and Consul cannot leave anything out of it.

Before 1.14.0 catalog/services takes no filter. What Consul's own page is made of does, on 1.8.7 as on 1.14.0, and is
answered in a millisecond where the listing takes half a second. It is documented nowhere, so it is asked only then,
and is only a hint: that a name has a proxy tag. The service is then read as any other, and the listing decides.
Where it fails, newcomers wait for the listing as they would without it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Final

from proxygen.consul.answers import Reply
from proxygen.consul.client import ConsulClient
from proxygen.consul.decode import decode_summaries, routed_names
from proxygen.consul.ledger import Ledger
from proxygen.consul.oversized import filter_without
from proxygen.consul.poll import Poll, Question
from proxygen.kit.aio import start_eternal

_PATH: Final = "/v1/internal/ui/services"


class EarlyNews:
    """Tells ``found`` the services with proxy tags, but for those that it is told to leave out."""

    def __init__(
        self, client: ConsulClient, group: asyncio.TaskGroup, *, tag_prefix: str, found: Callable[[set[str]], None]
    ) -> None:
        self._client = client
        self._group = group
        self._tag_prefix = tag_prefix
        self._found = found
        self._without: tuple[str, ...] = ()
        self._task: asyncio.Task[None] | None = None

    def ask_without(self, names: Collection[str]) -> None:
        """Ask for all but these from now on; for none where there are none to leave out."""
        without = tuple(sorted(names))
        if without == self._without:
            return
        self._without = without
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if without:
            self._task = start_eternal(self._group, self._poll(without).run(), name="early news of newcomers")

    def _poll(self, without: tuple[str, ...]) -> Poll:
        # A ledger of its own: that this fails makes nothing less fresh, and is nobody's problem.
        return Poll(
            self._client,
            Ledger("early news: "),
            Question(
                source="newcomers",
                path=_PATH,
                params=(("filter", filter_without(without, selector="Service.Service")),),
            ),
            self._heed,
        )

    async def _heed(self, reply: Reply) -> None:
        self._found(routed_names(decode_summaries(reply.body), self._tag_prefix))
