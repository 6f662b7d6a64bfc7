"""Small asyncio parts without domain words: one slot for the newest value, pace, back-off, races, named tasks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, Generic, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_never, wait_random_exponential

T = TypeVar("T")


class Latest(Generic[T]):
    """One slot that holds the newest value: writers overwrite, one reader takes."""

    def __init__(self) -> None:
        self._box: tuple[T] | None = None
        self._fresh = asyncio.Event()
        self._first_put = 0.0
        self._last_put = 0.0
        self.taken_since = 0.0
        """The monotonic time at which the oldest value was put that the newest taken one stands for."""

    def put(self, value: T) -> None:
        """Replace the value, taken or not."""
        self._last_put = time.monotonic()
        if not self._fresh.is_set():
            self._first_put = self._last_put
        self._box = (value,)
        self._fresh.set()

    def peek(self) -> T | None:
        """Return the newest value without taking it; None before the first."""
        return None if self._box is None else self._box[0]

    async def take(self) -> T:
        """Wait for a value newer than the last one taken and return the newest."""
        return await self.settled(0.0, 0.0)

    async def settled(self, settle: float, longest: float) -> T:
        """Like `take`, but first let ``settle`` quiet seconds pass since the newest value.

        A flood cannot put it off for more than ``longest`` seconds after the first value not yet taken.
        """
        while True:
            await self._fresh.wait()
            pause = min(self._last_put + settle, self._first_put + longest) - time.monotonic()
            if pause <= 0 and self._box is not None:
                self._fresh.clear()
                self.taken_since = self._first_put
                return self._box[0]
            await asyncio.sleep(pause)

    async def stays(self, settle: float) -> bool:
        """Wait until ``settle`` seconds have passed since the newest value. Return whether it is the one taken last."""
        while not self._fresh.is_set():
            pause = self._last_put + settle - time.monotonic()
            if pause <= 0:
                return True
            with suppress(TimeoutError):
                await asyncio.wait_for(self._fresh.wait(), pause)
        return False


class Alarm:
    """Calls back once, in so many seconds: those that were given last."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring: Final = ring
        self._handle: asyncio.TimerHandle | None = None

    def set(self, seconds: float | None) -> None:
        """None: do not call back."""
        if self._handle is not None:
            self._handle.cancel()
        self._handle = None if seconds is None else asyncio.get_running_loop().call_later(seconds, self._ring)


class Pace:
    """A token bucket: ``burst`` steps at once, then ``rate`` steps a second."""

    def __init__(self, *, burst: float, rate: float) -> None:
        self._burst = burst
        self._rate = rate
        self._tokens = burst
        self._filled = time.monotonic()

    async def step(self) -> None:
        """Return at once while there are tokens, else when the next one drips in."""
        self._fill()
        self._tokens -= 1
        if self._tokens < 0:
            await asyncio.sleep(-self._tokens / self._rate)

    def try_step(self) -> bool:
        """Take a token where there is one, and tell whether there was."""
        self._fill()
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _fill(self) -> None:
        now = time.monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._filled) * self._rate)
        self._filled = now


def retrying(
    *errors: type[Exception],
    longest: float,
    first: float = 0.25,
    at_least: Callable[[BaseException], float] = lambda error: 0.0,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AsyncRetrying:
    """Return a caller that tries until it succeeds, with exponential pauses and full jitter.

    ``await retrying(OSError, longest=30)(attempt)``. There is no limit on tries: who gives up is the task's owner, by
    cancelling. Build one for each use; tenacity keeps the state of a run in the object. ``at_least`` is the floor of
    the pause after an error, for peers that say how long to stay away.
    """
    exponential = wait_random_exponential(multiplier=first, max=longest)

    def pause(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome is not None else None
        return max(exponential(state), at_least(error) if error is not None else 0.0)

    return AsyncRetrying(retry=retry_if_exception_type(errors), wait=pause, stop=stop_never, sleep=sleep, reraise=True)


async def unless(work: Coroutine[Any, Any, T], *signals: Coroutine[Any, Any, object]) -> T | None:
    """Return what the work brings; None where one of the signals ended before it. What has not ended is cancelled."""
    task = asyncio.ensure_future(work)
    others = [asyncio.ensure_future(one) for one in signals]
    try:
        await asyncio.wait((task, *others), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for one in (task, *others):
            one.cancel()
        await asyncio.gather(task, *others, return_exceptions=True)


def start_eternal(group: asyncio.TaskGroup, work: Coroutine[Any, Any, object], *, name: str) -> asyncio.Task[None]:
    """Start a task that may only end by being cancelled; its return is an error that ends the group."""
    return group.create_task(_never_return(work, name), name=name)


async def _never_return(work: Coroutine[Any, Any, object], name: str) -> None:
    await work
    raise RuntimeError(f"the task {name!r} returned, and it must run until it is cancelled")
