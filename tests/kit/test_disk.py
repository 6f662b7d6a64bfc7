"""Writing whole files, and what an operator is told to do where the disk refuses."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from proxygen.kit import disk
from proxygen.kit.disk import Readers, explained, is_mounted, let_read, readers_of_all, write_atomically
from proxygen.kit.errors import OutputUnusable
from tests.model.disk import Death, Disk


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


def deaths(root: Path) -> Iterator[Disk]:
    """Write ``new`` over ``old`` again and again, and die at another step each time."""
    for step in range(1, 100):
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        disk = Disk(root)
        with disk.watching():
            write_atomically(root / "state.json", b"old")
            disk.die_in(step)
            try:
                write_atomically(root / "state.json", b"new")
            except Death:
                disk.revive()
                yield disk
            else:
                assert step > 4
                return
    pytest.fail("it does not end")


def test_a_kill_at_any_step_leaves_the_old_content_or_the_new_and_the_next_writer_is_not_hindered(
    tmp_path: Path,
) -> None:
    for dead in deaths(tmp_path / "disk"):
        assert (dead.root / "state.json").read_bytes() in (b"old", b"new")
        write_atomically(dead.root / "state.json", b"next")
        assert {path.name: path.read_bytes() for path in dead.root.iterdir()} == {"state.json": b"next"}


def test_a_power_cut_at_any_step_leaves_the_old_content_or_the_new(tmp_path: Path) -> None:
    for dead in deaths(tmp_path / "disk"):
        dead.lose_power()
        assert (dead.root / "state.json").read_bytes() in (b"old", b"new")


def test_a_disk_that_refuses_any_step_keeps_the_old_content_and_what_was_begun_is_removed(tmp_path: Path) -> None:
    """Only where the rename was done and is not synced, the new content is there already."""
    refused = 0
    for step in range(1, 100):
        (tmp_path / "state.json").write_bytes(b"old")
        disk = Disk(tmp_path)
        with disk.watching():
            disk.fail_in(step, errno.ENOSPC)
            try:
                write_atomically(tmp_path / "state.json", b"new")
            except OSError:
                refused += 1
        is_renamed = disk.steps[-1] == "fsync "
        assert (tmp_path / "state.json").read_bytes() == (b"new" if is_renamed else b"old")
        assert os.listdir(tmp_path) == ["state.json"]
        if not disk.errors:
            break
    assert refused > 4


def test_what_need_not_be_durable_does_not_wait_for_the_disk(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    with disk.watching():
        write_atomically(tmp_path / "status.json", b"{}", durable=False)
    assert (tmp_path / "status.json").read_bytes() == b"{}"
    assert not [step for step in disk.steps if step.startswith("fsync")]


@pytest.mark.parametrize(("mode", "got"), [(0o666, 0o640), (0o644, 0o640), (0o600, 0o600)])
def test_the_umask_narrows_the_mode_and_a_leftovers_mode_counts_for_nothing(
    tmp_path: Path, mode: int, got: int
) -> None:
    leftover = tmp_path / ".key.new"
    leftover.write_bytes(b"begun, and longer")
    leftover.chmod(0o666)
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "key", b"secret", mode=mode)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == got
    assert (tmp_path / "key").read_bytes() == b"secret"


def test_access_is_given_before_there_is_anything_to_read(tmp_path: Path) -> None:
    sizes = []

    def access(descriptor: int) -> None:
        sizes.append(os.fstat(descriptor).st_size)
        os.fchmod(descriptor, 0o444)

    write_atomically(tmp_path / "file", b"content", mode=0o600, access=access)
    assert sizes == [0]
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o444


def test_a_link_in_the_temporary_files_place_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"untouched")
    (tmp_path / ".file.new").symlink_to(tmp_path / "other")
    write_atomically(tmp_path / "file", b"content")
    assert (tmp_path / "other").read_bytes() == b"untouched"
    assert not (tmp_path / "file").is_symlink()


def test_several_writers_of_a_shared_file_do_not_hinder_each_other(tmp_path: Path) -> None:
    path = tmp_path / "daemon.json"
    contents = [bytes([letter]) * 50_000 for letter in b"abcd"]
    start = threading.Barrier(len(contents))

    def write(content: bytes) -> None:
        start.wait()
        for _ in range(20):
            write_atomically(path, content, shared=True, durable=False)
            assert path.read_bytes() in contents

    with ThreadPoolExecutor(len(contents)) as pool:
        for written in [pool.submit(write, content) for content in contents]:
            written.result()
    assert os.listdir(tmp_path) == ["daemon.json"]


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
    readers = Readers(owner=os.geteuid(), group=os.getegid(), bits=bits)
    write_atomically(path, b"x", mode=0o600, access=lambda file: let_read(file, readers))
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("x", 0o600 | bits)
