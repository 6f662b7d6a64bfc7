"""A command that is registered while it runs: what `proxygen register … -- COMMAND` does, as PID 1 or anywhere."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from proxygen.catalog import Health
from proxygen.kit.errors import CommandNotReady, ProxygenError
from proxygen.kit.log import get_logger
from proxygen.registration.application import Registration
from proxygen.registration.child import Child, Children
from proxygen.registration.probe import Probe
from proxygen.registration.signals import PASSED_ON, STOPPING, is_ignored, name_of

_LOG = get_logger(__name__)

_ASK_AGAIN: Final = 0.1
_GROUP_LOOK: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildCommand:
    """What is run, and how it is ended."""

    argv: tuple[str, ...]
    start_timeout: float
    """Seconds to become ready; 0 waits for ever."""
    grace: float
    """Seconds between the signal that asks it to end and SIGKILL."""
    signals_group: bool
    """Send signals to everything in the command's group instead of the command alone."""
    stop_signal: int = signal.SIGTERM
    """Asks the command to end; from others it asks us."""


class Signals:
    """What this process is sent: stops are kept for `stop`, everything else goes on to the command.

    Make it before the command is started: a signal that nobody handles ends us and leaves the command alone.
    """

    def __init__(self, stop_signal: int = signal.SIGTERM) -> None:
        self._stops: asyncio.Queue[int] = asyncio.Queue()
        self._early: list[int] = []
        self._loop = asyncio.get_running_loop()
        self._stopping = STOPPING | {stop_signal}
        self._passed_on = {number for number in PASSED_ON - self._stopping if not is_ignored(number)}
        for number in self._stopping:
            self._loop.add_signal_handler(number, self._stops.put_nowait, number)
        for number in self._passed_on:
            self._loop.add_signal_handler(number, self._early.append, number)
        # What our parent blocked would come neither to us nor to the command.
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def forward(self, child: Child, *, group: bool) -> None:
        """Send the command what came meanwhile, and what comes from now on."""
        send = child.send_group if group else child.send
        for number in self._passed_on:
            self._loop.add_signal_handler(number, send, number)
        for number in self._early:
            send(number)

    async def stop(self) -> int:
        """Wait for the next signal that asks us to end."""
        return await self._stops.get()

    def close(self) -> None:
        """Give all signals back to Python's defaults."""
        for number in self._stopping | self._passed_on:
            self._loop.remove_signal_handler(number)


async def run_registered(
    registration: Registration, command: ChildCommand, children: Children, ready: Sequence[Probe]
) -> int:
    """Run a command, registered from when it is ready to when it ends, and return its exit code.

    Raise CannotStart, CommandNotReady, and BadInput for what cannot be announced; the command has ended by then.
    """
    signals = Signals(command.stop_signal)
    try:
        child = children.start(command.argv)
        signals.forward(child, group=command.signals_group)
        return await _Run(registration, command, child, signals).go(ready)
    finally:
        signals.close()


class _Run:
    """One run of a command, from its start to its end."""

    def __init__(self, registration: Registration, command: ChildCommand, child: Child, signals: Signals) -> None:
        self._registration = registration
        self._command = command
        self._child = child
        self._signals = signals

    async def go(self, ready: Sequence[Probe]) -> int:
        try:
            stop = await self._stop_or_end(ready)
            if stop is not None:
                _LOG.info("stopping", signal=name_of(stop), command=self._command.argv[0])
                await self._until_stop_or_end(self._registration.withdraw())
                await self._end(stop)
            code = await self._child.exited
            _LOG.info("the command ended", command=self._command.argv[0], code=code)
            return code
        except ProxygenError:
            await self._end(signal.SIGTERM)
            raise
        finally:
            self._child.send_group(signal.SIGKILL)
            await self._registration.deregister()

    async def _stop_or_end(self, ready: Sequence[Probe]) -> int | None:
        """Register, and wait for a signal to stop; None where the command ended by itself."""
        starting = asyncio.create_task(self._register(ready), name="registration of the command")
        stop = asyncio.create_task(self._signals.stop(), name="signal to stop")
        waited: set[asyncio.Future[Any]] = {starting, stop, self._child.exited}
        try:
            while not stop.done() and not self._child.exited.done():
                done, waited = await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
                if starting in done:
                    starting.result()
            return stop.result() if stop.done() else None
        finally:
            for unfinished in (starting, stop):
                unfinished.cancel()
            await asyncio.wait({starting, stop})

    async def _register(self, ready: Sequence[Probe]) -> None:
        patience = self._command.start_timeout
        try:
            async with asyncio.timeout(patience or None):
                for probe in ready:
                    await _until_up(probe)
        except TimeoutError:
            raise CommandNotReady(f"{self._command.argv[0]} did not become ready within {patience:g}s") from None
        await self._registration.start()

    async def _end(self, how: int) -> None:
        """Ask the command to end, wait, and end what is left of it and its group. A second signal ends the wait."""
        # Who stops any container by SIGTERM means what stops this one.
        self._send(self._command.stop_signal if how == signal.SIGTERM else how)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._command.grace):
                await self._until_stop_or_end(asyncio.sleep(self._command.grace))
                if self._child.exited.done():
                    await self._end_orphans()
        if self._child.group_lives():
            _LOG.warning("the command is killed", command=self._command.argv[0])
            self._child.send_group(signal.SIGKILL)

    async def _end_orphans(self) -> None:
        # A shell that was the command is gone, and what it had started was told nothing.
        self._child.send_group(signal.SIGTERM)
        while True:
            if not self._child.group_lives():
                return
            await asyncio.sleep(_GROUP_LOOK)

    def _send(self, number: int) -> None:
        # Ctrl-C is for everything in the foreground, and a shell that waits for its command counts on that.
        if self._command.signals_group or number is signal.SIGINT:
            self._child.send_group(number)
        else:
            self._child.send(number)

    async def _until_stop_or_end(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something until it is done, another signal to stop comes, or the command has ended."""
        task = asyncio.create_task(work)
        stop = asyncio.create_task(self._signals.stop())
        waited: set[asyncio.Future[Any]] = {task, stop, self._child.exited}
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        for unfinished in (task, stop):
            unfinished.cancel()
        await asyncio.wait({task, stop})


async def _until_up(probe: Probe) -> None:
    while True:
        if await _is_up(probe):
            return
        await asyncio.sleep(_ASK_AGAIN)


async def _is_up(probe: Probe) -> bool:
    try:
        return await probe() is not Health.CRITICAL
    except Exception:
        return False
