"""Registration's one door to other programs: started without a shell, in a group of their own, and all of them reaped.

Fit for PID 1 of a container: whatever loses its parent there becomes our child, and would stay a zombie.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, Self

from proxygen.kit.errors import CannotStart, quoted
from proxygen.registration.terminal import Terminal

_PR_SET_CHILD_SUBREAPER: Final = 36
_NOT_FOUND: Final = 127
_NOT_EXECUTABLE: Final = 126
"""Exit codes of a command that cannot be started, as in every shell."""

_LONGEST_FIRST_LINE: Final = 256
"""Bytes of which the kernel reads an interpreter's name."""

_OUT_OF_REACH: Final = (ProcessLookupError, PermissionError)
"""Gone, or run by another user by now."""


class Child:
    """One program that we started. Its group keeps its number for as long as anything in it lives."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.pid = process.pid
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """The exit code as a shell tells it: 128 and the signal's number for a program that a signal ended."""
        self._process = process

    def settle(self, returncode: int) -> None:
        """Take what `waitpid` told; negative is the signal that ended it."""
        # Popen would wait for it once more.
        self._process.returncode = returncode
        self.exited.set_result(returncode if returncode >= 0 else 128 - returncode)

    def send(self, number: int) -> None:
        """Signal the program itself, if it still runs."""
        if not self.exited.done():
            with suppress(*_OUT_OF_REACH):
                os.kill(self.pid, number)

    def send_group(self, number: int) -> None:
        """Signal the program and everything that it started and that stayed in its group."""
        with suppress(*_OUT_OF_REACH):
            os.killpg(self.pid, number)

    def group_lives(self) -> bool:
        """Tell whether the program or anything that stayed in its group runs."""
        try:
            os.killpg(self.pid, 0)
        except _OUT_OF_REACH as error:
            return isinstance(error, PermissionError)
        return True


class Children:
    """Starts programs, and reaps them and every orphan that comes to us. One at a time in a process, in its main
    thread; nothing else in the process may start programs meanwhile."""

    def __init__(self) -> None:
        self._by_pid: dict[int, Child] = {}
        self._terminals: dict[int, Terminal] = {}
        """Of those that share ours."""

    def __enter__(self) -> Self:
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._reap)
        # As PID 1 we are the reaper anyway; elsewhere it is a favour that an old kernel may refuse.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGCHLD)

    def start(self, argv: Sequence[str], *, quiet: bool = False) -> Child:
        """Start a program with our standard streams unless ``quiet``.

        It is in the foreground of our terminal where we are, and without a terminal in a session of its own.

        Raise CannotStart.
        """
        terminal = None if quiet else Terminal.ours()
        try:
            process = _start(argv, is_quiet=quiet, has_terminal=terminal is not None)
        except OSError as error:
            code = _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_EXECUTABLE
            raise CannotStart(f"{argv[0]} cannot be started: {_why(argv[0], error)}", exit_code=code) from error
        except ValueError as error:
            raise CannotStart(f"{argv[0]!r} cannot be started: {error}", exit_code=_NOT_EXECUTABLE) from error
        child = self._by_pid[process.pid] = Child(process)
        if terminal is not None:
            self._terminals[process.pid] = terminal
            if terminal.is_held_by(os.getpgrp()):
                terminal.give(process.pid)
        return child

    async def run(self, argv: Sequence[str], *, timeout: float) -> int:  # noqa: ASYNC109 - it ends the program
        """Run a program without input or output to its end; its whole group is dead afterwards.

        Return the exit code. Raise TimeoutError when it did not end in time, and CannotStart.
        """
        child = self.start(argv, quiet=True)
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.shield(child.exited)
        finally:
            child.send_group(signal.SIGKILL)

    def _reap(self) -> None:
        # Signals of one kind coalesce: one SIGCHLD may stand for many.
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if os.WIFSTOPPED(status):
                self._stopped(pid, os.WSTOPSIG(status))
            elif (child := self._by_pid.pop(pid, None)) is not None:
                self._take_back(pid)
                child.settle(os.waitstatus_to_exitcode(status))

    def _stopped(self, pid: int, number: int) -> None:
        terminal = self._terminals.get(pid)
        if terminal is not None:
            terminal.stop_with(pid, number)

    def _take_back(self, pid: int) -> None:
        terminal = self._terminals.pop(pid, None)
        if terminal is not None and terminal.is_held_by(pid):
            terminal.give(os.getpgrp())


def _why(program: str, error: OSError) -> str:
    """What its owner can mend, where the kernel's word for it says something else."""
    if error.errno == errno.ENOEXEC:
        return f"{error.strerror}; it begins with no line such as #!/bin/sh, or is for another kind of machine"
    path = shutil.which(program)
    if error.errno == errno.ENOENT and path is not None:
        with suppress(OSError), open(path, "rb") as file:
            return f"it is there, and its {_interpreter(file.readline(_LONGEST_FIRST_LINE))} is not"
    return str(error.strerror)


def _interpreter(first_line: bytes) -> str:
    if not first_line.startswith(b"#!"):
        return "loader (ld.so, of another libc?)"
    # The kernel takes a carriage return for a part of the name.
    name = re.split(r"[ \t\n]", os.fsdecode(first_line[2:].lstrip()))[0]
    return f"interpreter {quoted(name)}"


def _start(argv: Sequence[str], *, is_quiet: bool, has_terminal: bool) -> subprocess.Popen[bytes]:
    stream = subprocess.DEVNULL if is_quiet else None
    # A session of its own would have no terminal.
    apart: dict[str, Any] = {"process_group": 0} if has_terminal else {"start_new_session": True}
    return subprocess.Popen(list(argv), stdin=stream, stdout=stream, stderr=stream, **apart)  # noqa: S603 - no shell
