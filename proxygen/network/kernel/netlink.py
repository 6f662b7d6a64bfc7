"""The one door to netlink: what the kernel has is read, and steps are taken, in the network namespace of this process.

Everything is asked anew each time; nothing that the kernel said before is believed to be so still.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network
from itertools import islice
from socket import AF_BRIDGE, AF_INET
from typing import Any, Final, Self

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError
from pyroute2.netlink.nlsocket import NetlinkRequest
from pyroute2.netlink.rtnl import RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_LINK, RTMGRP_NEIGH
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from proxygen.kit.errors import NetworkError
from proxygen.network.fabric import Underlay
from proxygen.network.kernel.diff import KernelRequest, KernelVerb
from proxygen.network.kernel.events import LOST, KernelEvent, read_event
from proxygen.network.kernel.messages import (
    PERMANENT,
    read_address,
    read_default,
    read_destination,
    read_forward,
    read_link,
    read_neighbour,
    read_route,
    write_request,
)
from proxygen.network.kernel.state import (
    GROUP,
    MAIN_TABLE,
    PROTOCOL,
    Forward,
    KernelState,
    Link,
    LinkAddress,
    Neighbour,
    Route,
    VxlanLink,
)
from proxygen.network.kernel.underlay import UnderlayWish, choose_underlay

_PATIENCE: Final = 60.0
"""Seconds for a question to the kernel, or for all steps of a pass. It answers in microseconds, mostly."""
_GROUPS: Final = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_NEIGH
_AT_ONCE: Final = 200
"""Requests in one packet. Their answers wait in the socket's buffer, which holds some thousands."""
_TRIES: Final = 5
"""Of a reading during which the table changed."""
_GONE: Final = frozenset({errno.ESRCH, errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.EADDRNOTAVAIL})
_FATAL: Final = frozenset({errno.EPERM, errno.ENODEV, errno.ENETDOWN, errno.EAFNOSUPPORT, errno.ENOBUFS})
"""What one step is refused for would all others be as well."""

_TAKEN: Final = "somebody else's route to it stands already; proxygen does not touch it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A step that the kernel refused."""

    step: KernelRequest
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """A network that the host reaches, and how."""

    network: IPv4Network
    link: str
    protocol: int
    """The route's; 2, the kernel's own, for the network of an address."""


