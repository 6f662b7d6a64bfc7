"""What a process that runs a registered command is sent."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from proxygen.kit.errors import BadInput
from proxygen.registration.child import Children
from proxygen.registration.entrypoint import Signals
from proxygen.registration.signals import find_signal, name_of, read_signal


@contextmanager
def handled() -> Iterator[Signals]:
    signals = Signals()
    try:
        yield signals
    finally:
        signals.close()


async def test_a_signal_that_comes_before_the_command_waits_for_it() -> None:
    """Unhandled it would end us, and leave a command that nobody stops or deregisters."""
    with handled() as signals, Children() as children:
        os.kill(os.getpid(), signal.SIGUSR1)
        await asyncio.sleep(0.1)
        child = children.start([sys.executable, "-c", "import time; time.sleep(60)"])
        signals.forward(child, group=False)
        assert await asyncio.wait_for(asyncio.shield(child.exited), 30) == 128 + signal.SIGUSR1


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *(("TERM", 15), ("SIGTERM", 15), ("sigquit", 3), (" WINCH ", 28), ("15", 15), ("USR1", 10), ("SIGABRT", 6)),
        *(("SIGRTMIN+3", 37), ("RTMIN+3", 37), ("rtmin", 34), ("RTMAX-1", 63), ("SIGRTMAX", 64), ("37", 37)),
        *((text, None) for text in ("", "SIG", "NOPE", "0", "65", "32", "RTMIN-1", "RTMAX+1", "RTMIN+99", "-9", "٣")),
    ],
)
def test_signals_are_read_as_engines_and_people_write_them(text: str, number: int | None) -> None:
    assert find_signal(text) == number
    if number is not None:
        assert find_signal(name_of(number)) == number


def test_what_is_no_signal_is_refused_with_its_place() -> None:
    with pytest.raises(BadInput, match="--stop-signal 'NOPE' is no signal; write a name such as TERM"):
        read_signal("NOPE", "--stop-signal")


async def test_a_signal_to_stop_is_kept_until_somebody_asks() -> None:
    with handled() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        assert await asyncio.wait_for(signals.stop(), 30) == signal.SIGTERM
