"""Containers of the proxygen image with the least rights, as docs/how-to/harden.md gives them."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.harness import process
from tests.harness.engine import Engine

SECCOMP: Final = Path(__file__).parents[2] / "deploy" / "hardening" / "seccomp.json"
UID: Final = 101
"""The image's own user."""

LEAST: Final = (
    *("--cap-drop=ALL", "--security-opt=no-new-privileges"),
    *("--read-only", "--read-only-tmpfs=false", "--tmpfs=/tmp:mode=1777,size=64m"),
)
"""No capability and no way to one, nothing to write to but what is mounted."""


def fatal_profile(directory: Path) -> Path:
    """Write the shipped profile with one change: a call beyond its list ends the process.

    What is refused in silence, and what a program then does instead, would stay unseen.
    """
    profile = json.loads(SECCOMP.read_text(encoding="utf-8"))
    del profile["defaultErrnoRet"]
    file = directory / "fatal.json"
    file.write_text(json.dumps(profile | {"defaultAction": "SCMP_ACT_KILL_PROCESS"}), encoding="utf-8")
    return file


class Hardened:
    """One container with `LEAST`, a seccomp profile and whatever ``options`` add, on the host's network unless they say
    another."""

    def __init__(
        self, engine: Engine, image: str, name: str, *command: str, profile: Path | str, options: Sequence[str] = ()
    ) -> None:
        self.engine = engine
        self.name = name
        given = [*LEAST, f"--security-opt=seccomp={profile}", *options]
        if not any(option.startswith("--network") for option in options):
            given.append("--network=host")
        engine.call("run", "--detach", f"--name={name}", *given, image, *command)

    @property
    def pid(self) -> int:
        """The first process, as the host numbers it."""
        return int(self.engine.call("inspect", "--format={{.State.Pid}}", self.name))

    @property
    def said(self) -> str:
        command = [*self.engine.command, "logs", self.name]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
        return done.stdout

    def until_said(self, text: str, *, times: int = 1, timeout: float = 120.0) -> None:
        deadline = time.monotonic() + timeout
        while self.said.count(text) < times:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name} has not said {text!r} within {timeout:g} s:\n{self.said[-4000:]}")
            time.sleep(0.2)

    def execute(self, *command: str) -> str:
        """Run another command inside. Raise RuntimeError with what it said where it fails."""
        return self.engine.call("exec", self.name, *command)

    def processes(self) -> list[dict[str, str]]:
        """What /proc/PID/status says of the first process and of all below it."""
        return [_status(pid) for pid in _below(self.pid)]

    def ended(self) -> int:
        """Wait for the end and return the exit code."""
        return int(self.engine.call("wait", self.name))

    def stop(self) -> int:
        """Ask for a clean end and return the exit code."""
        self.engine.call("stop", "--time=20", self.name)
        return self.ended()


def _below(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return [pid, *(below for child in children if process.is_alive(int(child)) for below in _below(int(child)))]


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