class Kernel:
    """The tables of the network namespace in which it is entered."""

    def __init__(self) -> None:
        # Strict: the kernel filters what is read, and refuses what it does not understand.
        self._netlink = AsyncIPRoute(ext_ack=True, strict_check=True)
        self.events = Events()

    async def __aenter__(self) -> Self:
        async with _asking("netlink cannot be opened"):
            await self._netlink.setup_endpoint()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.events.close()
        self._netlink.close()

    # --- what is there

    async def links(self, *, kind: str = "") -> tuple[Link, ...]:
        """Return all links, or those of a kind: on a host with many containers that is soon read."""
        of_kind = ["IFLA_LINKINFO", {"attrs": [["IFLA_INFO_KIND", kind]]}]
        asked = {"attrs": [of_kind]} if kind else {}
        found = await self._read("links", lambda: self._netlink.link("dump", dump_filter=None, **asked))
        links = (read_link(message) for message in found)
        # A kernel that has not loaded the kind gives all.
        return tuple(link for link in links if kind in ("", link.kind))

    async def link(self, known: str | int) -> Link | None:
        """Return the link with a name or an index; None where there is none."""
        asked = {"ifname": known} if isinstance(known, str) else {"index": known}
        async with _asking(f"link {known} cannot be read"):
            try:
                found = await self._netlink.link("get", **asked)
            except NetlinkError as error:
                if error.code in _GONE:
                    return None
                raise
        return read_link(found[0])

    async def addresses(self) -> tuple[LinkAddress, ...]:
        """IPv4 only, of every link."""
        found = await self._read("addresses", lambda: self._netlink.addr("dump", family=AF_INET, dump_filter=None))
        return tuple(read_address(message) for message in found)

    async def state(self, links: Iterable[int] = ()) -> KernelState:
        """Return our routes, and what is set for good on the given links, which are ours."""
        neighbours: list[Neighbour] = []
        forwards: list[Forward] = []
        for link in links:
            neighbours += await self._neighbours(link)
            forwards += await self._forwards(link)
        routes = await self._routes("our routes", proto=PROTOCOL)
        return KernelState(
            routes=frozenset(read_route(message) for message in routes),
            neighbours=frozenset(neighbours),
            forwards=frozenset(forwards),
        )

    async def reached(self) -> tuple[Reached, ...]:
        """Return the networks of the main table's routes that are not ours, without default routes."""
        names = {link.index: link for link in await self.links()}
        found = []
        for message in await self._routes("routes", table=MAIN_TABLE):
            link = names.get(message.get_attr("RTA_OIF") or 0)
            if message["dst_len"] == 0 or message["proto"] == PROTOCOL or (link is not None and link.is_ours):
                continue
            name = link.name if link is not None else ""
            found.append(Reached(network=read_destination(message), link=name, protocol=message["proto"]))
        return tuple(found)

    async def find_underlay(self, wish: UnderlayWish) -> Underlay:
        """Return the link through which other hosts are reached. Raise NetworkError that says what to write instead."""
        addresses = await self.addresses()
        defaults: list[Route] = []
        named: list[str | int] = []
        if wish.name is not None:
            named = [wish.name]
        elif wish.interface is None and wish.address is not None:
            named = [address.link for address in addresses if address.interface.ip == wish.address]
        if not named:
            routes = await self._routes("default routes", table=MAIN_TABLE)
            defaults = [read_default(message) for message in routes if message["dst_len"] == 0]
            named = [route.link for route in defaults if route.link]
        links = [link for link in [await self.link(one) for one in named] if link is not None]
        try:
            return choose_underlay(links, addresses, defaults, wish)
        except NetworkError:
            # The text names what there is instead.
            return choose_underlay(await self.links(), addresses, defaults, wish)

    # --- what is to be there

    async def take(self, steps: Iterable[KernelRequest]) -> tuple[Failure, ...]:
        """Take steps in their order and return those that were refused; what is gone need not be removed.

        Raise NetworkError for what would refuse all others too.
        """
        failures: list[Failure] = []
        left = iter(steps)
        async with _asking("routes cannot be changed"):
            while some := list(islice(left, _AT_ONCE)):
                failures += await self._take(some)
        return tuple(failures)

    async def make_vxlan(self, name: str, vxlan: VxlanLink, *, mac: str, mtu: int) -> None:
        """Make a link of ours, up."""
        async with _asking(f"{name} cannot be made"):
            await self._netlink.link(
                "add",
                ifname=name,
                kind="vxlan",
                vxlan_id=vxlan.vni,
                vxlan_port=vxlan.port,
                vxlan_link=vxlan.parent,
                vxlan_local=str(vxlan.local),
                vxlan_learning=vxlan.learning,
                **({"vxlan_gbp": True} if vxlan.gbp else {}),
                address=mac,
                mtu=mtu,
                group=GROUP,
                state="up",
            )

    async def make_link(self, name: str, kind: str, *, mtu: int) -> None:
        """Make a link of ours of a kind that needs nothing else, up."""
        async with _asking(f"{name} cannot be made"):
            await self._netlink.link("add", ifname=name, kind=kind, mtu=mtu, group=GROUP, state="up")

    async def set_link(self, link: Link, **wanted: object) -> None:
        """Change ``mtu``, ``address`` or ``state`` of a link of ours."""
        async with _asking(f"{link.name} cannot be changed"):
            await self._netlink.link("set", index=link.index, **wanted)

    async def remove_link(self, link: Link) -> None:
        """One that is gone already is no error. Raise NetworkError for any other refusal."""
        async with _asking(f"{link.name} cannot be removed"):
            try:
                await self._netlink.link("del", index=link.index)
            except NetlinkError as error:
                if error.code not in _GONE:
                    raise

    async def set_address(self, link: Link, wanted: IPv4Interface) -> None:
        """Give a link of ours this address and no other."""
        own = [address for address in await self.addresses() if address.link == link.index]
        async with _asking(f"addresses of {link.name} cannot be set"):
            if wanted not in {address.interface for address in own}:
                await self._address("add", link, wanted)
            for address in own:
                if address.interface != wanted:
                    await self._address("del", link, address.interface)

    # --- netlink

    async def _address(self, command: str, link: Link, interface: IPv4Interface) -> None:
        await self._netlink.addr(
            command, index=link.index, address=str(interface.ip), prefixlen=interface.network.prefixlen
        )

    async def _take(self, steps: Iterable[KernelRequest]) -> list[Failure]:
        """Send requests in one packet: the kernel answers each of them, in their order."""
        requests = [(step, self._request(step)) for step in steps]
        packet = bytearray()
        for _, request in requests:
            await request.prepare()
            packet += request.msg.data
        self._netlink.send(bytes(packet))
        refused: list[tuple[KernelRequest, NetlinkError]] = []
        for step, request in requests:
            try:
                async for _ in request.response():
                    pass
            except NetlinkError as error:
                refused.append((step, error))
        return [failure for step, error in refused for failure in _failed(step, error)]

    def _request(self, step: KernelRequest) -> NetlinkRequest:
        written = write_request(step)
        message = rtmsg() if isinstance(step.entry, Route) else ndmsg()
        message.update(written.fields)
        message["attrs"] = list(written.attributes)
        return NetlinkRequest(self._netlink, message, msg_type=written.type, msg_flags=written.flags)

    async def _routes(self, what: str, **selected: int) -> list[Any]:
        ask = self._netlink.route
        found = await self._read(what, lambda: ask("dump", family=AF_INET, dump_filter=None, **selected))
        # Never left to the kernel alone: what is believed to be ours may be removed.
        return [message for message in found if all(message[key] == value for key, value in selected.items())]

    async def _neighbours(self, link: int) -> list[Neighbour]:
        ask, of_link = self._netlink.neigh, ["NDA_IFINDEX", link]
        found = await self._read("neighbours", lambda: ask("dump", family=AF_INET, dump_filter=None, attrs=[of_link]))
        return [read_neighbour(message) for message in found if _is_set_on(message, link)]

    async def _forwards(self, link: int) -> list[Forward]:
        ask = self._netlink.neigh
        found = await self._read("forwarding", lambda: ask("dump", family=AF_BRIDGE, ifindex=link, dump_filter=None))
        # One without a host is for a bridge above.
        return [read_forward(message) for message in found if _is_set_on(message, link) and message.get_attr("NDA_DST")]

    async def _read(self, what: str, ask: Callable[[], Awaitable[AsyncIterator[Any]]]) -> list[Any]:
        """Read a whole table, again where it changed meanwhile."""
        async with _asking(f"{what} cannot be read"):
            for _ in range(_TRIES - 1):
                try:
                    return [message async for message in await ask()]
                except NetlinkDumpInterrupted:
                    await asyncio.sleep(0)
            return [message async for message in await ask()]


