"""The proof that a reload took. A HUP can be refused in silence, and one that is not can still end every worker.

Proven is: the expected generation answers, no worker of before still accepts, and one that is new has lived for a
while. Where nginx's processes cannot be seen: the expected generation answers, and no other one, for longer than
old and new workers accept side by side.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from proxygen.proxy.nginx.binary import Binary
from proxygen.proxy.nginx.conf import OperatorConf
from proxygen.proxy.nginx.errorlog import LogLine, LogTail
from proxygen.proxy.nginx.master import Master, Workers, find_master, is_alive, workers
from proxygen.proxy.nginx.stamp import Stamp, read_stamp
from proxygen.settings import ReloadSettings

_PAUSE: Final = 0.02
_ALIVE_PAUSE: Final = 0.06
# Between fork and the first look at the process's own name there is less; a worker that dies at once is not replaced.
_NO_WORKERS: Final = 0.15
# nginx tries five times in 2.5 s to bind a port, and says so each time; only the last word counts.
_NOT_YET: Final = "bind() to "
_REFUSED: Final = "nginx refused it: "
_ENDED: Final = "every worker ended as soon as it was started"


@dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    """nginx as it was before it was asked to reload. Made by `look`."""

    master: Master | None
    workers: Workers | None
    """None where they cannot be seen."""
    log: LogTail

    def unseen(self) -> Before:
        """The same, for a proof that rests on the stamp alone: the log may still tell of an earlier reload."""
        return replace(self, workers=None, log=LogTail(None))


@dataclass(frozen=True, slots=True, kw_only=True)
class Proven:
    """nginx runs the expected generation."""

    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Unproven:
    """nginx does not, or not certainly, run the expected generation."""

    reason: str
    log: tuple[str, ...]
    """What nginx wrote to its error log meanwhile, emerg, alert and crit only."""
    seconds: float
    served: Stamp | None
    """What answered last."""
    ended_workers: bool
    """It left nginx without workers: another attempt is another outage."""
    was_refused: bool = False
    """nginx said so."""


def look(conf: OperatorConf, binary: Binary) -> Before:
    """Look at nginx just before asking it to reload."""
    master = find_master(conf, binary)
    return Before(master=master, workers=workers(master) if master else None, log=LogTail(conf.error_log))


async def prove(
    before: Before, expected: Stamp | None, *, address: str, settings: ReloadSettings, allowed: float
) -> Proven | Unproven:
    """Watch nginx until the proof is there, is impossible, or ``allowed`` seconds are over.

    ``expected`` None: that no stamp answers, as before the first generation.
    """
    now = time.monotonic()
    watch = _Watch(before=before, expected=expected, settings=settings, started=now, now=now, served_since=now)
    # An answer can take long (without workers a connection waits in the backlog); the processes tell sooner.
    asking: asyncio.Task[Stamp | None] | None = None
    try:
        while True:
            asking = asking or asyncio.create_task(read_stamp(address), name="ask nginx for its stamp")
            answered, _ = await asyncio.wait({asking}, timeout=_PAUSE)
            watch.see_processes()
            if answered:
                watch.take_answer(asking.result())
                asking = None
                if watch.is_proven():
                    return Proven(seconds=watch.seconds)
                # Once all has turned over only the new worker's life is waited for; each look costs milliseconds.
                await asyncio.sleep(_PAUSE if watch.turned_over is None else _ALIVE_PAUSE)
            reason = watch.failure() or watch.give_up(allowed, address)
            if reason is not None:
                return watch.unproven(reason)
    finally:
        if asking is not None:
            asking.cancel()


@dataclass(slots=True, kw_only=True)
class _Watch:
    """What was seen so far, and since when it holds without a gap."""

    before: Before
    expected: Stamp | None
    settings: ReloadSettings
    started: float
    now: float
    served: Stamp | None = None
    served_since: float
    workers: Workers | None = None
    survivors: frozenset[int] = frozenset()
    """New workers that accept since `turned_over`."""
    turned_over: float | None = None
    had_workers: bool = False
    without_workers: float | None = None

    @property
    def seconds(self) -> float:
        return self.now - self.started

    def see_processes(self) -> None:
        """Look at the master's children."""
        self.now = time.monotonic()
        if self.before.master is None or self.before.workers is None:
            return
        self.workers = workers(self.before.master)
        if self.workers is None:
            return
        here = self.workers.accepting | self.workers.starting
        # After an outage there is nobody to miss until the reload has brought somebody.
        self.had_workers = self.had_workers or bool(here)
        self.without_workers = (self.without_workers or self.now) if self.had_workers and not here else None

    def take_answer(self, served: Stamp | None) -> None:
        """Take what nginx answered a moment ago, beside the processes seen since."""
        if served != self.served:
            self.served, self.served_since = served, self.now
        if self.before.workers is None or self.workers is None:
            return
        old = self.before.workers.accepting | self.before.workers.starting
        new = self.workers.accepting - old
        self.survivors = self.survivors & new if self.turned_over is not None else new
        if served != self.expected or self.workers.accepting & old or not self.survivors:
            self.turned_over = None
        elif self.turned_over is None:
            self.turned_over = self.now

    def is_proven(self) -> bool:
        if self.before.workers is not None:
            return self.turned_over is not None and self.now - self.turned_over >= self.settings.alive_after
        return self.served == self.expected and self.now - self.served_since >= self.settings.overlap

    def failure(self) -> str | None:
        """Why there can be no proof any more."""
        master = self.before.master
        refusal = _refusal(self.before.log.read(), master)
        if refusal is not None:
            return f"{_REFUSED}{refusal}"
        if master is not None and not is_alive(master):
            return f"nginx's master process {master.pid} is gone"
        if self.without_workers is not None and self.now - self.without_workers >= _NO_WORKERS:
            return _ENDED
        return None

    def give_up(self, allowed: float, address: str) -> str | None:
        """Say what the proof still lacks once the time for it is over."""
        if self.seconds <= allowed:
            return None
        return f"nginx did not confirm the reload within {self.seconds:.1f}s: {self._missing(address)}"

    def _missing(self, address: str) -> str:
        if self.served != self.expected:
            return f"generation {self.served.generation} answers" if self.served else f"no stamp answers at {address}"
        if self.before.workers is not None and self.workers is not None:
            old = sorted(self.workers.accepting & self.before.workers.accepting)
            return f"old workers {', '.join(map(str, old))} still accept" if old else "no new worker stays alive"
        return "other generations answered in between"

    def unproven(self, reason: str) -> Unproven:
        return Unproven(
            reason=reason,
            log=tuple(map(str, self.before.log.lines)),
            seconds=self.seconds,
            served=self.served,
            ended_workers=reason == _ENDED,
            was_refused=reason.startswith(_REFUSED),
        )


def _refusal(lines: Iterable[LogLine], master: Master | None) -> str | None:
    """The line by which the master gave a reload up; anybody's where the master is out of sight."""
    for line in lines:
        ours = master is None or line.pid == master.own_pid
        if line.level == "emerg" and ours and not line.text.startswith(_NOT_YET):
            return line.text
    return None
