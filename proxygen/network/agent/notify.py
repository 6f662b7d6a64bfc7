"""Telling systemd how far the agent is. The protocol is one datagram (sd_notify(3)), which needs no library."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Final

READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"


def notify_systemd(state: str) -> None:
    """Send a state where a service manager wants to hear it (``Type=notify``); do nothing elsewhere."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    # The abstract namespace is written with an @ and begins with a zero byte.
    path = f"\0{address[1:]}" if address.startswith("@") else address
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.sendto(state.encode(), path)
