"""The addresses that a running nginx holds, as /proc shows them, and what it therefore cannot take by a reload."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from proxygen.proxy.nginx.addresses import Address, Listens, Occupied, canonical
from proxygen.proxy.nginx.master import Master

_SOCKET: Final = re.compile(r"socket:\[(\d+)\]")
_TABLES: Final = {"tcp": False, "tcp6": False, "udp": True, "udp6": True}
"""Whether each is one of datagrams."""
_IS_LITTLE: Final = sys.byteorder == "little"
_LISTENING: Final = ("0A", "07")
"""TCP_LISTEN, and what the kernel calls a socket of datagrams that nobody is connected to."""


def restart_needed(occupied: Occupied, ours: Listens, held: frozenset[Address]) -> str:
    """Say why only a restart of nginx brings it to listen on ``ours``, and what to do; "" where a reload does.

    nginx binds what is new before it lets go of what it has, and the kernel takes no second socket that a packet may
    be for. A start binds what is needed alone.
    """
    for address, blocker in occupied.obstacles(ours, held):
        server = occupied.holder(blocker)
        whose = f" (for the server at {server.place})" if server is not None else ""
        return (
            f"nginx holds {blocker}{whose} and cannot listen on {address} beside it before it is restarted: no reload"
            f" brings it there, so restart nginx"
        )
    return ""


def held_addresses(master: Master) -> frozenset[Address] | None:
    """Return what a master listens on, unix sockets aside; None where its files cannot be seen from here."""
    folder = Path(f"/proc/{master.pid}")
    try:
        inodes = _inodes(master.pid)
        return frozenset(
            address
            for table, udp in _TABLES.items()
            for address, inode in _rows(folder / "net" / table, udp=udp)
            if inode in inodes
        )
    except OSError:
        return None


def shared_with_others(master: Master, workers: Iterable[int], new: Collection[Address]) -> tuple[Address, ...]:
    """Return where another program receives datagrams already, of the addresses that are new to nginx.

    The kernel refuses nginx an address that is taken, except of datagrams where the other program says ``reuseport`` as
    we do: then each gets a part of them, and nobody is told.
    """
    wanted = sorted(address for address in new if address.udp)
    if not wanted:
        return ()
    net = Path(f"/proc/{master.pid}/net")
    try:
        own = set().union(*(_inodes(pid) for pid in (master.pid, *workers)))
        rows = [row for table in ("udp", "udp6") for row in _rows(net / table, udp=True)]
    except OSError:
        return ()
    others = [address for address, inode in rows if inode not in own]
    return tuple(address for address in wanted if any(_receives(other, address) for other in others))


def _receives(other: Address, address: Address) -> bool:
    """Whether a socket gets datagrams for an address; one for any IPv6 address most often gets those by IPv4 too."""
    return other.meets(address) or (other.port == address.port and other.host == "::")


def _inodes(pid: int) -> set[str]:
    """The sockets that a process has open."""
    folder = Path(f"/proc/{pid}/fd")
    return {match[1] for name in os.listdir(folder) if (match := _socket(folder / name))}


def _socket(link: Path) -> re.Match[str] | None:
    # One that is closed meanwhile holds nothing.
    with suppress(FileNotFoundError):
        return _SOCKET.fullmatch(os.readlink(link))
    return None


def _rows(table: Path, *, udp: bool) -> Iterator[tuple[Address, str]]:
    # A kernel without IPv6 has no table of it.
    if not table.exists():
        return
    for line in table.read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] in _LISTENING:
            yield _address(fields[1], udp=udp), fields[9]


def _address(text: str, *, udp: bool) -> Address:
    """The kernel writes each four bytes of an address as a number of the machine's own byte order."""
    host, _, port = text.partition(":")
    words = bytes.fromhex(host)
    packed = b"".join(words[at : at + 4][::-1] for at in range(0, len(words), 4)) if _IS_LITTLE else words
    return Address(canonical(packed), int(port, 16), udp)
