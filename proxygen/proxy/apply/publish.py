"""Generations on disk: written aside, moved into place whole, made live by the rename of one symbolic link.

::

    OUTPUT/generations/000042/{http.d,stream.d,…,manifest.json}  immutable once it is here, but for `narrow`
    OUTPUT/current -> generations/000042                        what nginx includes
    OUTPUT/stage/                                               being written, or being deleted
    OUTPUT/state/                                               lock, proven, and what others keep there

Whatever the moment at which proxygen is killed, `hold_output` finds a state from which everything goes on.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, Final

from proxygen.kit.disk import Readers, explained, is_mounted, let_read, sync_directory, write_atomically
from proxygen.kit.errors import OutputUnusable
from proxygen.kit.lock import LockHeld, hold_lock, sign
from proxygen.proxy.check.gates import Checked
from proxygen.proxy.nginx.stamp import Stamp

MANIFEST: Final = "manifest.json"
_GENERATIONS: Final = "generations"
_STAGE: Final = "stage"
_CURRENT: Final = "current"
_FAILED_KEPT: Final = 2
"""Generations that did not work out, for whoever wants to see why."""
_PROVEN: Final = "state/proven.json"
_ANYBODY: Final[Mapping[str, Readers]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """An output directory that this process holds alone. Made by `hold_output`."""

    directory: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """A published generation."""

    stamp: Stamp
    path: Path
    published_at: str
    """ISO 8601, UTC."""
    manifest: Mapping[str, Any]
    """What whoever published it wanted to remember."""
    live: bool
    """``current`` names it."""
    proven: bool
    """nginx was seen to run it."""

    @property
    def number(self) -> int:
        return self.stamp.generation


@contextmanager
def hold_output(directory: Path) -> Iterator[Output]:
    """Take the output directory for this process, make what it lacks, and remove what a killed one left.

    Raise OutputUnusable when it cannot hold generations or another proxygen holds it.
    """
    directory = Path(os.path.abspath(directory))
    with ExitStack() as held:
        with explained(directory):
            for path in (directory, directory / _GENERATIONS, directory / _STAGE, directory / "state"):
                path.mkdir(mode=0o755, parents=True, exist_ok=True)
            held.enter_context(_lock(directory))
            for leftover in (directory / _STAGE).iterdir():
                _remove(leftover)
            _require_link(directory)
            _probe(directory)
        yield Output(directory=directory)


def stage(output: Output, stamp: Stamp, files: Mapping[str, bytes], readers: Mapping[str, Readers] = _ANYBODY) -> Path:
    """Write a generation aside and return where. ``files`` maps paths such as ``http.d/web.conf`` to content,
    ``readers`` those that not everybody may read."""
    with explained(output.directory):
        path = Path(tempfile.mkdtemp(prefix=f"{stamp.generation:06d}-", dir=output.directory / _STAGE))
        with _whole_or_gone(path):
            # nginx's master may be another user, and mkdtemp lets in nobody but us.
            path.chmod(0o755)
            write_files(path, {"http.d/": b"", "stream.d/": b"", **files}, readers)
    return path


def write_files(directory: Path, files: Mapping[str, bytes], readers: Mapping[str, Readers] = _ANYBODY) -> None:
    """Write files below a directory, on disk when this returns; a name that ends in a slash is a directory.

    ``readers`` has those files that not everybody may read. None of them needs `write_atomically`:
    nothing reads the directory before it is whole.
    """
    touched = {directory}
    for name, content in files.items():
        relative = PurePosixPath(name)
        if relative.is_absolute() or ".." in relative.parts:
            raise ValueError(f"{name!r} leads out of the directory")
        path = directory / relative
        parent = path if name.endswith("/") else path.parent
        _make(parent)
        touched |= {folder for folder in (parent, *parent.parents) if folder.is_relative_to(directory)}
        if not name.endswith("/"):
            _write(path, content, readers.get(name))
    for folder in sorted(touched, reverse=True):
        sync_directory(folder)


def _make(folder: Path) -> None:
    """Make a directory and those above it that are missing; a directory that is there keeps its mode."""
    if not folder.is_dir():
        _make(folder.parent)
        folder.mkdir()
        # nginx's master may be another user, whatever our umask is.
        folder.chmod(0o755)


@contextmanager
def _whole_or_gone(path: Path) -> Iterator[None]:
    """Remove a staged generation where the block raises: another attempt is made for as long as the trouble lasts, and
    on a full disk each would make it fuller."""
    try:
        yield
    except BaseException:
        discard(path)
        raise


def discard(path: Path) -> None:
    """Remove a staged generation that will not be published."""
    shutil.rmtree(path, ignore_errors=True)


def publish(output: Output, checked: Checked, manifest: Mapping[str, Any]) -> Generation:
    """Move a staged generation into place and make it the live one. nginx is not told.

    One of the same stamp that is in place is made live: an earlier try with it ended after the move.
    """
    number = checked.stamp.generation
    path = _path(output.directory, number)
    published_at = datetime.now(UTC).isoformat(timespec="milliseconds")
    document = {"digest": checked.stamp.digest, "published_at": published_at, "manifest": manifest}
    with explained(output.directory):
        with _whole_or_gone(checked.path):
            write_files(checked.path, {MANIFEST: json.dumps(document, sort_keys=True, indent=1).encode()})
            # A directory cannot be renamed onto one that is not empty: a number is never used twice.
            if _is_stamped(output.directory, checked.stamp):
                discard(checked.path)
            else:
                os.rename(checked.path, path)
        sync_directory(path.parent)
        _swap(output.directory, number)
    return Generation(
        stamp=checked.stamp, path=path, published_at=published_at, manifest=manifest, live=True, proven=False
    )


def _is_stamped(directory: Path, stamp: Stamp) -> bool:
    published = read_generation(directory, stamp.generation)
    return published is not None and published.stamp == stamp


def narrow(output: Output, name: str, readers: Readers) -> None:
    """Let nobody read a file of any generation who may not read it by now."""
    with explained(output.directory):
        for path in (output.directory / _GENERATIONS).glob(f"*/{name}"):
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_mode & (stat.S_IRGRP | stat.S_IROTH) & ~readers.bits:
                    let_read(file.fileno(), readers)


def switch(output: Output, number: int | None) -> None:
    """Make another published generation the live one; None: none, as before the first."""
    with explained(output.directory):
        if number is None:
            (output.directory / _CURRENT).unlink(missing_ok=True)
            sync_directory(output.directory)
            return
        if read_generation(output.directory, number) is None:
            raise OutputUnusable(f"there is no generation {number} in {output.directory}")
        _swap(output.directory, number)


def current(directory: Path) -> int | None:
    """Return the number of the live generation, None before the first."""
    with suppress(OSError, ValueError):
        return int(PurePosixPath(os.readlink(directory / _CURRENT)).name)
    return None


def generations(directory: Path) -> list[Generation]:
    """Return what is on disk, oldest first."""
    found = (read_generation(directory, number) for number in _numbers(directory / _GENERATIONS))
    return [generation for generation in found if generation is not None]


def every_generation(directory: Path) -> list[Generation]:
    """Return the same. Raise OutputUnusable where one of them cannot be read."""
    numbers, found = _numbers(directory / _GENERATIONS), generations(directory)
    unread = set(numbers) - {each.number for each in found}
    if unread:
        raise OutputUnusable(f"generation {min(unread)} in {directory} cannot be read")
    return found


def require_generation(directory: Path, number: int) -> Generation:
    """Return one published generation. Raise OutputUnusable where there is none of that number."""
    generation = read_generation(directory, number)
    if generation is None:
        raise OutputUnusable(f"there is no generation {number} in {directory}")
    return generation


def read_generation(directory: Path, number: int) -> Generation | None:
    """Return one published generation; None where there is none of that number."""
    path = _path(directory, number)
    # The other errors: not a manifest of ours, so not a generation either.
    with suppress(OSError, ValueError, KeyError, TypeError):
        document = json.loads((path / MANIFEST).read_bytes())
        return Generation(
            stamp=Stamp(generation=number, digest=document["digest"]),
            path=path,
            published_at=document["published_at"],
            manifest=document["manifest"],
            live=number == current(directory),
            proven=number in proven(directory),
        )
    return None


def is_there(directory: Path, number: int) -> bool:
    """Whether a generation is on disk, whole or not. Raise OSError where that cannot be seen."""
    return _path(directory, number).is_dir()


def next_number(output: Output) -> int:
    """Return a number greater than any that was ever published here."""
    directory = output.directory
    return max([current(directory) or 0, *proven(directory), *_numbers(directory / _GENERATIONS)]) + 1


def mark_proven(output: Output, number: int) -> None:
    """Remember that nginx was seen to run a generation: only to such a one is it worth going back."""
    kept = set(_numbers(output.directory / _GENERATIONS))
    numbers = [*(known for known in proven(output.directory) if known in kept and known != number), number]
    with explained(output.directory):
        write_atomically(output.directory / _PROVEN, json.dumps(numbers).encode())


def proven(directory: Path) -> tuple[int, ...]:
    """Return the generations that nginx was seen to run, the latest seen last."""
    with suppress(OSError, ValueError, TypeError):
        numbers = json.loads((directory / _PROVEN).read_bytes())
        return tuple(number for number in numbers if isinstance(number, int))
    return ()


def prune(output: Output, keep: int, *, protect: Iterable[int] = ()) -> None:
    """Delete all but the newest ``keep`` generations, the live one and the protected.

    Of those that nginx was never seen to run only the newest few stay: a long failure must not push out what one
    could go back to.
    """
    numbers = _numbers(output.directory / _GENERATIONS)
    good = set(proven(output.directory))
    failed = [number for number in numbers if number not in good][-_FAILED_KEPT:]
    room = max(1, keep - len(failed))
    spared = {*failed, *[number for number in numbers if number in good][-room:], *protect, current(output.directory)}
    with explained(output.directory):
        for number in numbers:
            if number not in spared:
                _remove_generation(output.directory, number)


@contextmanager
def _lock(directory: Path) -> Iterator[None]:
    with ExitStack() as held:
        try:
            lock = held.enter_context(hold_lock(directory / "state/lock"))
        except LockHeld as error:
            raise OutputUnusable(
                f"{directory} is held by another proxygen (process {error.holder}); "
                f"give each its own output.directory (--output-directory)"
            ) from error
        sign(lock)
        yield


def _require_link(directory: Path) -> None:
    path = directory / _CURRENT
    if path.is_symlink() or not os.path.lexists(path):
        return
    if is_mounted(path):
        raise OutputUnusable(f"{path} is a mount point, so it cannot be replaced; mount {directory} instead of it")
    raise OutputUnusable(f"{path} must be a symbolic link that proxygen makes; move what is there away")


def _probe(directory: Path) -> None:
    """Do once, for nothing, what every publication needs: some file systems know no symbolic links or no rename."""
    trial = directory / _STAGE / "trial"
    trial.symlink_to("nowhere")
    os.rename(trial, directory / ".trial")
    (directory / ".trial").unlink()


def _swap(directory: Path, number: int) -> None:
    _require_link(directory)
    aside = directory / _STAGE / _CURRENT
    aside.unlink(missing_ok=True)
    aside.symlink_to(f"{_GENERATIONS}/{number:06d}")
    os.rename(aside, directory / _CURRENT)
    sync_directory(directory)


def _write(path: Path, content: bytes, readers: Readers | None) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        if readers is None:
            os.fchmod(descriptor, 0o644)
        else:
            let_read(descriptor, readers)
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def _path(directory: Path, number: int) -> Path:
    return directory / _GENERATIONS / f"{number:06d}"


def _numbers(directory: Path) -> list[int]:
    with suppress(FileNotFoundError, NotADirectoryError):
        return sorted(int(name) for name in os.listdir(directory) if name.isdecimal())
    return []


def _remove_generation(directory: Path, number: int) -> None:
    # Moved away first: killed halfway, there is no half generation among the whole ones.
    doomed = directory / _STAGE / f"old-{number:06d}"
    os.rename(_path(directory, number), doomed)
    _remove(doomed)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
