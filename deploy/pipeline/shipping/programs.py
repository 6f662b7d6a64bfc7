"""Other programs: started without a shell, told to end before they are killed, tried again where a network is."""

from __future__ import annotations

import random
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shipping.errors import Failure

_ATTEMPTS = 4
_FINAL = ("unauthorized", "authentication required", "denied", "certificate", "manifest unknown")
"""What a registry will say again, however often it is asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A program that ran to its end."""

    code: int
    output: str
    """What it wrote to standard output, where that was kept; else empty."""
    errors: str = ""

    @property
    def said(self) -> str:
        return f"{self.output}{self.errors}".strip()


def say(text: str) -> None:
    """Tell what happens, in order with what programs say."""
    print(text, file=sys.stderr, flush=True)


def attempt(
    command: Sequence[str],
    *,
    timeout: float,
    keep: bool = False,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> Ended:
    """Run a program and return how it ended. What it says goes to our own standard error, or is kept."""
    say(f"+ {shlex.join(command)}")
    pipe = subprocess.PIPE if keep else None
    out = subprocess.PIPE if keep else sys.stderr
    try:
        child = subprocess.Popen(  # noqa: S603 - a fixed command, no shell
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=pipe, text=True, env=environment, cwd=directory
        )
    except OSError as error:
        raise Failure(f"{command[0]} cannot be started: {error.strerror or error}") from error
    try:
        output, errors = child.communicate(timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise Failure(f"{command[0]} took longer than {timeout:g} s") from error
    finally:
        _end(child)
    return Ended(code=child.returncode, output=output or "", errors=errors or "")


def run(
    command: Sequence[str],
    *,
    timeout: float,
    keep: bool = False,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> str:
    """Run a program that must succeed; return what it wrote to standard output if that is to be kept."""
    ended = attempt(command, timeout=timeout, keep=keep, environment=environment, directory=directory)
    if ended.code:
        raise Failure(f"{_name(command)} ended with {ended.code}{_tail(ended)}")
    return ended.output


def run_patiently(command: Sequence[str], *, timeout: float, environment: Mapping[str, str] | None = None) -> str:
    """Run a program that speaks to a registry; try again after what may be a passing trouble."""
    for number in range(1, _ATTEMPTS + 1):
        ended = attempt(command, timeout=timeout, keep=True, environment=environment)
        if not ended.code:
            return ended.output
        is_final = any(word in ended.said.lower() for word in _FINAL)
        if is_final or number == _ATTEMPTS:
            raise Failure(f"{_name(command)} ended with {ended.code}{_tail(ended)}")
        pause = 2 ** (number - 1) * random.uniform(0.5, 1.5)
        say(f"{_name(command)} ended with {ended.code}; again in {pause:.1f} s{_tail(ended)}")
        time.sleep(pause)
    raise AssertionError("unreachable")


def _end(child: subprocess.Popen[str]) -> None:
    """End what still runs because we were told to end, or it took too long."""
    if child.poll() is not None:
        return
    child.terminate()
    try:
        child.wait(20)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _name(command: Sequence[str]) -> str:
    """The program and its subcommand, for a sentence; all of it was told before."""
    words = [word for word in command[1:] if not word.startswith("-")]
    return " ".join([Path(command[0]).name, *words[:1]])


def _tail(ended: Ended) -> str:
    lines = ended.said.splitlines()[-12:]
    return ":\n" + "\n".join(f"    {line}" for line in lines) if lines else ""
