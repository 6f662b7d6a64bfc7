"""The proof that a reload took. A HUP can be refused in silence, and one that is not can still end every worker.

Proven is: the expected generation answers, no worker of before still accepts, and one that is new has lived for a
while. Where nginx's processes cannot be seen: the expected generation answers, and no other one, for longer than
old and new workers accept side by side.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from proxygen.nginx.binary import Binary
from proxygen.nginx.conf import OperatorConf
from proxygen.nginx.errorlog import LogLine, LogTail
from proxygen.nginx.master import Master, Workers, find_master, is_alive, workers
from proxygen.nginx.stamp import Stamp, read_stamp
from proxygen.settings import ReloadSettings

_PAUSE: Final = 0.02
# Between fork and the first look at the process's own name there is less; a worker that dies at once is not replaced.
_NO_WORKERS: Final = 0.15
# nginx tries five times in 2.5 s to bind a port, and says so each time; only the last word counts.
_NOT_YET: Final = "bind() to "


@dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    """nginx as it was before it was asked to reload. Made by `look`."""

    master: Master | None
    workers: Workers | None
    """None where they cannot be seen."""
    log: LogTail

    def unseen(self) -> Before:
        """The same, for a proof that rests on the stamp alone."""
        return replace(self, workers=None)


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
    served_for: float
    """For how long nothing else did."""


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
    watch = _Watch(before=before, expected=expected, settings=settings)
    while True:
        watch.take(await read_stamp(address))
        seconds = watch.now - watch.started
        if watch.is_proven():
            return Proven(seconds=seconds)
        reason = watch.failure()
        if reason is None and seconds > allowed:
            reason = f"nginx did not confirm the reload within {seconds:.1f}s: {watch.missing(address)}"
        if reason is not None:
            return Unproven(
                reason=reason,
                log=tuple(map(str, before.log.lines)),
                seconds=seconds,
                served=watch.served,
                served_for=watch.now - watch.served_since,
            )
        await asyncio.sleep(_PAUSE)


@dataclass(slots=True, kw_only=True)
class _Watch:
    """What was seen so far, and since when it holds without a gap."""

    before: Before
    expected: Stamp | None
    settings: ReloadSettings
    started: float = field(default_factory=time.monotonic)
    now: float = field(default_factory=time.monotonic)
    served: Stamp | None = None
    served_since: float = field(default_factory=time.monotonic)
    workers: Workers | None = None
    survivors: frozenset[int] = frozenset()
    """New workers that accept since `turned_over`."""
    turned_over: float | None = None
    without_workers: float | None = None

    def take(self, served: Stamp | None) -> None:
        """Take the answer of a moment ago, and look at the processes."""
        self.now = time.monotonic()
        if served != self.served:
            self.served, self.served_since = served, self.now
        if self.before.master is None or self.before.workers is None:
            return
        self.workers = workers(self.before.master)
        if self.workers is None:
            return
        self._follow_turnover(self.workers)
        empty = not self.workers.accepting and not self.workers.starting
        self.without_workers = (self.without_workers or self.now) if empty else None

    def _follow_turnover(self, seen: Workers) -> None:
        assert self.before.workers is not None
        old = self.before.workers.accepting | self.before.workers.starting
        new = seen.accepting - old
        self.survivors = self.survivors & new if self.turned_over is not None else new
        if self.served != self.expected or seen.accepting & old or not self.survivors:
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
            return f"nginx refused it: {refusal}"
        if master is not None and not is_alive(master):
            return f"nginx's master process {master.pid} is gone"
        if self.without_workers is not None and self.now - self.without_workers >= _NO_WORKERS:
            return "every worker ended as soon as it was started"
        return None

    def missing(self, address: str) -> str:
        """What the proof still lacks."""
        if self.served != self.expected:
            return f"generation {self.served.generation} answers" if self.served else f"no stamp answers at {address}"
        if self.before.workers is not None and self.workers is not None:
            old = sorted(self.workers.accepting & self.before.workers.accepting)
            return f"old workers {', '.join(map(str, old))} still accept" if old else "no new worker stays alive"
        return "other generations answered in between"


def _refusal(lines: Iterable[LogLine], master: Master | None) -> str | None:
    """The line by which the master gave a reload up; anybody's where the master is out of sight."""
    for line in lines:
        ours = master is None or line.pid == master.own_pid
        if line.level == "emerg" and ours and not line.text.startswith(_NOT_YET):
            return line.text
    return None
