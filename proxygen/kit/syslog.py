"""Lines to a syslog receiver, by datagrams that nobody waits for.

A receiver that is slow, full or gone costs lines, never time: the event loop is what writes the log. TCP can do neither
without a queue and a thread; a receiver on this host has both, and sends on by TCP or TLS.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final, Literal

MAX_MESSAGE: Final = 7_900
"""Bytes. rsyslog cuts at 8 KiB by default, header included, and half of a JSON document is none."""

_DAEMON: Final = 3 << 3
_SEVERITIES: Final = {"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7}
_PATH: Final = re.compile(r"unix:(/[\x21-\x7e]{1,106})")
"""108 bytes are what a unix socket's address holds, the last of them a NUL."""
_UDP: Final = re.compile(r"udp:(?:\[([0-9a-fA-F:]+)\]|([0-9.]+)):([1-9][0-9]{0,4})")

Kind = Literal["unix", "udp"]


def parse_receiver(text: str) -> tuple[Kind, str, int]:
    """Return how, where, and the port (0 for a path). Raise ValueError for what is no receiver's address.

    No host names: asking for one would wait.
    """
    if match := _PATH.fullmatch(text):
        return "unix", match[1], 0
    if (match := _UDP.fullmatch(text)) and int(match[3]) < 65536:
        return "udp", str(ipaddress.ip_address(match[1] or match[2])), int(match[3])
    raise ValueError(f"{text!r} is neither unix:/PATH nor udp:ADDRESS:PORT, such as unix:/dev/log or udp:127.0.0.1:514")


class Syslog:
    """A receiver, and the lines that it did not take."""

    def __init__(self, receiver: str) -> None:
        """Raise ValueError for what is no receiver's address. Nothing is opened yet."""
        self.receiver: Final = receiver
        self.lost = 0
        """Lines since the last one that it took."""
        self._kind, self._place, self._port = parse_receiver(receiver)
        self._host: Final = socket.gethostname() or "-"
        self._socket: socket.socket | None = None
        # The thread that reads traffic has a log too.
        self._lock: Final = threading.Lock()

    def send(self, level: str, text: str) -> str:
        """Hand a line over at once, or drop it. Return why it was dropped; "" where it was not."""
        frame = self._header(level) + text.encode(errors="backslashreplace")
        with self._lock:
            try:
                self._hand_over(frame)
            except OSError as error:
                self.lost += 1
                return error.strerror or str(error)
            self.lost = 0
        return ""

    def _hand_over(self, frame: bytes) -> None:
        try:
            self._open().send(frame)
        except BlockingIOError:
            raise
        except OSError:
            # It was started anew, or what failed was the line before: UDP tells of that with the next one.
            self.close()
            self._open().send(frame)

    def _open(self) -> socket.socket:
        if self._socket is None:
            self._socket = self._connect()
        return self._socket

    def _connect(self) -> socket.socket:
        internet = socket.AF_INET6 if ":" in self._place else socket.AF_INET
        connection = socket.socket(socket.AF_UNIX if self._kind == "unix" else internet, socket.SOCK_DGRAM)
        try:
            connection.setblocking(False)
            connection.connect(self._place if self._kind == "unix" else (self._place, self._port))
        except OSError:
            connection.close()
            raise
        return connection

    def close(self) -> None:
        """Drop the connection; the next line opens another."""
        if self._socket is not None:
            with suppress(OSError):
                self._socket.close()
            self._socket = None

    def _header(self, level: str) -> bytes:
        """RFC 5424 over the network; on a local socket what syslog(3) writes: journald reads nothing else there."""
        priority = _DAEMON + _SEVERITIES.get(level, 5)
        if self._kind == "unix":
            return f"<{priority}>{time.strftime('%b %e %H:%M:%S')} proxygen[{os.getpid()}]: ".encode()
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return f"<{priority}>1 {now} {self._host} proxygen {os.getpid()} - - ".encode()
