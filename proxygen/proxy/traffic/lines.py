"""What one line of nginx's traffic log says.

The line (``log_format proxygen_traffic`` in http.conf.j2) is five fields behind the syslog header::

    <190>Nov 24 03:14:29 proxygen: 1000 http://svc_web_1f3a_stable 200 0.012, 0.001 | 10.0.0.1:80, 10.0.0.2:80

the sample in basis points that nginx took, where the request went, the status, the seconds of each server that was
asked, and the servers, both in nginx's notation; nothing where none was. No field comes from the request, so no request
can forge one. A worker that was started by an older sidecar's configuration does not tell of the servers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from proxygen.tags.shares import WHOLE

_HEADER_END: Final = b": "
_NUMBER: Final = re.compile(rb"[0-9]{1,7}(?:\.[0-9]{1,3})?")
_SEPARATORS: Final = re.compile(rb"[ ,:]+")
_SERVERS: Final = b" | "


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
    server: str = ""
    """The address of the last that was asked; the upstream's name where nginx found none to ask."""


def parse(datagram: bytes) -> Line | None:
    """Return None for what is no line of ours."""
    fields = datagram.partition(_HEADER_END)[2].split(b" ", 3)
    if len(fields) != 4:
        return None
    sample, target, status, rest = fields
    times, _, servers = rest.partition(_SERVERS)
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
        server=servers[servers.rfind(b" ") + 1 :].decode("ascii", "replace"),
    )
