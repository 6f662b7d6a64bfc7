"""Writing whole files, and what an operator is told to do where the disk refuses."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from proxygen.kit import disk
from proxygen.kit.disk import explained, is_mounted, write_atomically
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
