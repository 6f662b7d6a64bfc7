"""The terminal that we share with a command: given to it while it is in the foreground, as a shell does with its jobs.

Without this Ctrl-C would come to us and not to the command, and a command that reads would be stopped for ever.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import Final, Self

_STDIN: Final = 0
_TOO_EARLY: Final = (signal.SIGTTIN, signal.SIGTTOU)


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

        Return when we are continued, with the command. One that was stopped before it got the terminal goes on at once;
        so does one behind which nobody is who could continue it.
        """
        held = self.is_held_by(group)
        is_job = os.getsid(0) != os.getpid()
        if is_job and not (held and number in _TOO_EARLY):
            if held:
                self.give(os.getpgrp())
            os.kill(os.getpid(), signal.SIGSTOP)
            if self.is_held_by(os.getpgrp()):
                self.give(group)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGCONT)
