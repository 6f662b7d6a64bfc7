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

_MAX_DOUBLINGS: Final = 16

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
        self._task: asyncio.Task[bool] | None = None
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

    def forget(self) -> None:
        """Publish nothing of what was pushed so far, but what is being published already."""
        self._newest = None

    async def flush(self) -> bool:
        """Publish at once, and return whether all is published by now; what is not is given up."""
        if self._task is None:
            return True
        self._hurry.set()
        return await asyncio.shield(self._task)

    async def stop(self) -> None:
        """Publish nothing of what was pushed so far; what is being published is, or has failed, when this returns."""
        self.forget()
        await self.flush()

    async def _run(self) -> bool:
        failures = 0
        try:
            while (newest := await self._next(failures)) is not None:
                if await self._is_published(newest):
                    failures = 0
                    continue
                if self._hurry.is_set():
                    self._newest = None
                    return False
                failures += 1
                self._newest = self._newest or newest
            return True
        finally:
            self._task = None
            self._hurry.clear()

    async def _is_published(self, pushed: T) -> bool:
        try:
            await self._publish(pushed)
        except (ProxygenError, OSError) as error:
            _log.error("pushed, but not published", reason=str(error))
            return False
        except Exception:
            # Whatever nobody thought of: the files follow all the same, once it is over.
            _log.exception("pushed, but not published")
            return False
        return True

    async def _next(self, failures: int) -> T | None:
        """Return the newest that is to be published, in time; None where all is."""
        if self._newest is None:
            return None
        with suppress(TimeoutError):
            pause = self._pause * 2 ** min(failures, _MAX_DOUBLINGS)
            await asyncio.wait_for(self._hurry.wait(), min(self._longest, pause))
        newest, self._newest = self._newest, None
        return newest
