"""The lives of one service id on this host: which of them holds the entry.

Each run of a registration is a life. While it lives it listens on an abstract Unix socket whose name says which id and
instance it is of and how old it is; the kernel removes the name with the process, however that ends. So
``/proc/net/unix`` lists who is alive, without a file that could be left behind and without a word in Consul: an
unchanged restart wakes no watcher.

Of one instance (name and port) the newest life holds the entry: an upgrade's new process. The older ones stand by and
hold it again when the newer one is gone. Another instance under the same id waits until the first one is gone.

Lives in other network namespaces (containers), or of another user, are not seen. There the entry's address and port
decide (`proxygen.registration.lease`): the newest write counts.
"""

from __future__ import annotations

import asyncio
import enum
import hashlib
import os
import re
import socket
import struct
import time
import weakref
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

_TABLE: Final = Path("/proc/net/unix")
_PREFIX: Final = "proxygen/registration"
_LISTENS: Final = 0x10000
"""The flag of a listening socket in the kernel's table; a connection to it has the same name."""
_FLAGS: Final = re.compile(r"[0-9A-F]{8}")
_WAKE: Final = b"!"
_PATIENCE: Final = 1.0


class Seniority(enum.Enum):
    """A life among the lives of its id."""

    HOLDS = "holds"
    SUCCEEDED = "succeeded"
    """A newer life of the same instance holds the entry."""
    BESIDE = "beside"
    """Another instance of this host holds the id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """One life. ``since`` is when the first life of its unbroken line began, in monotonic nanoseconds."""

    key: str
    instance: str
    since: int
    born: int
    pid: int

    @property
    def name(self) -> str:
        return f"{_PREFIX}/{self.key}/{self.instance}/{self.since}/{self.born}/{self.pid}"


def holder(lives: Iterable[Life]) -> Life:
    """Return the newest life of the instance that had the id first."""
    lives = tuple(lives)
    first = min(lives, key=lambda life: (life.since, life.instance))
    return max((life for life in lives if life.instance == first.instance), key=lambda life: (life.born, life.pid))


def read_lives(table: str, key: str) -> Iterator[Life]:
    """Yield the lives of one id in the kernel's table of Unix sockets.

    Anybody can name a socket so that the table seems to have more rows, with anything in them.
    """
    for line in table.splitlines():
        fields = line.split()
        if len(fields) != 8 or not fields[7].startswith(f"@{_PREFIX}/{key}/") or not _listens(fields[3]):
            continue
        parts = fields[7].split("/")[3:]
        if len(parts) == 4 and all(part.isascii() and part.isdigit() for part in parts[1:]):
            since, born, pid = map(int, parts[1:])
            yield Life(key=key, instance=parts[0], since=since, born=born, pid=pid)


def _listens(flags: str) -> bool:
    return _FLAGS.fullmatch(flags) is not None and bool(int(flags, 16) & _LISTENS)


class Alone:
    """A life that has no others beside it: a registrator's, which alone decides who has its ids."""

    def standing(self) -> Seniority:
        return Seniority.HOLDS

    def heirs(self) -> tuple[Life, ...]:
        """The other lives of the same instance."""
        return ()

    def waiting(self) -> bool:
        """Whether another instance waits for the id."""
        return False

    async def join(self, wake: Callable[[], None]) -> bool:
        """Be known to the others, and tell them; true the first time."""
        return False

    def leave(self) -> None:
        """Be no life any more. Close first and look at the others afterwards: of two that leave, one sees no heir."""

    def wake(self) -> None:
        """Have all other lives look at the agent now."""


class Lives(Alone):
    """One life of an application's id, among those that live on this host."""

    def __init__(self, *, agent: str, id: str, name: str, port: int) -> None:
        born = time.monotonic_ns()
        key, instance = _digest(f"{agent} {id}", 16), _digest(f"{name} {port}", 8)
        self._me = Life(key=key, instance=instance, since=born, born=born, pid=os.getpid())
        self._server: asyncio.Server | None = None
        self._has_left = False

    def standing(self) -> Seniority:
        others = self._others()
        if self._server is None:
            line = [life.since for life in others if life.instance == self._me.instance]
            self._me = replace(self._me, since=min([*line, self._me.born]))
        first = holder([*others, self._me])
        if first == self._me:
            return Seniority.HOLDS
        return Seniority.SUCCEEDED if first.instance == self._me.instance else Seniority.BESIDE

    def heirs(self) -> tuple[Life, ...]:
        return tuple(life for life in self._others() if life.instance == self._me.instance)

    def waiting(self) -> bool:
        return any(life.instance != self._me.instance for life in self._others())

    async def join(self, wake: Callable[[], None]) -> bool:
        if self._server is not None or self._has_left:
            return False
        listener = socket.socket(socket.AF_UNIX)
        listener.setblocking(False)
        try:
            listener.bind(f"\0{self._me.name}")
        except OSError:
            # A system without abstract sockets: alone, as far as we can see.
            listener.close()
            self._has_left = True
            return False
        _listeners.add(listener)
        self._server = await asyncio.start_unix_server(_when_woken(wake), sock=listener)
        self.wake()
        return True

    def leave(self) -> None:
        self._has_left = True
        if self._server is not None:
            self._server.close()
            self._server = None

    def wake(self) -> None:
        for life in self._others():
            _reach(life, _WAKE)

    def _others(self) -> tuple[Life, ...]:
        try:
            table = _TABLE.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ()
        lives = read_lives(table, self._me.key)
        return tuple(life for life in lives if life.name != self._me.name and _reach(life) in (0, os.geteuid()))


_listeners: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def _close_inherited() -> None:
    # A worker is no life of its master's registration, and must not keep its name after it.
    for listener in tuple(_listeners):
        listener.close()


os.register_at_fork(after_in_child=_close_inherited)


def _digest(text: str, length: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def _when_woken(wake: Callable[[], None]) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                if await reader.read(1) == _WAKE:
                    wake()
        writer.close()

    return answer


def _reach(life: Life, word: bytes = b"") -> int | None:
    """Say a word to a life, and return the user who listens there; None where there is none any more."""
    with socket.socket(socket.AF_UNIX) as connection, suppress(OSError):
        connection.setblocking(False)
        connection.connect(f"\0{life.name}")
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        if word:
            connection.send(word)
        user: int = struct.unpack("3i", credentials)[1]
        return user
    return None
