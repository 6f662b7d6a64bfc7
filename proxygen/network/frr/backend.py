"""The two backends that leave the routes to FRR. Neither writes one itself: a prefix has one owner."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from ipaddress import IPv4Address
from typing import ClassVar, Final

from proxygen.kit.disk import write_atomically
from proxygen.kit.errors import NetworkError
from proxygen.kit.log import get_logger
from proxygen.network.fabric import Fabric, Underlay
from proxygen.network.frr import apply
from proxygen.network.frr.daemons import Frr, FrrPlace
from proxygen.network.frr.design import SINCE, VERSION, Design, design_bgp, design_ospf
from proxygen.network.frr.render import render
from proxygen.network.frr.sections import says_the_same
from proxygen.network.frr.version import OLDEST
from proxygen.network.records import Attributes

_log: Final = get_logger(__name__)

_LOOK: Final = 10.0
"""Seconds between two looks at what FRR was left with; one costs a twentieth of a second."""


class _OnFrr(ABC):
    type: ClassVar[str]
    _daemon: ClassVar[str]

    def __init__(self, underlay: Underlay, place: FrrPlace, *, node: str) -> None:
        self._underlay = underlay
        self._frr = Frr(place)
        self._node = node
        self._version = OLDEST
        self._refused: frozenset[IPv4Address] = frozenset()
        self._left = ""
        """The configuration that FRR was left with; empty before and while it is changed."""

    @property
    def mtu(self) -> int:
        """Packets cross as they are."""
        return self._underlay.mtu

    async def prepare(self) -> Attributes:
        self._frr.check_tools()
        self._frr.settle()
        self._version = await self._frr.version()
        if self._version < OLDEST:
            raise NetworkError(f"FRR is {self._version}; at least {OLDEST} is needed")
        await self._check_daemons()
        return Attributes(
            node=self._node,
            public_ip=self._underlay.public_ip,
            backend_type=self.type,
            backend_data={SINCE: self._seniority(), VERSION: str(self._version)},
        )

    async def carry(self, fabric: Fabric) -> tuple[str, ...]:
        self._left = ""
        await self._check_daemons()
        design, problems = self._design(fabric)
        self._refused = await self._bring(design)
        running = await self._frr.running()
        ours = render(design.without(self._refused))
        unkept = await asyncio.to_thread(apply.keep, self._frr, ours, running)
        self._left = running
        refused = (f"FRR refuses the neighbour {address}; is it an address of this host?" for address in self._refused)
        return (*problems, *sorted(refused), *([unkept] if unkept else ()))

    async def stirred(self) -> None:
        while True:
            await asyncio.sleep(_LOOK)
            left = self._left
            if not left:
                continue
            try:
                running = await self._frr.running()
            except NetworkError as error:
                _log.warning("FRR does not answer", reason=str(error))
                return
            if left == self._left and not says_the_same(left, running):
                return

    async def withdraw(self) -> None:
        self._left = ""
        self._frr.settle()
        try:
            await apply.take_out(self._frr)
        except OSError as error:
            raise NetworkError(f"{self._frr.place.config} cannot be changed: {error.strerror}") from error
        self._frr.leave()

    @abstractmethod
    def _design(self, fabric: Fabric) -> tuple[Design, tuple[str, ...]]: ...

    async def _bring(self, design: Design) -> frozenset[IPv4Address]:
        """Bring FRR to a design, and return the neighbours that it refuses."""
        refused = self._refused & frozenset(design.neighbours)
        if refused and await apply.stands(self._frr, design.without(refused)):
            # They are told again once something else changes too, not at every look.
            return refused
        try:
            await apply.bring(self._frr, design, self._underlay.link)
        except apply.Untaken as error:
            if not error.refused:
                raise
            await apply.bring(self._frr, design.without(error.refused), self._underlay.link)
            return frozenset(error.refused)
        return frozenset()

    async def _check_daemons(self) -> None:
        absent = {"zebra", "staticd", self._daemon} - await self._frr.daemons()
        if absent:
            raise NetworkError(
                f"FRR's {', '.join(sorted(absent))} does not answer; set {self._daemon}=yes in "
                f"{self._frr.place.directory / 'daemons'} and restart FRR"
            )

    def _seniority(self) -> int:
        """Return since when this host is in the network: kept, so that it stays a hub across restarts."""
        file = self._frr.place.state / "since"
        try:
            return int(file.read_text(encoding="ascii"))
        except (OSError, ValueError):
            now = int(time.time())
        try:
            write_atomically(file, f"{now}\n".encode("ascii"))
        except OSError as error:
            raise NetworkError(f"{file} cannot be written: {error.strerror}") from error
        return now


class BgpBackend(_OnFrr):
    """Routes by bgpd."""

    type = "frr-bgp"
    _daemon = "bgpd"

    def _design(self, fabric: Fabric) -> tuple[Design, tuple[str, ...]]:
        return design_bgp(fabric, self._underlay)


class OspfBackend(_OnFrr):
    """Routes by ospfd."""

    type = "frr-ospf"
    _daemon = "ospfd"

    def _design(self, fabric: Fabric) -> tuple[Design, tuple[str, ...]]:
        return design_ospf(fabric, self._underlay, self._version)
