"""Commands of proxygen's in processes that need not import it: a start costs a fork, not a second of processor.

multiprocessing's fork server imports it once in each process of pytest. What it starts is a process with an id, a
session, an environment and a working directory of its own, and runs the command from `proxygen.cli.main` on. It has the
fork server's memory and hash seed, and ``ps`` shows the fork server's command: who measures a start, or wants a restart
to be by another interpreter, starts `COLD`.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from proxygen.cli import main
from tests.harness import seen
from tests.harness.entering import enter_for_good

COLD: Final = (sys.executable, "-m", "proxygen")
"""The command as its users have it."""

_CONTEXT: Final = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        *(
            f"proxygen.cli.{name}"
            for name in ("admin", "canary", "history", "registrator", "render", "run", "snapshot")
        ),
        *(f"proxygen.cli.network{name}" for name in ("", "_docker", "_frr", "_host", "_status")),
        "tests.harness.warm",
    ]
)
_ONE_AT_A_TIME: Final = threading.Lock()
"""Each start asks for the end of all others, and of two threads that ask for one's only the first is told."""


class Forked:
    """What of `subprocess.Popen` a test needs."""

    def __init__(self, arguments: Sequence[str | Path], *, stdout: Path, stderr: Path, namespace: str = "") -> None:
        self.args: Final = ["proxygen", *map(str, arguments)]
        place = (namespace, str(Path.cwd()), dict(os.environ), str(stdout), str(stderr))
        # As a daemon: one that a test leaves behind is asked to end when pytest does.
        self._process: Final = _CONTEXT.Process(target=_run, args=(self.args, *place), daemon=True)
        with _ONE_AT_A_TIME:
            self._process.start()
        assert self._process.pid is not None
        self.pid: Final[int] = self._process.pid

    @property
    def returncode(self) -> int | None:
        with _ONE_AT_A_TIME:
            return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Raise subprocess.TimeoutExpired where it takes longer than so many seconds."""
        multiprocessing.connection.wait([self._process.sentinel], timeout)
        status = self.returncode
        if status is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return status

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            # It may have ended without our knowing yet.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def start(arguments: Sequence[str | Path], *, log: Path, namespace: str = "") -> Forked:
    """Like `process.start`, for a command of proxygen's; in a network namespace where one is named."""
    seen.log(log)
    started = Forked(arguments, stdout=log, stderr=log, namespace=namespace)
    seen.log(log, started)
    return started


def run(arguments: Sequence[str | Path], *, timeout: float, namespace: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command of proxygen's to its end. Raise subprocess.TimeoutExpired, with the process killed."""
    with tempfile.TemporaryDirectory() as directory:
        stdout, stderr = Path(directory, "stdout"), Path(directory, "stderr")
        for path in (stdout, stderr):
            path.touch()
        started = Forked(arguments, stdout=stdout, stderr=stderr, namespace=namespace)
        try:
            status = started.wait(timeout)
        except subprocess.TimeoutExpired as error:
            error.output, error.stderr = stdout.read_bytes(), stderr.read_bytes()
            raise
        finally:
            started.kill()
        return subprocess.CompletedProcess(started.args, status, stdout.read_text(), stderr.read_text())


def _run(arguments: list[str], namespace: str, cwd: str, environment: dict[str, str], *outputs: str) -> None:
    os.setsid()
    for descriptor, path in enumerate(outputs, 1):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        os.dup2(opened, descriptor)
        os.close(opened)
    if namespace:
        enter_for_good(namespace)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = arguments
    main()
