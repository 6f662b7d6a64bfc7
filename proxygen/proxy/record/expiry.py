"""Certificates that expire soon."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Final

from proxygen.kit.units import format_duration
from proxygen.proxy.plan.types import Certificate
from proxygen.proxy.policy.operator_files import Certificates
from proxygen.proxy.record.events import Condition

_DAY: Final = 24 * 3600
_HOUR: Final = 3600


def expiring(certificates: Iterable[Certificate], now: float, within: float) -> Mapping[str, Condition]:
    """Tell of each certificate that has expired, or expires in ``within`` seconds from ``now`` (Unix time): once a day,
    and when it is another one."""
    known = labelled(certificates)
    soon = sorted((each.expires, label) for label, each in known.items() if each.expires < now + within)
    return {name: _condition(name, expires, now) for expires, name in soon}


def labelled(certificates: Iterable[Certificate]) -> Mapping[str, Certificate]:
    """Return certificates by what each is called: by its name, where that is no other's name or file, else by its
    file. NAME.crt may lie beside NAME.pem."""
    ones = tuple(certificates)
    names, files = Counter(each.name for each in ones), {each.file for each in ones}
    return {each.name if names[each.name] == 1 and each.name not in files else each.file: each for each in ones}


def _condition(name: str, expires: float, now: float) -> Condition:
    return Condition(
        text=f"certificate {name} {_when(expires, now)}",
        end=f"certificate {name} was renewed, or is gone",
        cause=f"{expires}, {(expires - now) // _DAY} days",
    )


def _when(expires: float, now: float) -> str:
    at = datetime.fromtimestamp(expires, UTC).isoformat()
    if expires <= now:
        return f"expired at {at}; it is served until there is another one"
    hours = int(expires - now) // _HOUR
    return f"expires at {at}, in {format_duration(max(1, hours) * _HOUR * 1000)}"


class CertificateWatch:
    """Asks for the operator's certificates to be read again when a pair that is gone is given up."""

    def __init__(self, read_again: Callable[[], None]) -> None:
        self._read_again: Final = read_again
        self._certificates: Certificates | None = None
        self._timer: asyncio.TimerHandle | None = None

    def note(self, certificates: Certificates) -> None:
        """Take note of the certificates that are in use."""
        if certificates is self._certificates:
            return
        self._certificates = certificates
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if certificates.look_again is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(certificates.look_again + 0.1, self._read_again)
