"""The host's data plane, kept as the newest fabric wants it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Network
from typing import Final, NoReturn

from proxygen.kit.aio import Latest, Pace
from proxygen.kit.errors import ProxygenError
from proxygen.kit.log import get_logger
from proxygen.network.agent.forwarding import let_forward
from proxygen.network.agent.status import CarryStatus
from proxygen.network.fabric import Backend, Fabric, Underlay
from proxygen.network.records import Attributes

_log: Final = get_logger(__name__)

_BURST: Final = 10.0
_RATE: Final = 2.0
"""Passes a second. Whatever stirs the kernel, there is time left for everything else."""
_FIRST_PAUSE: Final = 0.5
_LAST_PASS: Final = 20.0
"""systemd waits 90 s for a service to end, Docker 10 s for a container."""

FindUnderlay = Callable[[], Awaitable[Underlay]]
MakeBackend = Callable[[Underlay], Backend]
LookBeside = Callable[[Fabric], Awaitable[tuple[str, ...]]]
"""Looks after everything but the routes; returns what is wrong there."""


class DataPlane:
    """One backend on one underlay; another backend of the same kind once the underlay is another."""

    def __init__(
        self,
        find_underlay: FindUnderlay,
        make_backend: MakeBackend,
        look_beside: LookBeside,
        *,
        resync: float,
        announce: Callable[[Attributes, Underlay], None],
    ) -> None:
        self.fabrics: Latest[Fabric] = Latest()
        self.underlay: Underlay | None = None
        self.carried: CarryStatus | None = None
        self.problems: tuple[str, ...] = ()
        self._find_underlay = find_underlay
        self._make_backend = make_backend
        self._look_beside = look_beside
        self._resync = resync
        self._announce = announce
        self._backend: Backend | None = None
        self._stirred: asyncio.Task[None] | None = None
        self._beside: tuple[str, ...] = ()
        self._beside_for: tuple[IPv4Network, IPv4Network] | None = None
        self._beside_at = 0.0

    @property
    def mtu(self) -> int:
        """Bytes that containers may send to other hosts; 0 while there is no backend."""
        return self._backend.mtu if self._backend is not None else 0

    async def prepare(self) -> None:
        """Make what the host needs before it has a subnet, on today's underlay. Raise NetworkError."""
        underlay = await self._find_underlay()
        if underlay == self.underlay:
            return
        backend = self._make_backend(underlay)
        attributes = await backend.prepare()
        if self.underlay is not None:
            _log.warning("underlay changed", was=str(self.underlay), now=str(underlay))
        self._forget_stirring()
        self._backend, self.underlay = backend, underlay
        self._announce(attributes, underlay)

    async def run(self) -> NoReturn:
        """Carry each new fabric, whatever stirs the kernel, and every now and then without a reason."""
        pace, failures = Pace(burst=_BURST, rate=_RATE), 0
        await self.fabrics.take()
        try:
            while True:
                # Listens before the pass: what happens during it is seen by the next.
                self._listen()
                failures = 0 if await self._whole_pass() else failures + 1
                pause = min(self._resync, _FIRST_PAUSE * 2 ** min(failures, 10)) if failures else self._resync
                await self._wait(pause)
                await pace.step()
        finally:
            self._forget_stirring()

    async def _whole_pass(self) -> bool:
        """Make a pass, and end it where the agent is told to stop meanwhile: half a data plane may carry nothing."""
        work = asyncio.create_task(self._pass(), name="pass of the data plane")
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait({work}, timeout=_LAST_PASS)
            work.cancel()
            raise

    async def _pass(self) -> bool:
        fabric = self.fabrics.peek()
        assert fabric is not None
        started, error, problems = time.monotonic(), "", self.problems
        try:
            problems = await self._carry(fabric)
        except ProxygenError as failure:
            error = str(failure)
        seconds = time.monotonic() - started
        self._tell(fabric, seconds, error, problems)
        done, failed = (self.carried.done, self.carried.failed) if self.carried is not None else (0, 0)
        self.carried = CarryStatus(
            at=time.time(), seconds=seconds, error=error, done=done + (not error), failed=failed + bool(error)
        )
        self.problems = problems
        return not error

    async def _carry(self, fabric: Fabric) -> tuple[str, ...]:
        await self.prepare()
        assert self._backend is not None
        # What may pass does not depend on whether routes can be made.
        if self._is_beside_due(fabric):
            self._beside = tuple(filter(None, (let_forward(), *await self._look_beside(fabric))))
        return (*self._beside, *await self._backend.carry(fabric))

    def _is_beside_due(self, fabric: Fabric) -> bool:
        """Tell whether to look after what nobody tells of, and what takes programs to look at."""
        now, subject = time.monotonic(), (fabric.config.network, fabric.own.subnet)
        if self._beside_for == subject and now < self._beside_at + self._resync:
            return False
        self._beside_for, self._beside_at = subject, now
        return True

    def _tell(self, fabric: Fabric, seconds: float, error: str, problems: tuple[str, ...]) -> None:
        if error and (self.carried is None or error != self.carried.error):
            _log.error("data plane not carried", reason=error)
        if not error and (self.carried is None or self.carried.error):
            _log.info("data plane carried", hosts=len(fabric.others), seconds=round(seconds, 3))
        for problem in sorted(set(problems) - set(self.problems)):
            _log.warning("data plane problem", reason=problem)

    async def _wait(self, pause: float) -> None:
        news = asyncio.create_task(self.fabrics.take(), name="next fabric")
        try:
            waited = {news} if self._stirred is None else {news, self._stirred}
            await asyncio.wait(waited, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # The slot keeps what was taken.
            news.cancel()

    def _listen(self) -> None:
        if self._stirred is not None and self._stirred.done():
            if not self._stirred.cancelled() and self._stirred.exception() is not None:
                _log.warning("kernel not listened to", reason=str(self._stirred.exception()))
            self._stirred = None
        if self._stirred is None and self._backend is not None:
            self._stirred = asyncio.create_task(self._backend.stirred(), name="stirring of the kernel")

    def _forget_stirring(self) -> None:
        if self._stirred is not None:
            self._stirred.cancel()
            self._stirred = None