class Events:
    """What changes in the tables of this process's network namespace, from the moment of opening on."""

    def __init__(self) -> None:
        self._netlink: AsyncIPRoute | None = None

    async def open(self) -> None:
        """Begin to listen, if that is not so yet."""
        if self._netlink is None:
            netlink = AsyncIPRoute()
            try:
                async with _asking("netlink cannot be listened to"):
                    await netlink.bind(groups=_GROUPS)
            except NetworkError:
                netlink.close()
                raise
            self._netlink = netlink

    def close(self) -> None:
        """May be called twice."""
        if self._netlink is not None:
            self._netlink.close()
            self._netlink = None

    async def next(self) -> list[KernelEvent]:
        """Wait for changes. What came faster than it was read is lost, and that is told as an event too."""
        await self.open()
        assert self._netlink is not None
        try:
            messages = [message async for message in self._netlink.get()]
        except (NetlinkError, OSError):
            # A socket that has overflowed says nothing more (pyroute2's own advice).
            self.close()
            await self.open()
            return [LOST]
        return [event for event in map(read_event, messages) if event is not None]


def _is_set_on(message: Any, link: int) -> bool:
    """Tell whether an entry was set for good on a link. A kernel before 4.20 gives those of other links too."""
    return bool(message["ifindex"] == link and message["state"] & PERMANENT)


def _failed(step: KernelRequest, error: NetlinkError) -> list[Failure]:
    """Return a step's failure, if it is one. Raise NetworkError for what all others would be refused for as well."""
    if step.verb is KernelVerb.REMOVE and error.code in _GONE:
        return []
    if error.code in _FATAL:
        raise NetworkError(f"{step}: {_reason(error)}") from error
    return [Failure(step=step, reason=_TAKEN if error.code == errno.EEXIST else _reason(error))]


@asynccontextmanager
async def _asking(what: str) -> AsyncIterator[None]:
    """Turn what netlink says into an error of ours."""
    try:
        async with asyncio.timeout(_PATIENCE):
            yield
    except NetlinkError as error:
        raise NetworkError(f"{what}: {_reason(error)}") from error
    except OSError as error:
        raise NetworkError(f"{what}: {error.strerror or error}") from error
    except TimeoutError as error:
        raise NetworkError(f"{what}: the kernel did not answer within {_PATIENCE:g} s") from error


def _reason(error: NetlinkError) -> str:
    said = str(error.args[-1]) if error.args else ""
    reason = said or os.strerror(error.code)
    return f"{reason}; it takes root, or CAP_NET_ADMIN" if error.code == errno.EPERM else reason
