"""One apply: publish, reload, prove; and back to what served before when the proof does not come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from errno import EADDRINUSE
from typing import Any, Final

from proxygen.kit.errors import NginxUnavailable
from proxygen.proxy.apply.held import held_addresses, restart_needed, shared_with_others
from proxygen.proxy.apply.observe import Before, Proven, Unproven, look, prove
from proxygen.proxy.apply.outcome import FAILED, Outcome, WayToNginx
from proxygen.proxy.apply.publish import (
    Output,
    current,
    discard,
    mark_proven,
    proven,
    prune,
    publish,
    read_generation,
    require_generation,
    switch,
)
from proxygen.proxy.apply.reload import ask_reload
from proxygen.proxy.check.gates import Checked
from proxygen.proxy.guard.flapping import crowds
from proxygen.proxy.nginx.addresses import Address, Listens, occupied
from proxygen.proxy.nginx.binary import Binary
from proxygen.proxy.nginx.conf import OperatorConf
from proxygen.proxy.nginx.listens import listens_of
from proxygen.proxy.nginx.master import Master
from proxygen.proxy.nginx.stamp import Stamp, read_stamp
from proxygen.settings import NginxSettings, ReloadSettings

_DRAIN_PAUSE: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """The end of one apply."""

    outcome: Outcome
    generation: int | None
    """The live one now."""
    refused: int | None = None
    """The one that nginx did not take, where it was rolled back."""
    reason: str = ""
    log: tuple[str, ...] = ()
    """nginx's error log on it, where it wrote any."""
    ended_workers: bool = False
    """The candidate left nginx without workers until the rollback."""
    by: WayToNginx = WayToNginx.RELOAD
    refused_reload: bool = False
    """nginx was asked to reload and refused it, or may have: what served before answers, and no log tells why."""
    durations: Mapping[str, float] = field(default_factory=dict)
    """Seconds by step: drain, publish, reload, prove, restore."""

    @property
    def failed(self) -> bool:
        return self.outcome in FAILED


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attempt:
    """What one way to a new generation needs, and to where it leads back."""

    conf: OperatorConf
    fallback: Stamp | None
    allowed: float
    """Seconds for a proof."""
    durations: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.durations[step] = time.monotonic() - started


