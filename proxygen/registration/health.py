"""Asking an application how it is, without ever waiting for it for long."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeVar

from proxygen.registration.checks import HealthCallable, HealthVerdict, Status

T = TypeVar("T")

_LONGEST_NOTE: Final = 200


@dataclass(frozen=True, slots=True)
class TtlReport:
    """What Consul is told of a TTL check.

    The note of what is well never changes: Consul sends a changed note to its servers, which wakes every watcher.
    """

    status: Status
    note: str


ALIVE: Final = TtlReport("passing", "")


class HealthProbe:
    """An application's health callable, asked again and again. One that hangs is critical, and is not asked twice."""

    def __init__(self, call: HealthCallable, *, deadline: float) -> None:
        self._call = call
        self._deadline = deadline
        self._pending: asyncio.Task[HealthVerdict] | None = None

    async def ask(self) -> TtlReport:
        """Ask the application. An answer that is late is critical, and is waited for by the next question."""
        if self._pending is None:
            self._pending = asyncio.create_task(_answer(self._call), name="health of the application")
        await asyncio.wait({self._pending}, timeout=self._deadline)
        if not self._pending.done():
            return TtlReport("critical", "the health callable does not answer")
        answered, self._pending = self._pending, None
        return _report(answered)

    def close(self) -> None:
        """Cancel a question that is not answered yet."""
        if self._pending is not None:
            self._pending.cancel()


async def _answer(call: HealthCallable) -> HealthVerdict:
    verdict = call() if inspect.iscoroutinefunction(call) else await in_daemon_thread(call)
    return await verdict if inspect.isawaitable(verdict) else verdict


def _report(answered: asyncio.Task[HealthVerdict]) -> TtlReport:
    if answered.cancelled():
        return TtlReport("critical", "the health callable was cancelled")
    error = answered.exception()
    if error is not None:
        return TtlReport("critical", f"{type(error).__name__}: {error}"[:_LONGEST_NOTE])
    match answered.result():
        case None | True | "passing":
            return ALIVE
        case False | "critical":
            return TtlReport("critical", "the application says so")
        case "warning":
            return TtlReport("warning", "the application says so")
        case other:
            return TtlReport("critical", f"the health callable returned {other!r}"[:_LONGEST_NOTE])


async def in_daemon_thread(call: Callable[[], T]) -> T:
    """Run a blocking call without blocking the loop, nor its end: an executor's threads are waited for at exit."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is None:
            done.set_result(result)  # type: ignore[arg-type]
        else:
            done.set_exception(error)

    def run() -> None:
        try:
            outcome: tuple[T | None, BaseException | None] = (call(), None)
        except Exception as error:
            outcome = (None, error)
        # The loop may be over before the call is.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=run, name="health of the application", daemon=True).start()
    return await done
