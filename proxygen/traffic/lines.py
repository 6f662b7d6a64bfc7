"""What one line of nginx's traffic log says.

The line (``log_format proxygen_traffic`` in http.conf.j2) is four fields behind the syslog header::

    <190>Nov 24 03:14:29 proxygen: 1000 http://svc_web_1f3a_stable 200 0.012, 0.001

the sample in basis points that nginx took, where the request went, the status, and the seconds of each server that was
asked, in nginx's notation; nothing where none was. No field comes from the request, so no request can forge one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from proxygen.shares import WHOLE

_HEADER_END: Final = b": "
_NUMBER: Final = re.compile(rb"[0-9]{1,7}(?:\.[0-9]{1,3})?")
_SEPARATORS: Final = re.compile(rb"[ ,:]+")


@dataclass(frozen=True, slots=True)
class Line:
    """One request, or several that were alike."""

    weight: float
    """Requests that it stands for: 10 where nginx tells of each tenth."""
    target: str
    """An upstream's name, or a service's where its routes answer 503."""
    status: int
    asked: int
    """Servers that were asked, one after the other."""
    seconds: float
    """What all of them took together."""


def parse(datagram: bytes) -> Line | None:
    """Return None for what is no line of ours."""
    fields = datagram.partition(_HEADER_END)[2].split(b" ", 3)
    if len(fields) != 4:
        return None
    sample, target, status, times = fields
    if not (sample.isdigit() and status.isdigit() and 0 < len(target) <= 256 and len(status) == 3):
        return None
    part = int(sample[:6])
    if not 0 < part <= WHOLE:
        return None
    attempts = [item for item in _SEPARATORS.split(times) if item]
    if not all(item == b"-" or _NUMBER.fullmatch(item) for item in attempts):
        return None
    return Line(
        weight=WHOLE / part,
        # What stands before the last slash is the scheme.
        target=target.rpartition(b"/")[2].decode("ascii", "replace"),
        status=int(status),
        asked=len(attempts),
        seconds=sum(float(item) for item in attempts if item != b"-"),
    )
