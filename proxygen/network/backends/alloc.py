"""Leases alone: who forwards is somebody else's business."""

from __future__ import annotations

import asyncio

from proxygen.network.fabric import Fabric, Underlay
from proxygen.network.records import Attributes


class AllocBackend:
    """Changes nothing."""

    def __init__(self, underlay: Underlay, *, node: str) -> None:
        self._underlay = underlay
        self._node = node

    @property
    def mtu(self) -> int:
        """The underlay's: nothing is wrapped."""
        return self._underlay.mtu

    async def prepare(self) -> Attributes:
        return Attributes(node=self._node, public_ip=self._underlay.public_ip, backend_type="alloc")

    async def carry(self, fabric: Fabric) -> tuple[str, ...]:
        """Carry nothing: the operator has routes of his own."""
        return ()

    async def stirred(self) -> None:
        """Never: it has nothing that could be changed behind its back."""
        await asyncio.Event().wait()

    async def withdraw(self) -> None:
        """Nothing to withdraw."""
        return
