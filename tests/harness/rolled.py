"""An instance for a container: ``python -m tests.harness.rolled NAME PORT SIGNAL [SECONDS]``.

It ends with 0 by that signal and no other, after it has gone on answering for the seconds. Without any it counts as
`tests.harness.instance` does: 9 where a request came after the signal.
"""

from __future__ import annotations

import signal
import sys
import threading

from proxygen.registration.signals import find_signal
from tests.harness.instance import LATE, Instance


def main(name: str, port: str, stop_signal: str, seconds: str = "0") -> int:
    instance = Instance(name, int(port), host="0.0.0.0")
    number, goes_on = find_signal(stop_signal), float(seconds)
    assert number is not None
    told = threading.Event()

    def end() -> None:
        told.wait()
        threading.Event().wait(goes_on)
        instance.shutdown()

    def tell(*_: object) -> None:
        if not goes_on:
            instance.told.set()
        told.set()

    threading.Thread(target=end, daemon=True).start()
    signal.signal(number, tell)
    instance.serve_forever(poll_interval=0.05)
    instance.server_close()
    return LATE if instance.late else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
