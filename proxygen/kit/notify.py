"""Telling systemd how a command that stays is: sd_notify(3), one datagram for each word.

Nobody hears it where no service manager asked to (``Type=notify``), and nothing here fails then.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Coroutine, MutableMapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

_LOOK: Final = 1.0
"""Seconds between two looks at how the command is."""
_FIRST_LOOKS: Final = 0.1
"""The same while it starts or reloads, and somebody waits for it."""
_ROOM: Final = 400
"""Characters of a status; what is longer belongs into the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandState:
    """How a command is at one moment."""

    is_ready: bool
    """Whether it does its job, or has found out why it cannot yet: what waits for it may go on."""
    text: str
    """One line for ``systemctl status``; it may quote what is hostile."""
    is_well: bool = True
    """Whether its work moves. Where it does not, a restart is what helps."""


class Notifier:
    """The way to the service manager."""

    def __init__(self, address: str = "", *, watchdog: float | None = None) -> None:
        """``address`` as in NOTIFY_SOCKET; others than a unix socket's stand for nobody."""
        # The abstract namespace is written with an @ and begins with a zero byte.
        self._path: Final = f"\0{address[1:]}" if address.startswith("@") else address
        self.is_heard: Final = address.startswith(("/", "@"))
        self.watchdog: Final = watchdog
        """Seconds of silence after which the service manager kills us; None where it does not."""
        self.is_ready = False
        """Whether that is what it was told last."""

    @classmethod
    def adopt(cls, environment: MutableMapping[str, str] = os.environ) -> Notifier:
        """Take the manager's variables out of the environment: programs that we start are not the service."""
        address = environment.pop("NOTIFY_SOCKET", "")
        period, pid = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        is_ours = pid in {"", str(os.getpid())}
        watchdog = int(period) / 1e6 if period.isdecimal() and int(period) and is_ours else None
        return cls(address, watchdog=watchdog)

    def ready(self) -> None:
        """Tell systemd that the start, or a reload, is over."""
        self.is_ready = self._send("READY=1")

    def reloading(self) -> None:
        """Tell systemd that a reload began; it waits for `ready`."""
        self.is_ready = False
        # The moment lets Type=notify-reload tell this reload from one that it asked for later.
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Tell systemd that the stop is wanted, so that it does not count as a crash."""
        self._send("STOPPING=1\nSTATUS=stopping")

    def status(self, text: str) -> bool:
        """Set the text of ``systemctl status``; return whether it was sent."""
        return self._send(f"STATUS={_one_line(text)}")

    def beat(self) -> None:
        """Say that we live."""
        self._send("WATCHDOG=1")

    def _send(self, words: str) -> bool:
        """Return whether it got through. A manager that does not read must not stop us."""
        if not self.is_heard:
            return False
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        try:
            with socket.socket(socket.AF_UNIX, kind) as channel:
                channel.sendto(words.encode("utf-8", "replace"), self._path)
        except (OSError, ValueError):
            return False
        return True


def _one_line(text: str) -> str:
    """A line break would begin a word of its own, such as READY=1."""
    printable = "".join(letter if letter.isprintable() else " " for letter in text)
    return printable if len(printable) <= _ROOM else printable[: _ROOM - 1] + "…"


async def keep_telling(notifier: Notifier, look: Callable[[], CommandState]) -> NoReturn:
    """Tell how we are until cancelled: from the event loop, so that nothing is told when that no longer turns."""
    if not notifier.is_heard:
        await asyncio.Event().wait()
    said, beat_due = "", 0.0
    while True:
        condition = _look(look)
        if condition.text != said and notifier.status(condition.text):
            said = condition.text
        if condition.is_ready and not notifier.is_ready:
            notifier.ready()
        if notifier.watchdog is not None and condition.is_well and time.monotonic() >= beat_due:
            notifier.beat()
            beat_due = time.monotonic() + notifier.watchdog / 2
        await asyncio.sleep(_pause(notifier))


async def work_until(
    stop: asyncio.Event, work: Coroutine[Any, Any, NoReturn], notifier: Notifier, look: Callable[[], CommandState]
) -> None:
    """Do this work, and tell how it is, until ``stop`` is set. Raise what ends it earlier."""
    working = asyncio.create_task(work, name="work of the command")
    stopped = asyncio.create_task(stop.wait(), name="signal to stop")
    telling = asyncio.create_task(keep_telling(notifier, look), name="word to systemd")
    await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    telling.cancel()
    if working.done():
        working.result()
    notifier.stopping()
    working.cancel()
    await asyncio.wait({working})


def _pause(notifier: Notifier) -> float:
    wanted = _LOOK if notifier.is_ready else _FIRST_LOOKS
    # A beat that is due just after a look must still come in time.
    return wanted if notifier.watchdog is None else min(wanted, notifier.watchdog / 8)


def _look(look: Callable[[], CommandState]) -> CommandState:
    try:
        return look()
    except Exception as error:
        # Who tells must not be what ends the work.
        return CommandState(is_ready=True, text=f"state unknown: {type(error).__name__}: {error}")
