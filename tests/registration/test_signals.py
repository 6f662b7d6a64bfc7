"""What a process that runs a registered command is sent."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from proxygen.registration.child import Children
from proxygen.registration.entrypoint import Signals


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


async def test_a_signal_to_stop_is_kept_until_somebody_asks() -> None:
    with handled() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        assert await asyncio.wait_for(signals.stop(), 30) is signal.SIGTERM
