"""A network that looks new, and may be one whose data was lost while its hosts lived on.

It cannot be told which. So a host without a subnet waits for longer than any host can still hold one that it does not
see; whoever lives has then come forward, or does not hold any more. `create_network` says that it is new indeed.
"""

from __future__ import annotations

import time

from proxygen.network.records import CONFIG, SETTLED, View
from proxygen.network.session import Terms
from proxygen.network.store import NetworkStore


class Settling:
    """Counts for how long the network has been there without its `SETTLED` key."""

    def __init__(self, store: NetworkStore, *, terms: Terms) -> None:
        self._store = store
        self._terms = terms
        self._since: tuple[int, float] | None = None

    async def is_over(self, view: View) -> bool:
        """Take in a look; tell whether everybody has had the time, and write so where it is not written yet."""
        if view.settled or view.config is None:
            self._since = None
            return view.settled
        now = time.monotonic()
        if self._since is None or self._since[0] != view.config_created:
            self._since = (view.config_created, now)
        if now < self._since[1] + self._terms.settle:
            return False
        await self._store.commit(
            self._store.unchanged(CONFIG, view.config_index), self._store.replace(SETTLED, b"waited", 0)
        )
        return True

    def restart(self) -> None:
        """Count anew: while nobody could look, nobody could come forward either."""
        self._since = None
