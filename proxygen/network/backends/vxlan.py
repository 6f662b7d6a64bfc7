"""VXLAN by the kernel: packets cross hosts in UDP, so that any network between the hosts will do.

For each member there are three entries on one link: the MAC behind its subnet's first address, the host behind that
MAC, and the route to the subnet through that address. Nothing is learned, and nothing is asked by multicast.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from typing import Final

from proxygen.kit.errors import NetworkError
from proxygen.network import config as configured
from proxygen.network.backends.host_gw import route_to
from proxygen.network.backends.on_kernel import KernelBackend
from proxygen.network.backends.vetting import derive_mac, read_vteps
from proxygen.network.fabric import Fabric, Member, Underlay, check_host, is_near, told
from proxygen.network.kernel.netlink import Kernel
from proxygen.network.kernel.state import Entry, Forward, Link, Neighbour, Route, VxlanLink
from proxygen.network.records import Attributes, Fact

OVERHEAD: Final = 50
"""Bytes that VXLAN adds: Ethernet 14, VXLAN 8, UDP 8, IPv4 20 (RFC 7348)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """The link as it should be."""

    name: str
    vxlan: VxlanLink
    mac: str
    mtu: int


class VxlanBackend(KernelBackend):
    """One link for each network, named by its VNI, with a MAC that is derived from the host's identity."""

    def __init__(
        self, kernel: Kernel, underlay: Underlay, config: configured.Vxlan, *, node: str, host_id: str
    ) -> None:
        super().__init__(kernel, underlay, node=node)
        self._config = config
        self._device = Device(
            name=f"pxvx{config.vni}",
            vxlan=VxlanLink(
                vni=config.vni,
                port=config.port,
                parent=underlay.index,
                local=underlay.address.ip,
                learning=config.learning,
                gbp=config.gbp,
            ),
            mac=derive_mac(host_id, config.vni),
            mtu=min(underlay.mtu, config.mtu or underlay.mtu) - OVERHEAD,
        )

    @property
    def mtu(self) -> int:
        """The device's, which leaves room for the outer headers."""
        return self._device.mtu

    async def prepare(self) -> Attributes:
        """Make the link, and publish its MAC as flannel does."""
        link = await self._ready()
        data: dict[str, Fact] = {"VNI": self._config.vni, "VtepMAC": link.mac}
        return await self._publish(configured.Vxlan.type, data)

    async def carry(self, fabric: Fabric) -> tuple[str, ...]:
        link = await self._ready()
        # Of no network: a wider one would come with a route, and with broadcasts.
        await self._kernel.set_address(link, IPv4Interface((fabric.own.subnet.network_address, 32)))
        wanted, problems = plan_entries(fabric, self._underlay, self._config, link)
        return (*self._doubts(), *problems, *await self._reconcile(wanted, link=link))

    def _doubts(self) -> list[str]:
        asked, possible = self._config.mtu, self._underlay.mtu
        if asked is None or asked <= possible:
            return []
        return [f"MTU {asked} is more than {self._underlay.link} carries; {possible} is used on this host"]

    async def _ready(self) -> Link:
        """Return the link, made or mended where it has to be."""
        device = self._device
        links = await self._kernel.links(kind="vxlan")
        refuse_strangers(links, device)
        link = next((link for link in links if link.name == device.name), None)
        if link is not None and link.vxlan != device.vxlan:
            # Of the host's earlier address, or of a config that was changed: that cannot be mended.
            await self._kernel.remove_link(link)
            link = None
        if link is None:
            refuse_strangers(filter(None, [await self._kernel.link(device.name)]), device)
            await self._make(links)
        elif not await self._mend(link):
            return link
        return await self._verified()

    async def _make(self, links: Iterable[Link]) -> None:
        device = self._device
        try:
            await self._kernel.make_vxlan(device.name, device.vxlan, mac=device.mac, mtu=device.mtu)
        except NetworkError as error:
            if os.strerror(errno.EADDRINUSE) not in str(error):
                raise
            raise NetworkError(f"{error}: {_port_holder(links, device.vxlan.port)}, or choose another Port") from error

    async def _mend(self, link: Link) -> bool:
        """Change what is not as it should be. Return whether there was anything."""
        device = self._device
        wanted: dict[str, object] = {}
        if link.mac != device.mac:
            wanted["address"] = device.mac
        if link.mtu != device.mtu:
            wanted["mtu"] = device.mtu
        if not link.is_up:
            wanted["state"] = "up"
        if wanted:
            await self._kernel.set_link(link, **wanted)
        return bool(wanted)

    async def _verified(self) -> Link:
        """Return the link as the kernel has it now; whoever renames or changes links at once is told of."""
        link = await self._kernel.link(self._device.name)
        if link is None:
            raise NetworkError(
                f"{self._device.name} vanished as soon as it was made; something renames or removes links"
            )
        if link.mac != self._device.mac:
            raise NetworkError(
                f"{link.name} has the MAC {link.mac} and not {self._device.mac}; something changes MACs, such as "
                "systemd's MACAddressPolicy"
            )
        return link


def _port_holder(links: Iterable[Link], port: int) -> str:
    """Who has a UDP port, and what to do: a link with other options, such as one that takes any VNI, or a program."""
    holders = [link.name for link in links if link.vxlan is not None and link.vxlan.port == port and not link.is_ours]
    if holders:
        return f"{' and '.join(holders)} has UDP port {port}; stop what made it"
    return f"a program has UDP port {port}; stop it"


def refuse_strangers(links: Iterable[Link], device: Device) -> None:
    """Raise NetworkError where somebody else has the link's name, or its VNI on the same port."""
    for link in links:
        if link.is_ours:
            continue
        if link.name == device.name:
            raise NetworkError(
                f"{link.name} exists and is not ours; remove it (ip link delete {link.name}), or choose another VNI"
            )
        if link.vxlan is not None and (link.vxlan.vni, link.vxlan.port) == (device.vxlan.vni, device.vxlan.port):
            raise NetworkError(
                f"{link.name} has VNI {link.vxlan.vni} on port {link.vxlan.port} already, such as flannel's; stop what "
                f"made it and remove it (ip link delete {link.name}), or choose another VNI or Port"
            )


def plan_entries(
    fabric: Fabric, underlay: Underlay, config: configured.Vxlan, link: Link
) -> tuple[dict[Entry, Member], list[str]]:
    """Return the entries of all members, and a problem for each that there cannot be any for."""
    wanted: dict[Entry, Member] = {}
    problems = []
    far = []
    for member in fabric.others:
        why = check_host(member, underlay)
        if why:
            problems.append(told(member, why))
        elif config.direct_routing and is_near(member.public_ip, underlay):
            wanted[route_to(member, underlay)] = member
        else:
            far.append(member)
    macs, doubts = read_vteps(far, vni=config.vni, own_mac=link.mac)
    gateways: dict[IPv4Address, Member] = {}
    for member in far:
        if member.subnet not in macs:
            continue
        first = gateways.setdefault(member.subnet.network_address, member)
        if first is member:
            wanted |= dict.fromkeys(_through(member, macs[member.subnet], link), member)
        else:
            problems.append(told(member, f"it begins where {first.subnet} does, which another lease has"))
    return wanted, problems + doubts


def _through(member: Member, mac: str, link: Link) -> tuple[Entry, ...]:
    gateway = member.subnet.network_address
    return (
        Neighbour(link=link.index, address=gateway, mac=mac),
        Forward(link=link.index, mac=mac, host=member.public_ip),
        Route(destination=member.subnet, link=link.index, gateway=gateway, onlink=True),
    )
