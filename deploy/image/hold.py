"""Hold the namespaces that nginx and the sidecar share, and do nothing else, until SIGTERM.

As process 1 of the shared PID namespace it takes leave of processes whose parents are gone. Either of the two can be
restarted without the other: the namespaces end with this process alone.
"""

from __future__ import annotations

import os
import signal
import sys

ENDING = {signal.SIGTERM, signal.SIGINT}


def main() -> int:
    # Blocked first, so that none is lost; process 1 is sent nothing that it does not handle.
    awaited = {*ENDING, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    while signal.sigwait(awaited) not in ENDING:
        reap()
    return 0


def reap() -> None:
    """Take leave of every process that has ended: one SIGCHLD may stand for several."""
    try:
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    except ChildProcessError:
        pass


if __name__ == "__main__":
    sys.exit(main())
