"""The kernel's WireGuard links: keys, peers, and the steps from those that are there to those that should be."""

from __future__ import annotations

import asyncio
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from pyroute2 import WireGuard
from pyroute2.netlink.exceptions import NetlinkError

from proxygen.kit.disk import write_atomically
from proxygen.kit.errors import NetworkError

KEY_BYTES: Final = 32
_NO_KEY: Final = b64encode(bytes(KEY_BYTES)).decode()
"""What the kernel says where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Another host, as the link knows it. What is a peer's own, such as the time of its last handshake, is left out."""

    key: str
    """Public, in base64."""
    host: IPv4Address | None
    port: int
    subnets: frozenset[IPv4Network]
    keepalive: int = 0
    shared_key: str = field(default="", repr=False)
    """Beside the public ones; empty where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WireGuardState:
    """What a link has."""

    key: str
    """Its public key; empty where it has none yet."""
    port: int
    peers: frozenset[Peer] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """A host's pair, in base64."""

    private: str
    public: str

    def __repr__(self) -> str:
        return f"Keys(public={self.public!r})"


def peers_between(actual: Iterable[Peer], desired: Iterable[Peer]) -> tuple[list[str], list[Peer]]:
    """Return the keys of peers to remove, and the peers to set, in this order.

    Removal comes first: a subnet that moves from one peer to another is taken from the first by the kernel itself, and
    is then not to be taken from the second.
    """
    there, wanted = {peer.key: peer for peer in actual}, {peer.key: peer for peer in desired}
    gone = sorted(there.keys() - wanted.keys())
    return gone, [wanted[key] for key in sorted(wanted) if there.get(key) != wanted[key]]


def check_key(text: object) -> str:
    """Return a key in base64 as the kernel writes it. Raise ValueError for what is none."""
    if not isinstance(text, str):
        raise ValueError("it is no text")
    try:
        raw = b64decode(text, validate=True)
    except ValueError as error:
        raise ValueError("it is not base64") from error
    if len(raw) != KEY_BYTES or not any(raw):
        raise ValueError(f"it does not stand for {KEY_BYTES} bytes")
    return b64encode(raw).decode()


def keep_keys(path: Path) -> Keys:
    """Read the host's private key, or make one, in a file that only its owner may read. Raise NetworkError."""
    try:
        try:
            private = X25519PrivateKey.from_private_bytes(
                b64decode(path.read_text(encoding="ascii").strip(), validate=True)
            )
            path.chmod(0o600)
        except FileNotFoundError:
            private = X25519PrivateKey.generate()
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, b64encode(private.private_bytes_raw()) + b"\n", mode=0o600)
    except OSError as error:
        raise NetworkError(f"WireGuard's key {path} cannot be kept: {error.strerror or error}") from error
    except ValueError as error:
        raise NetworkError(f"{path} holds no key of WireGuard ({error}); remove it, and a new one is made") from error
    return Keys(
        private=b64encode(private.private_bytes_raw()).decode(),
        public=b64encode(private.public_key().public_bytes_raw()).decode(),
    )


async def read_wireguard(name: str) -> WireGuardState:
    """Return what a link has. Raise NetworkError."""
    return await asyncio.to_thread(_read, name)


async def configure(name: str, keys: Keys, port: int) -> None:
    """Give a link its key and its port. Raise NetworkError."""
    await asyncio.to_thread(_set, name, [{"private_key": keys.private, "listen_port": port}])


async def set_peers(name: str, remove: Iterable[str], peers: Iterable[Peer]) -> None:
    """Remove some peers of a link and set others. Raise NetworkError."""
    gone = [{"peer": {"public_key": key, "remove": True}} for key in remove]
    await asyncio.to_thread(_set, name, [*gone, *({"peer": peer_request(peer)} for peer in peers)])


# pyroute2's API for WireGuard serves threads; on a loop of ours its socket would meet another loop of its own.


def _read(name: str) -> WireGuardState:
    with _asking(f"{name} cannot be read"), WireGuard() as netlink:
        return read_messages(netlink.info(name))


def _set(name: str, requests: Iterable[Mapping[str, Any]]) -> None:
    with _asking(f"{name} cannot be changed"), WireGuard() as netlink:
        for request in requests:
            netlink.set(name, **request)


@contextmanager
def _asking(what: str) -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        raise NetworkError(f"{what}: {error.args[-1]}") from error
    except OSError as error:
        raise NetworkError(f"{what}: {error.strerror or error}") from error


def peer_request(peer: Peer) -> dict[str, Any]:
    request: dict[str, Any] = {
        "public_key": peer.key,
        "endpoint_addr": str(peer.host),
        "endpoint_port": peer.port,
        "persistent_keepalive": peer.keepalive,
        "allowed_ips": [str(subnet) for subnet in sorted(peer.subnets)],
        "replace_allowed_ips": True,
        # Of zeros only: none.
        "preshared_key": peer.shared_key or _NO_KEY,
    }
    return request


def read_messages(messages: Iterable[Any]) -> WireGuardState:
    """Read what netlink says of one link; of one with many peers that is several messages."""
    key, port, peers = "", 0, dict[str, Peer]()
    for message in messages:
        key = _key(message.get_attr("WGDEVICE_A_PUBLIC_KEY")) or key
        port = message.get_attr("WGDEVICE_A_LISTEN_PORT") or port
        for told in message.get_attr("WGDEVICE_A_PEERS") or ():
            peer = _peer(told)
            before = peers.get(peer.key)
            peers[peer.key] = peer if before is None else _joined(before, peer)
    return WireGuardState(key=key, port=port, peers=frozenset(peers.values()))


def _joined(first: Peer, more: Peer) -> Peer:
    """Return a peer of which a second message gave more subnets, and nothing else."""
    return Peer(
        key=first.key,
        host=first.host,
        port=first.port,
        subnets=first.subnets | more.subnets,
        keepalive=first.keepalive,
        shared_key=first.shared_key,
    )


def _peer(told: Any) -> Peer:
    endpoint = told.get_attr("WGPEER_A_ENDPOINT")
    is_ipv4 = endpoint is not None and ":" not in endpoint["addr"]
    subnets = (subnet["addr"] for subnet in told.get_attr("WGPEER_A_ALLOWEDIPS") or ())
    return Peer(
        key=_key(told.get_attr("WGPEER_A_PUBLIC_KEY")),
        host=IPv4Address(endpoint["addr"]) if is_ipv4 else None,
        port=endpoint["port"] if is_ipv4 else 0,
        subnets=frozenset(IPv4Network(subnet) for subnet in subnets if ":" not in subnet),
        keepalive=told.get_attr("WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL") or 0,
        shared_key=_key(told.get_attr("WGPEER_A_PRESHARED_KEY")),
    )


def _key(told: Any) -> str:
    """Return a key as text. pyroute2 gives the value itself, or a mapping with it, in bytes or text."""
    value = told.get("value") if isinstance(told, Mapping) else told
    text = value.decode("ascii") if isinstance(value, bytes) else (value or "")
    return "" if text == _NO_KEY else text
