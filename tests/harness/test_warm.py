"""A command that was forked is one that was started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness import process, warm
from tests.harness.ports import free_port


def started(tmp_path: Path) -> warm.Forked:
    """A registrator that waits for an engine which is not there."""
    nobody = f"127.0.0.1:{free_port()}"
    options = ("--registrator-engine", f"tcp://{nobody}", "--consul-address", nobody, "--log-format", "json")
    return warm.start(["registrator", *options], log=tmp_path / "log")


@pytest.mark.parametrize(
    "arguments", [["--version"], ["render", "--help"], ["rendr"], ["status", "--admin-listen", "x"]]
)
def test_it_says_and_returns_what_the_cold_one_does(arguments: list[str]) -> None:
    cold = subprocess.run([*warm.COLD, *arguments], capture_output=True, text=True, timeout=60, check=False)
    found = warm.run(arguments, timeout=60)
    assert (found.returncode, found.stdout, found.stderr) == (cold.returncode, cold.stdout, cold.stderr)


def test_it_has_the_environment_and_the_directory_of_the_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROXYGEN_CONFIG", "only-here.toml")
    assert "only-here.toml" in warm.run(["check"], timeout=60).stderr


def test_a_signal_reaches_it_and_its_status_tells_of_it(tmp_path: Path) -> None:
    killed, asked = started(tmp_path), started(tmp_path)
    for one in (killed, asked):
        process.wait_until(lambda: (tmp_path / "log").read_text().count("\n") >= 2, what="both at work")
        assert one.poll() is None
        assert os.getsid(one.pid) == one.pid
    assert process.stop(killed, signal.SIGKILL) == -signal.SIGKILL
    assert process.stop(asked) == 0
    # Nobody is there any more, and it is no error to say so again.
    killed.kill()


def test_what_a_command_wrote_is_told_where_it_takes_too_long() -> None:
    nobody = f"127.0.0.1:{free_port()}"
    told = ""
    # What is too long depends on the machine: it has to have written something by then.
    for timeout in (2, 4, 8, 16):
        with pytest.raises(subprocess.TimeoutExpired) as caught:
            warm.run(
                ["registrator", "--registrator-engine", f"tcp://{nobody}", "--consul-address", nobody], timeout=timeout
            )
        told = str(caught.value.stderr) + str(caught.value.output)
        if nobody in told:
            break
    assert nobody in told


def test_a_process_that_could_not_begin_says_why() -> None:
    ended = warm.run(["--version"], timeout=60, namespace="nowhere")
    assert ended.returncode == 1
    assert "/run/netns/nowhere" in ended.stderr
    assert sys.executable not in ended.stdout
