"""The one door to other programs."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from proxygen.kit.errors import NginxUnavailable, ProgramUnavailable
from proxygen.kit.programs import run
from proxygen.proxy.nginx.process import run as run_nginx
from tests.harness.process import is_alive


async def test_no_shell_reads_the_arguments() -> None:
    completed = await run(("echo", "$HOME;", "*", "a b"), timeout=5)
    assert (completed.returncode, completed.output) == (0, "$HOME; * a b\n")


async def test_both_outputs_come_back_in_order() -> None:
    code = "import os; os.write(1, b'one '); os.write(2, b'two '); os.write(1, b'three'); raise SystemExit(3)"
    completed = await run((sys.executable, "-c", code), timeout=20)
    assert (completed.returncode, completed.output) == (3, "one two three")


async def test_what_it_is_given_to_read_is_read_while_it_talks() -> None:
    text = "ä" * 3_000_000
    completed = await run(("cat",), timeout=20, stdin=text)
    assert (completed.returncode, completed.output[:10], completed.output[-10:]) == (0, text[:10], text[-10:])


async def test_a_program_with_nothing_to_read_finds_the_end_at_once() -> None:
    assert (await run(("cat",), timeout=20)).output == ""


async def test_a_program_may_end_without_reading() -> None:
    completed = await run(("sh", "-c", "exit 3"), timeout=20, stdin="x" * 3_000_000)
    assert completed.returncode == 3


async def test_a_program_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    script = f"sleep 60 & echo $! > {tmp_path}/child; wait"
    started = time.monotonic()
    with pytest.raises(ProgramUnavailable, match=r"did not end within 0\.5s"):
        await run(("sh", "-c", script), timeout=0.5)
    assert time.monotonic() - started < 5
    child = int((tmp_path / "child").read_text())
    assert _gone(child)


async def test_a_child_left_behind_is_ended_too(tmp_path: Path) -> None:
    """A daemon started by a reload command must not outlive it in our session."""
    script = f"sleep 60 > /dev/null 2>&1 & echo $! > {tmp_path}/child"
    await run(("sh", "-c", script), timeout=5)
    assert _gone(int((tmp_path / "child").read_text()))


async def test_a_flood_of_output_keeps_its_two_ends() -> None:
    code = "print('first'); print('x' * 5_000_000); print('last')"
    completed = await run((sys.executable, "-c", code), timeout=20)
    assert completed.output.startswith("first\n")
    assert completed.output.endswith("last\n")
    assert "bytes left out" in completed.output
    assert len(completed.output) < 300_000


async def test_a_missing_program_is_named() -> None:
    with pytest.raises(ProgramUnavailable, match="no-such-program cannot be started"):
        await run(("no-such-program",), timeout=5)


def _gone(pid: int) -> bool:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if not is_alive(pid):
            return True
        time.sleep(0.02)
    return False


async def test_for_nginx_its_absence_is_said() -> None:
    with pytest.raises(NginxUnavailable, match="no-such-program cannot be started"):
        await run_nginx(("no-such-program",), timeout=5)