class Applier:
    """Changes what nginx serves, one apply at a time."""

    def __init__(
        self, output: Output, binary: Binary, *, nginx: NginxSettings, reload: ReloadSettings, keep: int
    ) -> None:
        self._output = output
        self._binary = binary
        self._nginx = nginx
        self._reload = reload
        self._keep = keep
        self._one_at_a_time = asyncio.Lock()
        self._bound: tuple[Master, frozenset[Address]] | None = None
        """What a master was last seen to listen on; None where the last reload did not end well."""

    async def apply(self, candidate: Checked, conf: OperatorConf, manifest: Mapping[str, Any]) -> Applied:
        """Make a candidate live; ``manifest`` is written beside its files.

        Raise NginxUnavailable when there is no nginx to ask, or none that a reload could bring there: the candidate is
        published then, nginx reads it when it starts, and `finish_pending` completes the apply; unless it might keep
        nginx from starting, then it must be applied again once nginx runs. Raise OutputUnusable when it cannot be
        published.
        """
        async with self._one_at_a_time:
            if rejected := self._rejected(conf):
                discard(candidate.path)
                return rejected
            attempt = await self._attempt(conf, candidate.test_seconds)
            if taken := await asyncio.to_thread(self._taken, candidate.listens, conf):
                discard(candidate.path)
                return Applied(outcome=Outcome.ROLLED_BACK, generation=current(self._output.directory), reason=taken)
            with attempt.timed("drain"):
                await self._wait_for_draining(conf)
            with attempt.timed("publish"):
                await asyncio.to_thread(publish, self._output, candidate, manifest)
            return await self._go_live(attempt, candidate.stamp, candidate.listens)

    async def publish_pushed(self, pushed: Checked, manifest: Mapping[str, Any]) -> None:
        """Make the files say what nginx serves already. Raise OutputUnusable when they cannot be published."""
        async with self._one_at_a_time:
            await asyncio.to_thread(publish, self._output, pushed, manifest)
            await asyncio.to_thread(self._keep_house, pushed.stamp.generation, None)

    async def finish_pending(self, conf: OperatorConf, *, test_seconds: float) -> Applied:
        """Reload if nginx does not serve the live generation: after a crash, or once nginx is back."""
        async with self._one_at_a_time:
            number = current(self._output.directory)
            live = read_generation(self._output.directory, number) if number else None
            if live is None:
                return Applied(outcome=Outcome.UNCHANGED, generation=number)
            if await read_stamp(self._nginx.stamp) == live.stamp:
                if not live.proven:
                    mark_proven(self._output, live.number)
                return Applied(outcome=Outcome.UNCHANGED, generation=number)
            if rejected := self._rejected(conf):
                return rejected
            return await self._go_live(await self._attempt(conf, test_seconds), live.stamp, listens_of(live.path))

    async def roll_back(self, number: int | None, conf: OperatorConf, *, test_seconds: float) -> Applied:
        """Make an older generation live again; None: the one that served before the live one.

        Raise OutputUnusable when there is no such generation.
        """
        async with self._one_at_a_time:
            live = current(self._output.directory)
            target = number if number is not None else self.served_before(live)
            if target is None or target == live:
                reason = "there is no other generation to go to"
                return Applied(outcome=Outcome.UNCHANGED, generation=live, reason=reason)
            generation = require_generation(self._output.directory, target)
            if rejected := self._rejected(conf):
                return rejected
            attempt = await self._attempt(conf, test_seconds)
            with attempt.timed("publish"):
                await asyncio.to_thread(switch, self._output, target)
            return await self._go_live(attempt, generation.stamp, listens_of(generation.path))

    async def _attempt(self, conf: OperatorConf, test_seconds: float) -> _Attempt:
        allowed = self._reload.deadline + 3 * test_seconds
        return _Attempt(conf=conf, fallback=await self._fallback(), allowed=allowed)

    async def _go_live(self, attempt: _Attempt, stamp: Stamp, listens: Listens) -> Applied:
        """Ask nginx to run what ``current`` names already, and see that it does."""
        before, (known, self._bound) = look(attempt.conf, self._binary), (self._bound, None)
        needed, reason = await asyncio.to_thread(_stuck, before.master, attempt, listens, known)
        if reason:
            # Going back would keep the restart from helping.
            spared = [attempt.fallback.generation] if attempt.fallback else []
            await asyncio.to_thread(prune, self._output, self._keep, protect=spared)
            raise NginxUnavailable(f"{reason}; it starts with generation {stamp.generation}")
        try:
            with attempt.timed("reload"):
                await ask_reload(self._nginx, before.master)
        except NginxUnavailable as error:
            if await read_stamp(self._nginx.stamp) is None:
                await asyncio.to_thread(self._let_it_start, stamp, attempt.fallback, error)
                raise
            # nginx serves but cannot be asked, or refused on its side: a restart must not find what it does not run.
            return replace(await self._restore(attempt, str(error)), refused=stamp.generation)
        with attempt.timed("prove"):
            verdict = await self._prove(before, stamp, attempt.allowed)
        if isinstance(verdict, Unproven):
            applied = await self._restore(attempt, verdict.reason, verdict.log)
            # A log that cannot be read tells as little as one that nginx does not write to.
            refused = verdict.was_refused or (not verdict.log and verdict.served == attempt.fallback)
            return replace(
                applied,
                refused=stamp.generation,
                ended_workers=verdict.ended_workers,
                refused_reload=refused and not verdict.ended_workers,
            )
        self._bound = (before.master, needed) if before.master is not None else None
        await asyncio.to_thread(self._keep_house, stamp.generation, attempt.fallback)
        return Applied(outcome=Outcome.APPLIED, generation=stamp.generation, durations=attempt.durations)

    def _taken(self, listens: Listens, conf: OperatorConf) -> str:
        """Say in nginx's words where it must not listen, though the kernel would let it; "" where it may."""
        if not any(address.udp for address in _addresses(listens)):
            return ""
        seen = look(conf, self._binary)
        if seen.master is None:
            return ""
        workers = seen.workers.accepting | seen.workers.draining if seen.workers else ()
        new = _addresses(listens) - (held_addresses(seen.master) or frozenset())
        return " | ".join(
            f"bind() to {address._replace(udp=False)} failed ({EADDRINUSE}: Address already in use by another program)"
            for address in shared_with_others(seen.master, workers, new)
        )

    def _let_it_start(self, stamp: Stamp, fallback: Stamp | None, absence: NginxUnavailable) -> None:
        """Take back what an absent nginx may not start from: a port that it did not have before may be taken.

        A running one refuses such a reload and goes on; a start would fail, and again at each try.
        """
        known = proven(self._output.directory)
        if fallback is None or fallback.generation not in known or stamp.generation in known:
            return
        published = read_generation(self._output.directory, stamp.generation)
        before = read_generation(self._output.directory, fallback.generation)
        if published is None or before is None:
            return
        new = _addresses(listens_of(published.path)) - _addresses(listens_of(before.path))
        if new:
            switch(self._output, before.number)
            prune(self._output, self._keep)
            raise NginxUnavailable(
                f"{absence}; until it runs generation {before.number} stays, since nobody can tell whether nginx could "
                f"start with {', '.join(map(str, sorted(new)))}"
            ) from absence

    async def _restore(self, attempt: _Attempt, reason: str, log: tuple[str, ...] = ()) -> Applied:
        """Go back to what served before. Raise NginxUnavailable when that cannot be seen to serve either."""
        fallback = attempt.fallback
        number = fallback.generation if fallback else None
        with attempt.timed("restore"):
            await asyncio.to_thread(switch, self._output, number)
            before = look(attempt.conf, self._binary)
            try:
                await ask_reload(self._nginx, before.master)
            except NginxUnavailable:
                # Most likely what failed a moment ago; what counts now is which generation answers.
                before = before.unseen()
            verdict = await self._prove(before, fallback, attempt.allowed)
            if isinstance(verdict, Unproven) and fallback is not None and verdict.served == fallback:
                # A master that takes no reload, or only now wrote the end of the first one: what counts is who answers.
                verdict = await self._prove(before.unseen(), fallback, attempt.allowed)
        # Here too: a cause that stays leaves a generation behind at every try.
        await asyncio.to_thread(prune, self._output, self._keep, protect=[number] if number else [])
        if isinstance(verdict, Proven):
            return Applied(
                outcome=Outcome.ROLLED_BACK, generation=number, reason=reason, log=log, durations=attempt.durations
            )
        went_back = f"generation {number}" if number else "the state before the first generation"
        raise NginxUnavailable(f"{reason}; {went_back} was restored, and then: {verdict.reason}")

    async def _prove(self, before: Before, stamp: Stamp | None, allowed: float) -> Proven | Unproven:
        return await prove(before, stamp, address=self._nginx.stamp, settings=self._reload, allowed=allowed)

    async def _wait_for_draining(self, conf: OperatorConf) -> None:
        """Let old workers finish: each holds the memory of a whole configuration."""
        deadline = time.monotonic() + self._reload.max_draining_wait
        while time.monotonic() < deadline:
            seen = look(conf, self._binary).workers
            if seen is None or len(seen.draining) <= self._reload.max_draining:
                return
            await asyncio.sleep(_DRAIN_PAUSE)

    def is_crowded(self, conf: OperatorConf) -> bool:
        """Whether old workers take so much of their room that only who has to should add to them."""
        seen = look(conf, self._binary).workers
        return seen is not None and crowds(len(seen.draining), len(seen.accepting), self._reload.max_draining)

    async def _fallback(self) -> Stamp | None:
        """The generation to go back to: what nginx serves, else what it was last seen to serve, else the live one."""
        directory = self._output.directory
        served = await read_stamp(self._nginx.stamp)
        for number in (served.generation if served else None, *reversed(proven(directory)), current(directory)):
            generation = read_generation(directory, number) if number else None
            if generation is not None and (served is None or served.generation != number or served == generation.stamp):
                return generation.stamp
        return None

    def served_before(self, live: int | None) -> int | None:
        """Return the generation that nginx was last seen to run beside the live one."""
        numbers = reversed(proven(self._output.directory))
        return next((number for number in numbers if number != live), None)

    def _rejected(self, conf: OperatorConf) -> Applied | None:
        reason = fatal_for_workers(conf)
        if reason is None:
            return None
        return Applied(outcome=Outcome.REJECTED, generation=current(self._output.directory), reason=reason)

    def _keep_house(self, number: int, fallback: Stamp | None) -> None:
        mark_proven(self._output, number)
        prune(self._output, self._keep, protect=[fallback.generation] if fallback else [])


def _stuck(
    master: Master | None, attempt: _Attempt, listens: Listens, known: tuple[Master, frozenset[Address]] | None
) -> tuple[frozenset[Address], str]:
    """Return what nginx is to listen on, and why no reload brings it there.

    What the kernel shows of a busy host is long: it is read only where a master would have to bind anything new.
    """
    place = occupied(attempt.conf)
    needed = place.bound(listens)
    if master is None or (known is not None and known[0] == master and needed <= known[1]):
        return needed, ""
    held = held_addresses(master)
    return needed, restart_needed(place, listens, held) if held is not None else ""


def _addresses(listens: Listens) -> frozenset[Address]:
    return frozenset(address for each in listens.values() for listen in each for address in listen.addresses)


def fatal_for_workers(conf: OperatorConf) -> str | None:
    """Say what passes ``nginx -t`` and yet ends every worker at a reload, the old ones included."""
    directory = conf.working_directory
    if directory is None or directory.is_dir():
        return None
    return f"{conf.path}: working_directory {directory} does not exist; a reload would end every worker"
