"""How a lease stands, and who hears of it: the log, once for each change, and whoever waits."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Final, assert_never

from proxygen.kit.log import get_logger
from proxygen.network.choice import Standing

_log: Final = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseStatus:
    """How it stands, for the data plane and for people."""

    standing: Standing
    subnet: IPv4Network | None
    """What this host's containers use; whatever the standing is, it stays so while the host lives."""
    reason: str
    """Why it is not held; empty where it is."""
    problems: tuple[str, ...] = ()
    """What is wrong with the network's keys, by the last look at them."""


class News:
    """Tells of one host's lease."""

    def __init__(self, host_id: str) -> None:
        self._host_id = host_id
        self._said: tuple[Standing, str] | None = None
        self._moved = asyncio.Event()

    async def wait(self) -> None:
        """Wait until something may be different."""
        self._moved.clear()
        await self._moved.wait()

    def tell(self, status: LeaseStatus) -> None:
        """Wake who waits, and log it where standing or reason differ from what was logged last."""
        self._moved.set()
        if (status.standing, status.reason) == self._said:
            return
        self._said = (status.standing, status.reason)
        facts = {"host": self._host_id, "subnet": None if status.subnet is None else str(status.subnet)}
        match status.standing:
            case Standing.HELD:
                _log.info("lease held", **facts)
            case Standing.CONFLICT:
                _log.error("lease in conflict", **facts, reason=status.reason)
            case Standing.WAITING:
                _log.warning("lease waiting", **facts, reason=status.reason)
            case Standing.UNCONFIRMED:
                _log.warning("lease unconfirmed", **facts, reason=status.reason)
            case Standing.EXPIRED:
                _log.warning("lease expired", **facts, reason=status.reason)
            case _:
                assert_never(status.standing)
