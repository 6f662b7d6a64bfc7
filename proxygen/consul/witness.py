"""Hearing at once that a whole part of KV is gone.

A question about a prefix is not answered when a prefix *above* it is deleted (``consul kv delete -recurse proxygen``)
and a key below it was deleted in the last 15 minutes: Consul then counts by that key's tombstone, whose index is lower
than the one that is waited for (1.8.7 and 1.14.0, seen; state/kvs.go). The answer comes when the whole wait is over,
with an index that went backwards. A question about a single key has no such gap: it is answered at once, with 404.
What deletes from above deletes every key, so one that is there bears witness for all of them.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from proxygen.kit.errors import CatalogUnavailable

if TYPE_CHECKING:
    from proxygen.consul.client import Consistency, ConsulClient

_FEWEST_SOCKETS: Final = 8
"""Where there are fewer, the questions need them, and the loss is noticed after ``consul.wait``."""


def is_affordable(client: ConsulClient) -> bool:
    """Tell whether there is a socket for a witness."""
    return client.settings.max_connections >= _FEWEST_SOCKETS


async def loss_of(client: ConsulClient, key: str, *, index: int, consistency: Consistency) -> None:
    """Return once a key that was there at the index is gone. What else becomes of it is left to the prefix."""
    try:
        reply = await client.read(f"/v1/kv/{key}", index=index, consistency=consistency)
    except CatalogUnavailable:
        reply = None
    if reply is None or reply.status != 404:
        await asyncio.Event().wait()
