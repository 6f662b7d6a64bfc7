"""A client that sends the bytes it is given, and reads the answer without a library that would mend it."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, Final

PATIENCE: Final = 60.0
"""Seconds: only a fault waits that long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer; ``status`` None where the connection ended before one."""

    status: int | None
    headers: tuple[tuple[str, str], ...] | None = ()
    """None where this client cannot read them (HTTP/2's may be Huffman codes)."""
    body: bytes = b""
    complete: bool = True
    """Whether all of the body came that the head promised."""
    interim: tuple[int, ...] = ()
    """The 1xx answers before it."""

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.headers or () if key.lower() == name.lower()]


NOTHING: Final = Reply(status=None, complete=False)


@dataclass(slots=True)
class Connection:
    """A connection to nginx from an address of the client's choice."""

    port: int
    source: str = "127.0.0.1"
    tls: ssl.SSLContext | None = None
    name: str = ""
    """The SNI."""
    socket: socket.socket = field(init=False)
    _file: BinaryIO = field(init=False)

    def __post_init__(self) -> None:
        plain = socket.create_connection(("127.0.0.1", self.port), PATIENCE, (self.source, 0))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self.socket = self.tls.wrap_socket(plain, server_hostname=self.name) if self.tls else plain
        except BaseException:
            plain.close()
            raise
        self._file = self.socket.makefile("rb")

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send; whoever is refused before the end of a body reads the answer all the same."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(data)

    def read(self, count: int) -> bytes:
        """So many bytes, or fewer where the connection ends."""
        with contextlib.suppress(ConnectionResetError):
            return self._file.read(count)
        return b""

    def read_until(self, text: bytes) -> bytes:
        """Read line by line to the one with this text, or to the end."""
        data = b""
        with contextlib.suppress(ConnectionResetError):
            while text not in data and (line := self._file.readline()):
                data += line
        return data

    def reply(self, method: str = "GET") -> Reply:
        """Read the next final answer."""
        interim: list[int] = []
        while True:
            try:
                head = list(_head(self._file))
            except (ConnectionResetError, ssl.SSLError):
                return NOTHING
            if not head:
                return NOTHING
            status = int(head[0].split()[1])
            if status >= 200 or status == 101:
                break
            interim.append(status)
        headers = tuple((name, value.strip()) for name, _, value in (line.partition(":") for line in head[1:]))
        bodiless = method == "HEAD" or status in {101, 204, 304}
        body, complete = (b"", True) if bodiless else _body(self._file, {key.lower(): value for key, value in headers})
        return Reply(status=status, headers=headers, body=body, complete=complete, interim=tuple(interim))


def _head(file: BinaryIO) -> Iterator[str]:
    while line := file.readline():
        if line == b"\r\n":
            return
        yield line.decode("latin-1").rstrip("\r\n")


def _body(file: BinaryIO, headers: dict[str, str]) -> tuple[bytes, bool]:
    with contextlib.suppress(ConnectionResetError, ssl.SSLError):
        if headers.get("transfer-encoding") == "chunked":
            return _chunks(file)
        if "content-length" in headers:
            length = int(headers["content-length"])
            body = file.read(length)
            return body, len(body) == length
        return file.read(), True
    return b"", False


def _chunks(file: BinaryIO) -> tuple[bytes, bool]:
    body = b""
    while line := file.readline():
        size = int(line.partition(b";")[0], 16)
        if size == 0:
            while file.readline() not in {b"\r\n", b""}:
                pass
            return body, True
        chunk = file.read(size + 2)
        body += chunk[:size]
        if len(chunk) < size + 2:
            break
    return body, False
