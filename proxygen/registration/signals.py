"""Signals by name and number, as engines and people write them, and which of them a process can pass on."""

from __future__ import annotations

import re
import signal
from typing import Final

from proxygen.kit.errors import BadInput, quoted

STOPPING: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT})
"""Those that ask any program to end."""

PASSED_ON: Final = frozenset(map(int, signal.valid_signals())) - {
    # Nobody can handle the first two; the third is about our own children.
    *(signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD),
    # The kernel sends these for a fault of the program that gets them.
    *(signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS, signal.SIGPIPE),
}
"""What may be meant for another program, real-time signals too."""

_REAL_TIME: Final = re.compile(r"RT(MIN|MAX)(?:([+-])([0-9]{1,2}))?")


def is_ignored(number: int) -> bool:
    """Whether our parent has us ignore a signal, as ``nohup`` does; what we start ignores it then, too."""
    # That one Python ignores by itself, and gives it back to what it starts.
    return number != signal.SIGXFSZ and signal.getsignal(number) is signal.SIG_IGN


def read_signal(text: str, where: str) -> int:
    """Read a number, or a name with or without SIG, in any case; ``RTMIN+3`` as systemd and Docker write it. Raise
    BadInput, which names ``where``."""
    number = find_signal(text)
    if number is None:
        raise BadInput(f"{where} {quoted(text)} is no signal; write a name such as TERM, USR1 or RTMIN+3, or a number")
    return number


def find_signal(text: str) -> int | None:
    """Like `read_signal`; None for what is no signal."""
    name = text.strip().upper().removeprefix("SIG")
    found: int | None = None
    if name.isascii() and name.isdecimal():
        found = int(name[:4])
    elif match := _REAL_TIME.fullmatch(name):
        base = signal.SIGRTMIN if match[1] == "MIN" else signal.SIGRTMAX
        found = base + int(f"{match[2] or '+'}{match[3] or 0}")
    elif f"SIG{name}" in signal.Signals.__members__:
        found = signal.Signals[f"SIG{name}"]
    return int(found) if found is not None and found in signal.valid_signals() else None


def name_of(number: int) -> str:
    """A signal's name, as `read_signal` reads it; of real-time ones by the distance from the first."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"
