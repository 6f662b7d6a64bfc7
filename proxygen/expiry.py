"""Certificates that expire soon: told once a day, and whenever the operator's certificates change."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Final

from proxygen.log import get_logger
from proxygen.operator_files import Certificates
from proxygen.plan.types import Certificate
from proxygen.units import format_duration

_log = get_logger(__name__)

_DAY: Final = 24 * 3600.0
_HOUR: Final = 3600


def expiring(certificates: Iterable[Certificate], now: float, within: float) -> tuple[str, ...]:
    """One line for each certificate that has expired, or expires in ``within`` seconds from ``now`` (Unix time)."""
    soon = sorted((each.expires, each.name) for each in certificates if each.expires < now + within)
    return tuple(f"certificate {name} {_when(expires, now)}" for expires, name in soon)


def _when(expires: float, now: float) -> str:
    at = datetime.fromtimestamp(expires, UTC).isoformat()
    if expires <= now:
        return f"expired at {at}; it is served until there is another one"
    hours = int(expires - now) // _HOUR
    return f"expires at {at}, in {format_duration(max(1, hours) * _HOUR * 1000)}"


class CertificateWatch:
    """Tells of them in the log, and asks for the files to be read again when a pair that is gone is given up."""

    def __init__(self, within: float, read_again: Callable[[], None]) -> None:
        self._within: Final = within
        self._read_again: Final = read_again
        self._certificates: Certificates | None = None
        self._timers: list[asyncio.TimerHandle] = []

    def note(self, certificates: Certificates) -> None:
        """Take note of the certificates that are in use."""
        if certificates is self._certificates:
            return
        self._certificates = certificates
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        if certificates.look_again is not None:
            loop = asyncio.get_running_loop()
            self._timers.append(loop.call_later(certificates.look_again + 0.1, self._read_again))
        if certificates.usable:
            self._tell()

    def _tell(self) -> None:
        assert self._certificates is not None
        for line in expiring(self._certificates.usable, time.time(), self._within):
            _log.warning("certificate expires", reason=line)
        self._timers.append(asyncio.get_running_loop().call_later(_DAY, self._tell))
