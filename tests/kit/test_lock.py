"""One holder at a time, who is named, and whose end ends the lock."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from proxygen.kit.lock import LockHeld, hold_lock, is_locked, sign

HOLDER = (
    "import sys; from pathlib import Path; from proxygen.kit.lock import hold_lock, sign\n"
    "with hold_lock(Path(sys.argv[1])) as lock: sign(lock); print('held', flush=True); sys.stdin.read()"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lock"


def test_one_holder_at_a_time(path: Path) -> None:
    for _ in range(2):
        assert not is_locked(path)
        with hold_lock(path):
            assert is_locked(path)
            with pytest.raises(LockHeld), hold_lock(path):
                pass
            assert is_locked(path)
    assert not is_locked(path)


def test_a_holder_that_is_killed_holds_nothing(path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(LockHeld) as refused, hold_lock(path):
            pass
        assert refused.value.holder == str(holder.pid)
        assert is_locked(path)
        holder.kill()
    assert not is_locked(path)
    with hold_lock(path):
        pass


def test_a_holder_that_did_not_sign_is_unknown(path: Path) -> None:
    with hold_lock(path), pytest.raises(LockHeld, match="process unknown"), hold_lock(path):
        pass


def test_a_shorter_number_leaves_no_digit_of_the_one_before(path: Path) -> None:
    path.write_text("123456789012345\n", encoding="ascii")
    with hold_lock(path) as lock:
        sign(lock)
        assert path.read_text(encoding="ascii") == f"{os.getpid()}\n"


def test_who_looks_at_a_lock_keeps_nobody_from_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The look is over by the time of the second attempt."""
    looking = path.open("wb")
    fcntl.flock(looking, fcntl.LOCK_SH)
    pauses = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        looking.close()

    monkeypatch.setattr(time, "sleep", pause)
    with hold_lock(path):
        assert is_locked(path)
    assert len(pauses) == 1
