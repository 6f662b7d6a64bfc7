"""Writing whole files, and what an operator is told to do where the disk refuses."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from proxygen.kit import disk
from proxygen.kit.disk import Readers, explained, is_mounted, readers_of_all, write_atomically
from proxygen.kit.errors import OutputUnusable


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EROFS, "mount it writable"),
        (errno.ENOTDIR, "never a single file"),
        (errno.EEXIST, "never a single file"),
        (errno.EBUSY, "is a mount point"),
        (errno.EXDEV, "another file system"),
        (errno.ENOENT, "taken away"),
        (errno.EACCES, f"uid {os.geteuid()} may not write /out/state/x"),
        (errno.EPERM, f"uid {os.geteuid()} may not write /out/state/x"),
        (errno.EIO, "/out/state/x: Input/output error"),
    ],
)
def test_a_refusal_of_the_disk_says_what_to_do(code: int, advice: str) -> None:
    with pytest.raises(OutputUnusable, match=r"^/out cannot hold generations: ") as refused, explained(Path("/out")):
        raise OSError(code, os.strerror(code), "/out/state/x")
    assert advice in str(refused.value)
    assert os.strerror(code) in str(refused.value)


def test_another_error_is_nobody_elses() -> None:
    with pytest.raises(KeyError), explained(Path("/out")):
        raise KeyError


def test_a_file_is_replaced_whole_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    for content in (b"a long first content", b"short"):
        write_atomically(tmp_path / "state.json", content)
        assert (tmp_path / "state.json").read_bytes() == content
        assert os.listdir(tmp_path) == ["state.json"]


def test_a_mount_point_is_told_from_what_lies_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fifth field of a line is where it is mounted; its root, the fourth, is somewhere else."""
    table = tmp_path / "mountinfo"
    table.write_text(
        "22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n"
        "36 22 8:1 /srv/elsewhere /out/current rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        "37 22 8:1 /out/no /with\\040space\\134\\011\\012 rw - ext4 /dev/sda1 rw\n"
    )
    monkeypatch.setattr(disk, "Path", lambda path: table if str(path) == "/proc/self/mountinfo" else Path(path))
    assert is_mounted(Path("/out/current"))
    assert is_mounted(Path("/with space\\\t\n"))
    assert not is_mounted(Path("/out"))
    assert not is_mounted(Path("/out/no"))
    assert not is_mounted(Path("/srv/elsewhere"))


def test_where_the_table_cannot_be_read_the_system_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "Path", lambda path: tmp_path / "gone")
    assert is_mounted(Path("/proc"))
    assert not is_mounted(tmp_path)


# --- who may read


def _source(folder: Path, name: str, mode: int, *, above: int = 0o755) -> Path:
    inside = folder / name
    inside.mkdir()
    path = inside / "x.conf"
    path.touch()
    path.chmod(mode)
    inside.chmod(above)
    return path


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """One that everybody can reach, as pytest's are not."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.parametrize(
    ("modes", "bits"),
    [
        ([(0o644, 0o755)], 0o044),
        ([(0o640, 0o755)], 0o040),
        ([(0o600, 0o755)], 0),
        ([(0o644, 0o700)], 0),
        ([(0o644, 0o750)], 0o040),
        ([(0o644, 0o755), (0o640, 0o755)], 0o040),
        ([(0o644, 0o755), (0o600, 0o755)], 0),
    ],
)
def test_a_copy_may_be_read_by_those_who_can_read_each_source(
    open_folder: Path, modes: list[tuple[int, int]], bits: int
) -> None:
    paths = [_source(open_folder, str(number), mode, above=above) for number, (mode, above) in enumerate(modes)]
    assert readers_of_all(paths) == Readers(owner=os.geteuid(), group=paths[0].stat().st_gid, bits=bits)


def test_a_source_that_is_gone_lets_nobody_read(tmp_path: Path) -> None:
    assert readers_of_all([tmp_path / "gone"]).bits == 0


@pytest.mark.parametrize("bits", [0, 0o040, 0o044])
def test_a_file_is_replaced_for_its_readers(tmp_path: Path, bits: int) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    write_atomically(path, b"x", Readers(owner=os.geteuid(), group=os.getegid(), bits=bits))
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("x", 0o600 | bits)
