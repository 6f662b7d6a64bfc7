"""What all backends have in common that the kernel's own tables are enough for."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from proxygen.network.fabric import Member, Underlay, told
from proxygen.network.kernel.diff import steps_between
from proxygen.network.kernel.events import KernelEvent, Subject, concerns
from proxygen.network.kernel.netlink import Failure, Kernel
from proxygen.network.kernel.state import Entry, Link, state_of
from proxygen.network.records import Attributes, Fact

_QUIET: Final = 0.05
_LONGEST: Final = 0.5
"""Seconds. One cause, such as a link that goes down, is many events."""

Wanted = Mapping[Entry, Member]
"""What is to be in the kernel, and for whose sake."""


class KernelBackend:
    """A backend that makes the kernel's tables what they should be: all of them each time, the least that it takes."""

    def __init__(self, kernel: Kernel, underlay: Underlay, *, node: str) -> None:
        self._kernel = kernel
        self._underlay = underlay
        self._node = node
        self._own: frozenset[int] = frozenset()
        self._is_underlay_gone = False
        self._is_stirred = False
        self._is_swept = False

    async def stirred(self) -> None:
        """Return a moment after the kernel's tables changed where it matters; a crowd of changes counts as one."""
        while not self._is_stirred:
            self._note(await self._kernel.events.next())
        with suppress(TimeoutError):
            async with asyncio.timeout(_LONGEST):
                await self._until_quiet()

    async def withdraw(self) -> None:
        """Remove all that is ours, and nothing else."""
        await clear(self._kernel)
        self._own = frozenset()

    async def _until_quiet(self) -> None:
        while True:
            async with asyncio.timeout(_QUIET):
                self._note(await self._kernel.events.next())

    def _note(self, events: list[KernelEvent]) -> None:
        for event in events:
            is_underlay = event.link == self._underlay.index and event.subject in (Subject.LINK, Subject.ADDRESS)
            self._is_underlay_gone |= event.is_gone and is_underlay
            underlay = None if self._is_underlay_gone else self._underlay.index
            self._is_stirred |= concerns(event, underlay=underlay, own=self._own)

    async def _publish(self, kind: str, data: Mapping[str, Fact] | None) -> Attributes:
        """Return what others must know. What changes from now on is not missed."""
        await self._kernel.events.open()
        return Attributes(node=self._node, public_ip=self._underlay.public_ip, backend_type=kind, backend_data=data)

    async def _reconcile(self, wanted: Wanted, *, link: Link | None = None) -> list[str]:
        """Bring our routes, and the tables of our link, to what is wanted. Return what could not be done.

        Other links of ours, which a former run left, go once nothing leads to them any more.
        """
        self._is_stirred = self._is_underlay_gone = False
        own = () if link is None else (link.index,)
        self._own = frozenset(own)
        actual = await self._kernel.state(own)
        failures = await self._kernel.take(steps_between(actual, state_of(wanted)))
        if not self._is_swept:
            await _remove_links(self._kernel, but=link)
            self._is_swept = True
        return [_problem(failure, wanted) for failure in failures]


async def clear(kernel: Kernel) -> None:
    """Remove all that any backend of ours made: routes by their protocol, links by their group and name."""
    await kernel.take(steps_between(await kernel.state(), state_of(())))
    await _remove_links(kernel, but=None)


async def _remove_links(kernel: Kernel, *, but: Link | None) -> None:
    for link in await kernel.links():
        if link.is_ours and (but is None or link.index != but.index):
            await kernel.remove_link(link)


def _problem(failure: Failure, wanted: Wanted) -> str:
    member = wanted.get(failure.step.entry)
    why = f"{failure.step}: {failure.reason}"
    return why if member is None else told(member, why)
