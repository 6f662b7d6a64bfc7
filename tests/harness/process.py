"""Child processes that are stopped by the id they were started with."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

from tests.harness import seen

PATIENCE: Final = 60.0
"""Seconds: no wait is shorter for it where things go well, and a machine may be busy with anything."""


class Started(Protocol):
    """What of `subprocess.Popen` a test needs."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int, /) -> None: ...
    def kill(self) -> None: ...


def start(command: Sequence[str | Path], *, log: Path, cwd: Path | None = None) -> subprocess.Popen[bytes]:
    """Start a command in its own session, so that Ctrl-C in pytest reaches it through `stop` only.

    A test that fails shows what was written to ``log`` meanwhile.
    """
    # From here on: the first words may come before it is known who says them.
    seen.log(log)
    with log.open("ab") as output:
        started = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=cwd,
            start_new_session=True,
        )
    seen.log(log, started)
    return started


def stop(process: Started, how: signal.Signals = signal.SIGTERM, *, patience: float = PATIENCE) -> int:
    """Signal, wait, and kill what does not go in time. Return the exit status."""
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)
        process.send_signal(how)
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait(patience)


_PAUSE = 0.02
_LONGEST_PAUSE = 1.0
"""Seconds between two questions. A question that hangs tells nothing of how long to wait after it."""
_IN_A_ROW = 20
_STEADY_FOR = 0.5
"""Seconds: several times as long as nginx lets old and new workers accept side by side. A count alone proves little,
since an idle kernel may wake the same worker each time."""


def wait_until(condition: Callable[[], object], *, what: str, timeout: float = PATIENCE) -> None:
    """Poll until the condition holds; an OSError counts as "not yet". Raise TimeoutError naming what was awaited.

    What takes long to ask is asked less often, so that no wait takes more than half of a core from what it waits for.
    """
    deadline = time.monotonic() + timeout
    while True:
        asked = time.monotonic()
        with contextlib.suppress(OSError):
            if condition():
                return
        now = time.monotonic()
        if now > deadline:
            raise TimeoutError(f"{what}: not within {timeout:g} s")
        time.sleep(min(max(_PAUSE, now - asked), _LONGEST_PAUSE))


def is_alive(pid: int) -> bool:
    """Tell whether a process runs. One that ended and waits for a parent that never asks is not alive."""
    return state(pid) not in {"", "Z"}


def state(pid: int) -> str:
    """Return the letter of proc(5), empty where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def wait_steady(condition: Callable[[], object], *, what: str, timeout: float = PATIENCE) -> None:
    """Like `wait_until`, until it holds many times in a row: in a reload an old worker answers beside the new ones."""

    def holds_still() -> bool:
        begin = time.monotonic()
        asked = 0
        while asked < _IN_A_ROW or time.monotonic() - begin < _STEADY_FOR:
            if not condition():
                return False
            asked += 1
            time.sleep(_STEADY_FOR / _IN_A_ROW / 2)
        return True

    wait_until(holds_still, what=what, timeout=timeout)
