"""OUTPUT on real file systems that refuse; each test has its own mount namespace, so that nothing stays mounted."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root and unshare, to mount"
)

_PRELUDE = """
import subprocess, sys
from pathlib import Path
from proxygen.kit.errors import OutputUnusable
from proxygen.proxy.apply.publish import *
from proxygen.proxy.nginx.stamp import Stamp
from tests.harness.generations import staged

directory = Path(sys.argv[1])

def mount(*arguments):
    subprocess.run(["mount", *map(str, arguments)], check=True)

def put(output, size=10):
    number = next_number(output)
    publish(output, staged(output, Stamp(generation=number, digest="0" * 16), {"http.d/a.conf": b"x" * size}), {})

def refused(action):
    try:
        action()
    except OutputUnusable as error:
        print(error)
    else:
        raise SystemExit("not refused")

def hold():
    with hold_output(directory):
        pass
"""


def _run(directory: Path, code: str) -> str:
    """Run code as root of a mount namespace; return what it printed."""
    completed = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", _PRELUDE + code, str(directory)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if "unshare failed" in completed.stderr or "permission denied" in completed.stderr:
        pytest.skip(f"no mount namespace here: {completed.stderr.strip()}")
    assert completed.returncode == 0, completed.stderr
    return completed.stdout


def test_a_bind_mounted_file_is_refused(tmp_path: Path) -> None:
    """T19: a single file mounted where the directory should be."""
    (tmp_path / "one").write_text("")
    (tmp_path / "output").write_text("")
    code = "mount('--bind', directory.parent / 'one', directory); refused(hold)"
    assert "mount a directory, never a single file" in _run(tmp_path / "output", code)


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_mount_on_current_is_refused(tmp_path: Path, kind: str) -> None:
    """T19: renaming onto a mount point fails for ever; the operator must mount the directory around it."""
    make = Path.touch if kind == "file" else Path.mkdir
    (tmp_path / "output").mkdir()
    make(tmp_path / "one")
    make(tmp_path / "output/current")
    code = "mount('--bind', directory.parent / 'one', directory / 'current'); refused(hold)"
    printed = _run(tmp_path / "output", code)
    assert f"{tmp_path}/output/current is a mount point" in printed
    assert f"mount {tmp_path}/output instead" in printed


def test_a_mount_inside_output_is_refused(tmp_path: Path) -> None:
    (tmp_path / "output/generations").mkdir(parents=True)
    code = "mount('-t', 'tmpfs', 'none', directory / 'generations')\n"
    code += "with hold_output(directory) as output: refused(lambda: put(output))"
    assert "is another file system" in _run(tmp_path / "output", code)


def test_a_read_only_output_is_refused_at_start(tmp_path: Path) -> None:
    (tmp_path / "output").mkdir()
    code = "mount('-t', 'tmpfs', '-o', 'ro', 'none', directory); refused(hold)"
    assert "it is read-only; mount it writable" in _run(tmp_path / "output", code)


_LATER = """
mount('-t', 'tmpfs', '-o', 'size=256k', 'none', directory)
with hold_output(directory) as output:
    put(output)
    {break_it}
    refused(lambda: put(output))
    assert current(directory) == 1
    assert (directory / "current/http.d/a.conf").read_bytes() == b"x" * 10
    {mend_it}
    put(output)
    assert current(directory) == 2
"""


def test_an_output_that_becomes_read_only_recovers_by_itself(tmp_path: Path) -> None:
    """T28: the last generation stays live, the error is clear, and the next attempt after it is writable succeeds."""
    (tmp_path / "output").mkdir()
    code = _LATER.format(
        # A second mount on top: the lock is open for writing, which forbids to remount the first one.
        break_it="mount('--bind', directory, directory); mount('-o', 'remount,bind,ro', directory)",
        mend_it="subprocess.run(['umount', directory], check=True)",
    )
    assert "it is read-only" in _run(tmp_path / "output", code)


def test_a_full_disk_recovers_by_itself(tmp_path: Path) -> None:
    """T28: an attempt that finds the disk full leaves nothing behind that keeps it full."""
    (tmp_path / "output").mkdir()
    code = _LATER.format(
        break_it="(directory / 'filler').write_bytes(b'x' * (200 << 10)); refused(lambda: put(output, 100 << 10))",
        mend_it="(directory / 'filler').unlink()",
    ).replace("    refused(lambda: put(output))\n", "    assert list((directory / 'stage').iterdir()) == []\n")
    assert "its file system is full" in _run(tmp_path / "output", code)
