"""An announced address that is looked up again while it is announced: what replaces it is announced instead.

An address that is only gone stays announced: an interface that is down for a moment, an engine that restarts, is no
reason to send proxies elsewhere. So what the choice fell on at the start has precedence: another interface counts only
where that one has no address, and by default only with an address that came after the start. A bridge of an engine,
which was there all along, is never taken for the host's new address.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import NoReturn

from proxygen.kit.errors import BadInput
from proxygen.registration.address import (
    InterfaceAddress,
    IPAddress,
    candidates,
    choose_address,
    interfaces,
    is_of_kernel,
    is_reachable,
    is_written_out,
    route_to,
    steady,
)
from proxygen.registration.journal import get_journal


def successor(
    found: Sequence[InterfaceAddress], before: str, *, start: AbstractSet[InterfaceAddress], home: AbstractSet[str]
) -> IPAddress | None:
    """What is announced where ``before`` was: itself where it may be; None where nothing may.

    ``found`` are this machine's that may be announced, the best first; ``start`` those of it that count only on the
    interfaces of the first choice, ``home``.
    """
    at_home = [item.address for item in found if item.name in home]
    elsewhere = [item.address for item in found if item.name not in home and item not in start]
    for addresses in (at_home, elsewhere):
        if addresses:
            return next((address for address in addresses if str(address) == before), addresses[0])
    return None


class FollowedAddress:
    """The address that `choose_address` found, kept as it is now. Making one and `look` block as that does."""

    def __init__(self, text: str | None, *, consul: str | None) -> None:
        """Raise BadInput when this machine has no such address."""
        self._text = text
        self._consul = consul
        self._start = frozenset(interfaces())
        self._missed = False
        self._log = get_journal(__name__)
        self.current = choose_address(text, consul=consul)
        """What is announced."""
        self._home = {item.name for item in self._start if str(item.address) == self.current}

    async def follow(self, every: float, moved: Callable[[str], None]) -> NoReturn:
        """Look every so many seconds, and tell each change, until cancelled."""
        while not is_written_out(self._text):
            await asyncio.sleep(every)
            if await asyncio.to_thread(self.look):
                moved(self.current)
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")

    def look(self) -> bool:
        """Tell whether it has changed. Where there is none now the last one stays, which is logged once."""
        before = self.current
        try:
            self.current = self._now()
        except Exception as error:
            # Whatever an engine or a resolver does, an address that may be right is announced on.
            self._miss(error)
            return False
        if self.current != before:
            self._log.info("address changed", before=before, after=self.current)
        elif self._missed:
            self._log.info("address is back", address=before)
        self._missed = False
        return self.current != before

    def _miss(self, error: Exception) -> None:
        if not self._missed:
            self._log.warning("no address now, the last one stays announced", address=self.current, reason=str(error))
        self._missed = True

    def _now(self) -> str:
        if not is_of_kernel(self._text):
            return choose_address(self._text, consul=self._consul)
        route = route_to(self._consul) if self._text is None and self._consul is not None else None
        found = interfaces()
        if route is not None and is_reachable(route):
            return str(steady(route, found))
        # A network that is written says of each of its addresses that it will do.
        start = self._start if self._text is None else frozenset()
        address = successor(candidates(self._text, found), self.current, start=start, home=self._home)
        if address is None:
            known = ", ".join(f"{item.name} {item.address}" for item in found)
            raise BadInput(f"this machine has {known or 'no address at all'}")
        return str(address)
