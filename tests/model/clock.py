"""A time that passes only while everybody waits: an hour of pauses takes as long as the work in it."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch


class _Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class _Selector(selectors.DefaultSelector):
    """Does not wait: it moves the clock to the moment at which the wait would end."""

    def __init__(self, clock: _Clock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise RuntimeError("everybody waits, and nothing will ever happen")
            self._clock.now += max(0.0, timeout)
        return ready


class _AtOnce(ThreadPoolExecutor):
    """Runs on the spot what is given to a thread: a run is then the same every time."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future


@contextmanager
def simulated_time() -> Iterator[asyncio.AbstractEventLoop]:
    """Return a loop in whose time all of this process lives until the end."""
    clock = _Clock()
    loop = asyncio.SelectorEventLoop(_Selector(clock))
    loop.set_default_executor(_AtOnce())
    with patch("time.monotonic", clock):
        try:
            yield loop
        finally:
            loop.close()
