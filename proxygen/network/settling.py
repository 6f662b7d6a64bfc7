"""A network that looks new, and may be one whose data was lost while its hosts lived on.

It cannot be told which. So a host without a subnet waits until whoever lives has come forward. `create_network` says
that a network is new indeed.
"""

from __future__ import annotations

import time

from proxygen.network.choice import Visibility
from proxygen.network.records import CONFIG, SETTLED, View
from proxygen.network.session import Terms
from proxygen.network.store import NetworkStore


class Settling:
    """Counts for how long the network has been there without its `SETTLED` key."""

    def __init__(self, store: NetworkStore, *, terms: Terms) -> None:
        self._store = store
        self._terms = terms
        self._since: tuple[int, float] | None = None

    async def look(self, view: View) -> Visibility:
        """Take in a look; tell how calm it is, and write that the network is settled once it is."""
        if view.settled or view.config is None:
            self._since = None
            return Visibility.SETTLED if view.settled else Visibility.UNKNOWN
        now = time.monotonic()
        if self._since is None or self._since[0] != view.config_created:
            self._since = (view.config_created, now)
        waited = now - self._since[1]
        if waited < self._terms.settle:
            return Visibility.LAPSED if waited >= self._terms.lapse else Visibility.UNKNOWN
        await self._store.commit(
            self._store.unchanged(CONFIG, view.config_index), self._store.replace(SETTLED, b"waited", 0)
        )
        return Visibility.SETTLED

    def restart(self) -> None:
        """Count anew: while nobody could look, nobody could come forward either."""
        self._since = None
