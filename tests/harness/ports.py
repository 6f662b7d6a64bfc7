"""Ports on loopback that no other test process takes meanwhile."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from typing import Final

_FIRST: Final = 10_000
_LAST: Final = 32_700
"""Below 32768, where Linux begins to hand out ports to clients: a connection made meanwhile cannot take one."""
_BLOCK: Final = 50


def _ports() -> Iterator[int]:
    claims: list[socket.socket] = []
    blocks = list(range(_FIRST, _LAST, _BLOCK))
    random.shuffle(blocks)
    for block in blocks:
        claim = socket.socket(socket.AF_UNIX)
        try:
            # An abstract socket belongs to one process and vanishes with it, however it ends.
            claim.bind(f"\0proxygen-test-ports-{block}")
        except OSError:
            claim.close()
            continue
        claims.append(claim)
        yield from (port for port in range(block, block + _BLOCK) if _is_free(port))
    raise RuntimeError("no free block of ports; other test processes hold them all")


def _is_free(port: int) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                return False
    return True


_NEXT: Final = _ports()


def free_port() -> int:
    """Return a port that is free for TCP and UDP and that this call never returns twice in one process."""
    return next(_NEXT)


def free_ports(count: int) -> tuple[int, ...]:
    return tuple(free_port() for _ in range(count))
