"""Has the files follow what was pushed: the newest of it, and never later than the settings say."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, Generic, TypeVar

from proxygen.kit.errors import ProxygenError
from proxygen.kit.log import get_logger

_log = get_logger(__name__)

_HEAD_START: Final = 2
"""The part of the time that is left for the publishing itself."""

T = TypeVar("T")


class Publisher(Generic[T]):
    """One slot for the newest that was pushed, and one task that publishes it."""

    def __init__(self, publish: Callable[[T], Awaitable[None]], *, within: float, longest_pause: float) -> None:
        """``within`` seconds after a push it is to be published; one that fails is tried again after ``longest_pause``
        seconds at most."""
        self._publish: Final = publish
        self._pause: Final = within / _HEAD_START
        self._longest: Final = longest_pause
        self._newest: T | None = None
        self._task: asyncio.Task[None] | None = None
        self._hurry: Final = asyncio.Event()

    @property
    def is_behind(self) -> bool:
        """Whether something was pushed that is not published yet."""
        return self._task is not None

    def put(self, pushed: T) -> None:
        """Publish this, and nothing of before that is not published yet."""
        self._newest = pushed
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="publish what was pushed")

    async def flush(self) -> None:
        """Publish at once, and return when it is done or has failed."""
        if self._task is not None:
            self._hurry.set()
            await asyncio.wait({self._task})

    async def stop(self) -> None:
        """Publish nothing of what was pushed so far."""
        task, self._task, self._newest = self._task, None, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def _run(self) -> None:
        failures = 0
        try:
            while (newest := await self._next(failures)) is not None:
                try:
                    await self._publish(newest)
                    failures = 0
                except (ProxygenError, OSError) as error:
                    _log.error("pushed, but not published", reason=str(error))
                    failures += 1
                    self._newest = self._newest or newest
                    if self._hurry.is_set():
                        return
        finally:
            self._hurry.clear()
            if self._task is asyncio.current_task():
                self._task = None

    async def _next(self, failures: int) -> T | None:
        """Return the newest that is to be published, in time; None where all is."""
        if self._newest is None:
            return None
        with suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), min(self._longest, self._pause * 2**failures))
        newest, self._newest = self._newest, None
        return newest
