"""Notice that a file of the operator's changed: a template, a snippet, a certificate, nginx.conf, the settings."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from watchdog.events import FileClosedNoWriteEvent, FileOpenedEvent, FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver
from watchdog.observers.polling import PollingObserver

from proxygen.kit.log import get_logger

_log = get_logger(__name__)

QUIET: Final = 0.2
"""Seconds without another event before a change counts: an editor or a copy makes many of them."""

LONGEST: Final = 1.0
"""Seconds after the first event at which it counts at the latest: a log beside the files is never quiet under load."""


@contextmanager
def watching(directories: Iterable[Path], changed: Callable[[], None]) -> Iterator[None]:
    """Call ``changed`` in the running event loop a moment after anything in one of the directories changed.

    Directories are watched, never files: an editor replaces the file and the watch would stay with the old one.
    """
    handler = _Handler(asyncio.get_running_loop(), changed)
    wanted = sorted({directory.resolve() for directory in directories})
    with ExitStack() as stack:
        untold = _watch(Observer, wanted, handler, stack)
        unwatched = _watch(PollingObserver, untold, handler, stack)
        for directory, error in untold.items():
            if directory in unwatched:
                _log.warning("directory not watched", directory=str(directory), reason=str(unwatched[directory]))
            else:
                _log.warning("directory polled", directory=str(directory), reason=str(error))
        yield


def _watch(
    make: Callable[[], BaseObserver],
    directories: Collection[Path],
    handler: FileSystemEventHandler,
    stack: ExitStack,
) -> dict[Path, OSError]:
    """Watch with an observer of one kind until the stack ends; return the directories that it cannot watch.

    The kernel may have no inotify instance or watch left: one user's are shared by all containers of a machine.
    """
    if not directories:
        return {}
    try:
        observer = make()
        observer.start()
    except OSError as error:
        return dict.fromkeys(directories, error)
    stack.callback(observer.join)
    stack.callback(observer.stop)
    refused = {}
    for directory in directories:
        try:
            observer.schedule(handler, str(directory), recursive=False)
        except OSError as error:
            refused[directory] = error
    return refused


def state_of(paths: Iterable[Path]) -> frozenset[tuple[Path, int, int, int]]:
    """Return something that differs when one of the files, or a file in one of the directories, is another one."""
    found = set()
    for path in paths:
        with suppress(OSError):
            for file in path.iterdir() if path.is_dir() else (path,):
                with suppress(OSError):
                    status = file.stat()
                    found.add((file, status.st_ino, status.st_size, status.st_mtime_ns))
    return frozenset(found)


class _Handler(FileSystemEventHandler):
    """Runs in watchdog's thread; hands over to the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, changed: Callable[[], None]) -> None:
        self._loop = loop
        self._changed = changed
        self._pending: asyncio.TimerHandle | None = None
        self._latest = 0.0

    def on_any_event(self, event: FileSystemEvent) -> None:
        # Reading a file is no change, and nginx -t reads all of them.
        if not isinstance(event, FileOpenedEvent | FileClosedNoWriteEvent):
            self._loop.call_soon_threadsafe(self._restart)

    def _restart(self) -> None:
        now = self._loop.time()
        if self._pending is None:
            self._latest = now + LONGEST
        else:
            self._pending.cancel()
        self._pending = self._loop.call_at(min(now + QUIET, self._latest), self._report)

    def _report(self) -> None:
        self._pending = None
        self._changed()
