"""Noticing that a file changed, where the kernel tells of it and where it does not."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from watchdog.events import (
    FileClosedNoWriteEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileOpenedEvent,
)

from proxygen.kit.files import _Handler, state_of, watching
from tests.model.clock import simulated_time


class Calls:
    """Counts, and can be waited for."""

    def __init__(self) -> None:
        self.count = 0
        self._more = asyncio.Event()

    def __call__(self) -> None:
        self.count += 1
        self._more.set()

    async def one_more(self) -> None:
        self._more.clear()
        async with asyncio.timeout(5):
            await self._more.wait()


async def test_one_change_is_told_once(tmp_path: Path) -> None:
    calls = Calls()
    with watching([tmp_path], calls):
        for name in ("one", "two"):
            (tmp_path / name).write_text(name)
        await calls.one_more()
        await asyncio.sleep(0.4)
    assert calls.count == 1


async def test_a_directory_that_is_not_there_leaves_the_others_watched(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    calls = Calls()
    with capture_logs() as log, watching([tmp_path / "absent", tmp_path / "there"], calls):
        (tmp_path / "there/file").touch()
        await calls.one_more()
    (warning,) = log
    assert warning["event"] == "directory not watched"
    assert warning["directory"] == str(tmp_path / "absent")


WATCH_ONE = """
import asyncio, pathlib, sys
from proxygen.kit.files import watching

async def main():
    folder, changed = pathlib.Path(sys.argv[1]), asyncio.Event()
    with watching([folder], changed.set):
        (folder / "file").touch()
        async with asyncio.timeout(10):
            await changed.wait()
    print("changed")

asyncio.run(main())
"""

NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount-proc", "--pid", "--fork", "--mount")


def _may_limit() -> bool:
    command = [*NAMESPACE, "sh", "-c", "echo 0 > /proc/sys/user/max_inotify_instances"]
    return shutil.which("unshare") is not None and subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.skipif(not _may_limit(), reason="needs user namespaces, whose inotify instances can be limited")
def test_where_the_kernel_has_no_more_watches_the_directory_is_polled(tmp_path: Path) -> None:
    """A machine with many containers runs out of inotify instances: it starts all the same, says so, and notices."""
    command = f"echo 0 > /proc/sys/user/max_inotify_instances; exec {sys.executable} -c '{WATCH_ONE}' {tmp_path}"
    ended = subprocess.run([*NAMESPACE, "sh", "-c", command], capture_output=True, text=True, timeout=30)
    assert ended.stdout.splitlines()[-1:] == ["changed"], ended.stderr
    assert "directory polled" in ended.stdout + ended.stderr
    assert "inotify instance limit reached" in ended.stdout + ended.stderr


def test_a_state_differs_when_a_file_is_another_one_and_not_when_a_directory_was_touched(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("one")
    before = state_of([tmp_path, tmp_path / "absent"])
    tmp_path.touch()
    assert state_of([tmp_path]) == before
    (tmp_path / "new").write_text("one")
    (tmp_path / "new").rename(tmp_path / "file")
    assert state_of([tmp_path]) != before


def handler_of(loop: asyncio.AbstractEventLoop, told: list[float]) -> _Handler:
    return _Handler(loop, lambda: told.append(round(loop.time() - 1_000.0, 3)))


def events(times: list[float]) -> list[float]:
    """When a change is told of, where events come at these times."""
    told: list[float] = []
    with simulated_time() as loop:
        handler = handler_of(loop, told)
        for time in times:
            loop.call_at(1_000.0 + time, handler.on_any_event, FileModifiedEvent("x"))
        loop.run_until_complete(asyncio.sleep(10))
    return told


def test_a_change_counts_once_it_is_quiet_and_at_the_latest_a_second_after_it_began() -> None:
    """A log beside the files is never quiet under load; each change has its own second."""
    assert events([1.0]) == [1.2]
    assert events([1.0, 1.1, 1.25]) == [1.45]
    assert events([1.0, 3.0]) == [1.2, 3.2]
    flood = events([1 + number / 10 for number in range(31)])
    assert [round(time, 1) for time in flood] == pytest.approx([2.0, 3.0, 4.0, 4.2], abs=0.21)


def test_reading_a_file_is_no_change() -> None:
    """``nginx -t`` reads all of them."""
    told: list[float] = []
    with simulated_time() as loop:
        handler = handler_of(loop, told)
        for event in (FileOpenedEvent("x"), FileClosedNoWriteEvent("x")):
            handler.on_any_event(event)
        loop.run_until_complete(asyncio.sleep(10))
        assert told == []
        for kind in (FileModifiedEvent, FileCreatedEvent, FileDeletedEvent):
            handler.on_any_event(kind("x"))
            loop.run_until_complete(asyncio.sleep(10))
    assert len(told) == 3


def test_a_state_is_of_each_file_and_what_any_of_them_is(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    one, two = tmp_path / "one", tmp_path / "folder/two"
    one.write_text("1")
    two.write_text("2")
    states = {state_of([one, tmp_path / "folder"])}
    two.write_text("22")
    states.add(state_of([one, tmp_path / "folder"]))
    os.utime(one, ns=(5, 5))
    states.add(state_of([one, tmp_path / "folder"]))
    before = two.stat()
    (tmp_path / "other").write_text("33")
    (tmp_path / "other").rename(two)
    os.utime(two, ns=(before.st_atime_ns, before.st_mtime_ns))
    states.add(state_of([one, tmp_path / "folder"]))
    (tmp_path / "folder/three").touch()
    states.add(state_of([one, tmp_path / "folder"]))
    two.unlink()
    states.add(state_of([one, tmp_path / "folder"]))
    assert len(states) == 6
