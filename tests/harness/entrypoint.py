"""`proxygen register -- COMMAND` as a process of its own, as a container's engine would start it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from tests.harness import process, warm
from tests.harness.consul import ConsulAgent

_NOTHING: Mapping[str, str] = MappingProxyType({})


def _heed_hangups() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


class Entrypoint:
    """One entrypoint with its command; both write into one log. Without a Consul the environment names it."""

    def __init__(
        self,
        consul: ConsulAgent | None,
        log: Path,
        options: Sequence[object],
        environment: Mapping[str, str] = _NOTHING,
    ) -> None:
        self.log = log
        named = [] if consul is None else ["--consul-address", consul.address]
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [*warm.COLD, "register", *named, *map(str, options)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **environment},
                start_new_session=True,
                # Under nohup it would be ignored, and no shell may trap what it was told to ignore.
                preexec_fn=_heed_hangups,
            )

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def until_said(self, text: str) -> None:
        try:
            process.wait_until(lambda: text in self.said, what=f"{text!r}", timeout=30)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.said}") from error

    def send(self, how: signal.Signals) -> None:
        self.process.send_signal(how)

    def ended(self, timeout: float = 60) -> int:
        """Wait for the end and return the exit code."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(self.said) from error

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.send(how)
        return self.ended()

    def kill(self) -> None:
        """End it and everything below it, as an engine does that has lost its patience."""
        if self.process.poll() is not None:
            return
        below = _below(self.process.pid)
        self.process.kill()
        for pid in below:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


def _below(pid: int) -> list[int]:
    """The children of a process, and theirs."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:
        return []
    return [below for child in children for below in (int(child), *_below(int(child)))]
