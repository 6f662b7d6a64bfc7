"""The terminal that we share with a command: given to it while it is in the foreground, as a shell does with its jobs.

Without this Ctrl-C would come to us and not to the command, and a command that reads would be stopped for ever.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

_STDIN: Final = 0
_FOR_THE_TERMINAL: Final = (signal.SIGTTIN, signal.SIGTTOU)
"""What stops a group that reads or writes while another has the terminal."""


class Terminal:
    """Our controlling terminal, on standard input."""

    @classmethod
    def ours(cls) -> Self | None:
        """None where standard input is no terminal, or another session's."""
        with suppress(OSError):
            os.tcgetpgrp(_STDIN)
            return cls()
        return None

    def is_held_by(self, group: int) -> bool:
        """Whether a process group is in the foreground."""
        with suppress(OSError):
            return os.tcgetpgrp(_STDIN) == group
        return False

    def give(self, group: int) -> None:
        """Put a process group into the foreground, from wherever we are. A terminal that is gone is no error."""
        # The kernel stops who does that from the background, but for who blocks the signal.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
        try:
            with suppress(OSError):
                os.tcsetpgrp(_STDIN, group)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTTOU})

    def stop_with(self, group: int, number: int) -> None:
        """Stop too when a command was stopped, so that the shell that started us as a job sees that.

        Return when we are continued, with the command. One that was stopped before it got the terminal goes on at once.
        So does one behind which there is no shell that could continue it; where it asked for the terminal it gets it,
        or it would be stopped again, and again.
        """
        held, asks = self.is_held_by(group), number in _FOR_THE_TERMINAL
        if _is_a_job():
            if not (held and asks):
                self._stop(group, held=held)
        elif asks:
            self.give(group)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGCONT)

    def _stop(self, group: int, *, held: bool) -> None:
        if held:
            self.give(os.getpgrp())
        os.kill(os.getpid(), signal.SIGSTOP)
        if self.is_held_by(os.getpgrp()):
            self.give(group)


def _is_a_job() -> bool:
    """Whether a shell put us into a group: above our group there is a process of our session. The kernel counts the
    same way, and ignores Ctrl-Z elsewhere."""
    pid = os.getpid()
    with suppress(OSError):
        while os.getpgid(pid) == os.getpgrp():
            pid = _parent(pid)
        return os.getsid(pid) == os.getsid(0)
    return False


def _parent(pid: int) -> int:
    """The process above; raise ProcessLookupError above the first one."""
    parent = int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1])
    if parent == 0:
        raise ProcessLookupError
    return parent
