"""Writing that survives a crash, and what an operator can do when the disk refuses."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from proxygen.kit.errors import OutputUnusable

_FULL: Final = "its file system is full; free some space"
_NOT_A_DIRECTORY: Final = "it is a file, or lies below one; mount a directory, never a single file"
_ADVICE: Final = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EROFS: "it is read-only; mount it writable",
    errno.ENOTDIR: _NOT_A_DIRECTORY,
    errno.EEXIST: _NOT_A_DIRECTORY,
    errno.EBUSY: "a part of it is a mount point; mount the directory itself, never something in it",
    errno.EXDEV: "a part of it is another file system; mount the directory itself, never something in it",
    errno.ENOENT: "it, or a part of it, was taken away; start proxygen again once it is back",
}


@contextmanager
def explained(directory: Path) -> Iterator[None]:
    """Turn an OSError into OutputUnusable that says what to do about ``directory``."""
    try:
        yield
    except OSError as error:
        raise OutputUnusable(f"{directory} cannot hold generations: {_advice(directory, error)}") from error


def _advice(directory: Path, error: OSError) -> str:
    if error.errno in {errno.EACCES, errno.EPERM}:
        return (
            f"uid {os.geteuid()} may not write {error.filename or directory} ({error.strerror}), or the file system "
            f"has no symbolic links; give that uid a directory of a local file system"
        )
    reason = error.strerror or str(error)
    return (
        f"{_ADVICE[error.errno]} ({reason})" if error.errno in _ADVICE else f"{error.filename or directory}: {reason}"
    )


def is_mounted(path: Path) -> bool:
    """Whether something is mounted there. `os.path.ismount` does not see bind mounts within one file system."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return os.path.ismount(path)
    escaped = str(path).replace("\\", "\\134").replace(" ", "\\040").replace("\t", "\\011").replace("\n", "\\012")
    return any(line.split(" ")[4] == escaped for line in mounts.splitlines())


def sync_directory(path: Path) -> None:
    """Make renames and new names in a directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Readers:
    """Who may read a file: its owner, and by their bits its group and others."""

    owner: int
    group: int
    bits: int


def readers_of(source: os.stat_result) -> Readers:
    """Who may read a file, so that a copy lets in the same."""
    return Readers(owner=source.st_uid, group=source.st_gid, bits=source.st_mode & (stat.S_IRGRP | stat.S_IROTH))


def readers_of_all(paths: Iterable[Path]) -> Readers:
    """Return who can read each of some files, which the directories above them must let through too; nobody but us
    where one of them is gone."""
    try:
        first, *_ = each = [_reaching(path) for path in paths]
    except OSError:
        return Readers(owner=os.geteuid(), group=os.getegid(), bits=0)
    bits = first.bits
    for other in each:
        is_alike = (other.owner, other.group) == (first.owner, first.group)
        bits &= other.bits if is_alike else other.bits & stat.S_IROTH
    return Readers(owner=first.owner, group=first.group, bits=bits)


def _reaching(path: Path) -> Readers:
    readers, bits = readers_of(path.stat()), 0
    above = [each.stat() for each in path.resolve().parents]
    if all(each.st_mode & stat.S_IXOTH for each in above):
        bits |= stat.S_IROTH
    if all(each.st_mode & (stat.S_IXGRP if each.st_gid == readers.group else stat.S_IXOTH) for each in above):
        bits |= stat.S_IRGRP
    return Readers(owner=readers.owner, group=readers.group, bits=readers.bits & bits)


def let_read(descriptor: int, readers: Readers) -> None:
    """Give a file to its owner, as far as that is allowed, and let nobody read it who may not."""
    for owner, group in ((readers.owner, -1), (-1, readers.group)):
        with suppress(OSError):
            os.fchown(descriptor, owner, group)
    bits = readers.bits
    if os.fstat(descriptor).st_gid != readers.group:
        # Else another group might read it.
        bits &= stat.S_IROTH
    os.fchmod(descriptor, stat.S_IRUSR | stat.S_IWUSR | bits)


def write_atomically(
    path: Path,
    content: bytes,
    *,
    mode: int = 0o666,
    access: Callable[[int], object] | None = None,
    shared: bool = False,
    durable: bool = True,
) -> None:
    """Replace a file whole, on disk when this returns: a reader sees the old content or the new, never a part.

    Raise OSError and leave the old file where that fails. ``mode`` is open(2)'s, which the umask narrows; ``access``
    gets the descriptor of the new file while it is empty, to give it another owner or mode. Of a file that other
    processes write too (``shared``) each attempt has a temporary file of its own, which a kill leaves behind. What is
    worth nothing after a restart of the machine need not be ``durable``.
    """
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new" if shared else f".{path.name}.new")
    file = _create(aside, mode)
    try:
        with file:
            if access is not None:
                access(file.fileno())
            file.write(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.rename(aside, path)
    except BaseException:
        # On a full disk it would take the room that the next attempt needs.
        with suppress(OSError):
            aside.unlink()
        raise
    if durable:
        sync_directory(path.parent)


def _create(path: Path, mode: int) -> BinaryIO:
    def opener(name: str, flags: int) -> int:
        return os.open(name, flags, mode)

    try:
        return open(path, "xb", opener=opener)
    except FileExistsError:
        # A killed process left it, perhaps with another mode.
        path.unlink()
        return open(path, "xb", opener=opener)
