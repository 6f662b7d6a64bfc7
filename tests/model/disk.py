"""A real directory on which a process can die, or be refused, at any step that changes something.

Death comes in two kinds. A killed process leaves everything that it did; a lost machine leaves only what was synced:
a file's content if the file was, a name if its directory was. Real disks lose something in between.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

_WRITES: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_NEEDS_SPACE: Final = frozenset({"open", "os.mkdir", "os.symlink", "fsync"})


class Death(BaseException):
    """The end of the process. Whatever it still tries to change afterwards ends the same way."""


@dataclass(slots=True)
class _Saved:
    """What of a file, directory or link would survive the loss of the machine."""

    mode: int
    content: bytes = b""
    target: str = ""
    entries: dict[str, _Saved] = field(default_factory=dict)


class Disk:
    """Watches every step that changes something below ``root``."""

    def __init__(self, root: Path) -> None:
        self.root: Final = Path(os.path.realpath(root))
        self.dead = False
        self.steps: list[str] = []
        """What was done or tried so far, such as ``fsync stage``; of the path only where it begins."""
        self.errors = 0
        """Steps that were refused so far."""
        self.after_step: Callable[[], None] = lambda: None
        """Called between any two steps, with the directory as it is then."""
        self.at_death: Callable[[], None] = lambda: None
        """Called when the process dies, whichever of its tasks is at work."""
        self._prefix: Final = f"{self.root}/"
        self._fatal: int | None = None
        self._failing: tuple[int, int] | None = None
        self._meanwhile: tuple[int, Callable[[], None]] | None = None
        self._refused: int | None = None
        self._saved: dict[int, _Saved] = {}
        self._looking = False

    # --- what a test does to it

    def die_in(self, steps: int) -> None:
        self._fatal = steps

    def fail_in(self, steps: int, code: int) -> None:
        """Refuse one step with an error of the system's."""
        self._failing = (steps, code)

    def do_in(self, steps: int, act: Callable[[], None]) -> None:
        """Have something happen before one step, whatever becomes of that."""
        self._meanwhile = (steps, act)

    def refuse(self, code: int) -> None:
        """Refuse all from now on. A full disk (ENOSPC) refuses only what needs space."""
        self._refused = code

    def mend(self) -> None:
        self._fatal = self._failing = self._refused = self._meanwhile = None

    def revive(self) -> None:
        """Let another process begin."""
        self.dead = False

    def lose_power(self) -> None:
        """Put the directory back to what was synced."""
        with self._unwatched():
            root = self._saved.get(self.root.stat().st_ino, _Saved(stat.S_IFDIR))
            shutil.rmtree(self.root)
            self._saved.clear()
            self._write(root, self.root)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch what this process does; one disk at a time."""
        global _watched, _is_hooked
        if not _is_hooked:
            # An audit hook stays for ever, so there is only one.
            sys.addaudithook(_audit)
            _is_hooked = True
        _watched = self
        try:
            with patch("os.fsync", self._fsync):
                yield
        finally:
            _watched = None

    # --- the steps

    def step(self, event: str, path: str = "") -> None:
        """Let one more step be done, or die, or raise OSError before it."""
        if self.dead:
            raise Death(event)
        inside = path.removeprefix(self._prefix).split("/")
        self.steps.append(f"{event} {'/'.join(inside) if inside[0] == 'state' else inside[0]}")
        with self._unwatched():
            self.after_step()
            self._do_meanwhile()
        if self._fatal is not None:
            self._fatal -= 1
            if self._fatal <= 0:
                self._fatal, self.dead = None, True
                self.at_death()
                raise Death(event)
        if not path:
            # A signal, a program: no error of the disk's.
            return
        if self._failing is not None:
            left, code = self._failing
            self._failing = (left - 1, code) if left > 1 else None
            if left <= 1:
                raise self._error(code)
        if self._refused is not None and (self._refused != errno.ENOSPC or event in _NEEDS_SPACE):
            raise self._error(self._refused)

    def _do_meanwhile(self) -> None:
        if self._meanwhile is not None:
            left, act = self._meanwhile
            self._meanwhile = (left - 1, act) if left > 1 else None
            if left <= 1:
                act()

    def _error(self, code: int) -> OSError:
        self.errors += 1
        return OSError(code, os.strerror(code))

    def see(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Take what the interpreter tells of a call that it is about to make."""
        if self._looking:
            return
        paths = [path for path in _changed(event, arguments) if f"{path}/".startswith(self._prefix)]
        if not paths:
            return
        self.step(event, paths[-1])
        if event in ("os.remove", "os.rmdir", "os.rename"):
            self._forget(paths[-1])

    def _fsync(self, descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if not f"{path}/".startswith(self._prefix):
            return
        try:
            self.step("fsync", path)
        except Death:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                # In the middle of the write that this ends.
                os.truncate(path, os.fstat(descriptor).st_size // 2)
            raise
        with self._unwatched():
            self._save(descriptor, path)

    def _save(self, descriptor: int, path: str) -> None:
        status = os.fstat(descriptor)
        saved = self._of(status)
        if stat.S_ISREG(status.st_mode):
            saved.content = Path(path).read_bytes()
            return
        saved.entries = {}
        for name in os.listdir(path):
            found = os.lstat(f"{path}/{name}")
            entry = saved.entries[name] = self._of(found)
            if stat.S_ISLNK(found.st_mode):
                entry.target = os.readlink(f"{path}/{name}")

    def _of(self, status: os.stat_result) -> _Saved:
        return self._saved.setdefault(status.st_ino, _Saved(status.st_mode))

    def _forget(self, path: str) -> None:
        """The number may soon be another file's; who has a name for this one on the disk still finds it."""
        try:
            self._saved.pop(os.lstat(path).st_ino, None)
        except OSError:
            return

    def _write(self, saved: _Saved, path: Path) -> None:
        copy = _Saved(saved.mode, saved.content, saved.target, saved.entries)
        if stat.S_ISLNK(saved.mode):
            path.symlink_to(saved.target)
        elif stat.S_ISREG(saved.mode):
            path.write_bytes(saved.content)
            path.chmod(stat.S_IMODE(saved.mode))
        else:
            path.mkdir()
            for name, entry in saved.entries.items():
                self._write(entry, path / name)
            copy.entries = {name: self._saved[os.lstat(path / name).st_ino] for name in saved.entries}
        self._saved[os.lstat(path).st_ino] = copy

    @contextmanager
    def _unwatched(self) -> Iterator[None]:
        before, self._looking = self._looking, True
        try:
            yield
        finally:
            self._looking = before


_watched: Disk | None = None
_is_hooked = False


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _watched is not None:
        _watched.see(event, arguments)


def _changed(event: str, arguments: tuple[Any, ...]) -> Iterator[str]:
    """The paths that a call changes; of a rename the new one last."""
    match event, arguments:
        case "open", (path, _, int(flags)) if flags & _WRITES and not flags & os.O_DIRECTORY:
            yield _resolved(path, -1)
        case "os.rename", (source, target, source_dir, target_dir):
            yield _resolved(source, source_dir)
            yield _resolved(target, target_dir)
        case "os.mkdir", (path, _, directory):
            yield _resolved(path, directory)
        case "os.symlink", (_, path, directory):
            yield _resolved(path, directory)
        case "os.remove" | "os.rmdir", (path, directory):
            yield _resolved(path, directory)
        case "os.chmod", (path, _, directory):
            yield _resolved(path, directory)


def _resolved(path: Any, directory: int) -> str:
    if isinstance(path, int):
        return os.readlink(f"/proc/self/fd/{path}") if path >= 0 else ""
    base = os.readlink(f"/proc/self/fd/{directory}") if directory >= 0 else os.getcwd()
    return os.path.join(base, os.fsdecode(path))
