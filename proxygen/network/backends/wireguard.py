"""WireGuard by the kernel: packets cross hosts encrypted, each host known by its key."""

from __future__ import annotations

from collections import defaultdict
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Final

from proxygen.kit.errors import NetworkConfigError, NetworkError, quoted
from proxygen.network import config as configured
from proxygen.network.backends.on_kernel import KernelBackend
from proxygen.network.fabric import Fabric, Member, Underlay, check_host, told
from proxygen.network.kernel.netlink import Kernel
from proxygen.network.kernel.state import Entry, Link, Route
from proxygen.network.kernel.wireguard import (
    Keys,
    Peer,
    check_key,
    configure,
    keep_keys,
    peers_between,
    read_wireguard,
    set_peers,
)
from proxygen.network.records import Attributes

OVERHEAD: Final = 80
"""Bytes that WireGuard adds at most: IPv6 40, UDP 8, its own 32. flannel takes off the same."""
DEVICE: Final = "pxwg0"
_KIND: Final = "wireguard"


class WireGuardBackend(KernelBackend):
    """One link with a peer for each member. The private key never leaves its file and the kernel."""

    def __init__(
        self, kernel: Kernel, underlay: Underlay, config: configured.WireGuard, *, node: str, key_file: Path
    ) -> None:
        super().__init__(kernel, underlay, node=node)
        self._config = config
        self._key_file = key_file
        self._shared_key = _read_shared_key(config.psk)

    @property
    def mtu(self) -> int:
        """What is left of the underlay's, or of the configured one where that is less, after WireGuard's own bytes."""
        return min(self._underlay.mtu, self._config.mtu or self._underlay.mtu) - OVERHEAD

    async def prepare(self) -> Attributes:
        """Make the link and the key, and publish the public one as flannel does."""
        keys = keep_keys(self._key_file)
        await self._ready(keys)
        return await self._publish(configured.WireGuard.type, {"PublicKey": keys.public})

    async def carry(self, fabric: Fabric) -> tuple[str, ...]:
        keys = keep_keys(self._key_file)
        link = await self._ready(keys)
        await self._kernel.set_address(link, IPv4Interface((fabric.own.subnet.network_address, 32)))
        peers, problems = plan_peers(
            fabric, self._underlay, self._config, own_key=keys.public, shared_key=self._shared_key
        )
        actual = await read_wireguard(link.name)
        # A peer before its route: what has a route and no peer is refused, not sent elsewhere.
        await set_peers(link.name, *peers_between(actual.peers, peers))
        wanted: dict[Entry, Member] = {
            Route(destination=member.subnet, link=link.index): member for member in peers.values()
        }
        return (*problems, *await self._reconcile(wanted, link=link))

    async def _ready(self, keys: Keys) -> Link:
        link = await self._kernel.link(DEVICE)
        if link is not None and link.kind != _KIND:
            raise NetworkError(f"{DEVICE} exists and is a {link.kind or 'device'}, not WireGuard's; remove it")
        if link is not None and not link.is_ours:
            raise NetworkError(f"{DEVICE} exists and is not ours; remove it (ip link delete {DEVICE})")
        if link is None:
            await self._make()
        elif link.mtu != self.mtu:
            await self._kernel.set_link(link, mtu=self.mtu)
        if link is not None and not link.is_up:
            await self._kernel.set_link(link, state="up")
        state = await read_wireguard(DEVICE)
        if (state.key, state.port) != (keys.public, self._config.listen_port):
            await configure(DEVICE, keys, self._config.listen_port)
        link = await self._kernel.link(DEVICE)
        if link is None:
            raise NetworkError(f"{DEVICE} vanished as soon as it was made; something renames or removes links")
        return link

    async def _make(self) -> None:
        try:
            await self._kernel.make_link(DEVICE, _KIND, mtu=self.mtu)
        except NetworkError as error:
            raise NetworkError(
                f"{error}; does this kernel have WireGuard (modprobe wireguard)? The backend vxlan needs none"
            ) from error


def plan_peers(
    fabric: Fabric, underlay: Underlay, config: configured.WireGuard, *, own_key: str, shared_key: str
) -> tuple[dict[Peer, Member], list[str]]:
    """Return a peer for each member, and a problem for each that cannot be one.

    Of several with one key nobody gets it: who holds it cannot be told from here.
    """
    claims: dict[str, list[Member]] = defaultdict(list)
    problems = []
    for member in fabric.others:
        try:
            claims[_read_public_key(member, underlay, own_key)].append(member)
        except ValueError as error:
            problems.append(told(member, str(error)))
    peers: dict[Peer, Member] = {}
    for key, claimants in claims.items():
        if len(claimants) > 1:
            problems += [told(member, "its PublicKey is also that of another host") for member in claimants]
            continue
        peer = Peer(
            key=key,
            host=claimants[0].public_ip,
            port=config.listen_port,
            subnets=frozenset({claimants[0].subnet}),
            keepalive=config.keepalive,
            shared_key=shared_key,
        )
        peers[peer] = claimants[0]
    return peers, problems


def _read_public_key(member: Member, underlay: Underlay, own_key: str) -> str:
    why = check_host(member, underlay)
    if why:
        raise ValueError(why)
    told_key = member.backend_data.get("PublicKey")
    try:
        key = check_key(told_key)
    except ValueError as error:
        raise ValueError(f"its PublicKey {quoted(str(told_key))} is no key: {error}") from error
    if key == own_key:
        raise ValueError("its PublicKey is this host's")
    return key


def _read_shared_key(text: str | None) -> str:
    if text is None:
        return ""
    try:
        return check_key(text)
    except ValueError as error:
        raise NetworkConfigError(f"Backend (wireguard): PSK: {error}; make one with: wg genpsk") from error
