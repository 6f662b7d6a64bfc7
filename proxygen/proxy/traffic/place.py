"""Where nginx and the sidecar meet: the socket, and the mark beside it that says whether anybody listens.

nginx writes an alert into its error log for every line that it cannot send, so it must not try while no sidecar is
there. It looks at the mark, at each request: a link to the sidecar's own process in ``/proc``, which ends with it,
however it ends. Where nginx cannot see the sidecar's process the mark is a file, which a sidecar that is killed leaves
behind.
"""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from proxygen.settings import Settings

SOCKET_NAME: Final = "traffic.sock"

_SPEAKABLE: Final = re.compile(r"/[A-Za-z0-9._/-]{1,95}")
"""What nginx takes in ``syslog:server=unix:…``: no comma, nothing to quote, and short enough for sun_path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Both sides' names for it."""

    socket: Path
    through_proc: bool
    """Whether nginx sees the sidecar's process."""

    @property
    def mark(self) -> Path:
        """The file that says that a sidecar listens on the socket."""
        return self.socket.with_name(f"{self.socket.name}.live")

    @property
    def is_speakable(self) -> bool:
        """Whether nginx can read its path in a directive."""
        return _SPEAKABLE.fullmatch(str(self.socket)) is not None


def place_of(settings: Settings) -> Place | None:
    """Return None where traffic is not to be told."""
    if not settings.traffic.sample:
        return None
    socket = Path(os.path.abspath(settings.traffic.socket or settings.output.directory / SOCKET_NAME))
    return Place(socket=socket, through_proc=settings.nginx.reload == "signal")


def obstacle(place: Place, *, worker: str | None, logs: Sequence[str]) -> str:
    """Say why nginx cannot tell of its traffic; "" where it can.

    ``worker`` is the user whom nginx.conf names for its workers, ``logs`` where its http block logs to.
    """
    if not place.is_speakable:
        return (
            f"nginx cannot write its log to {place.socket}: set traffic.socket to a plain path of at most 96 characters"
        )
    if "off" in logs:
        return "access_log off in http silences every log beside it: write access_log /dev/null combined if=0; instead"
    # Where workers could not even look for the mark, nginx would say so in its error log at each request.
    closed = closed_to(worker, place.socket.parent) if os.geteuid() == 0 else None
    if closed is not None:
        return f"nginx's workers ({worker or 'nobody'}) cannot pass {closed}: let them, or set traffic.socket"
    return ""


def closed_to(user: str | None, directory: Path) -> Path | None:
    """The first directory on the way that a user may not pass; one that does not exist yet is made for all."""
    try:
        entry = pwd.getpwnam(user or "nobody")
    except KeyError:
        uid, groups = -1, frozenset[int]()
    else:
        uid, groups = entry.pw_uid, frozenset(os.getgrouplist(entry.pw_name, entry.pw_gid))
    if uid == 0:
        return None
    for step in (*reversed(directory.parents), directory):
        try:
            status = step.stat()
        except OSError:
            return None
        shift = 6 if status.st_uid == uid else 3 if status.st_gid in groups else 0
        if not status.st_mode >> shift & 1:
            return step
    return None
