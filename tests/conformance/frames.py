"""HTTP/2 by hand: one request on a connection of its own, with no library that would refuse to send it."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Final

from tests.conformance.wire import NOTHING, Connection, Reply

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _AWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_LARGEST: Final = 16_384
"""Bytes of a frame (RFC 9113, section 4.2)."""
_STATIC: Final = {8: 200, 9: 204, 10: 206, 11: 304, 12: 400, 13: 404, 14: 500}
"""Entries of HPACK's static table (RFC 7541, appendix A) that are a status."""


def exchange(connection: Connection, fields: Sequence[tuple[str, str]], body: bytes, *, ended: bool = True) -> Reply:
    """Send one request and read its answer. ``fields`` begin with the pseudo-header fields, in the order given.

    Without ``ended`` the stream stays open after the body.
    """
    return _Stream(connection).exchange(b"".join(map(_literal, fields)), body, ended)


def _literal(field: tuple[str, str]) -> bytes:
    """A field that is not indexed, without Huffman codes."""
    return b"\0" + b"".join(_text(part.encode("latin-1")) for part in field)


def _text(text: bytes) -> bytes:
    if len(text) < 127:
        return bytes([len(text)]) + text
    rest, coded = len(text) - 127, b"\x7f"
    while rest >= 128:
        coded += bytes([rest % 128 + 128])
        rest //= 128
    return coded + bytes([rest]) + text


class _Stream:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._windows = {0: 65_535, 1: 65_535}
        self._first_window = 65_535
        self._status: int | None = None
        self._interim: list[int] = []
        self._body = b""
        self._over = self._complete = False

    def exchange(self, block: bytes, body: bytes, ended: bool) -> Reply:
        self._connection.send(_PREFACE + _frame(_SETTINGS, 0, 0, struct.pack(">HIHI", 2, 0, 4, 1 << 24)))
        self._connection.send(b"".join(_head(block, end_stream=ended and not body)))
        self._send(body, ended)
        while not self._over:
            self._take()
        if self._status is None:
            return NOTHING
        return Reply(
            status=self._status,
            headers=None,
            body=self._body,
            complete=self._complete,
            interim=tuple(self._interim),
        )

    def _send(self, body: bytes, ended: bool) -> None:
        while body and not self._over:
            room = min(*self._windows.values(), _LARGEST)
            if room <= 0:
                self._take()
                continue
            piece, body = body[:room], body[room:]
            for stream in self._windows:
                self._windows[stream] -= len(piece)
            self._connection.send(_frame(_DATA, _END_STREAM if ended and not body else 0, 1, piece))

    def _take(self) -> None:
        head = self._connection.read(9)
        if len(head) < 9:
            self._over = True
            return
        length, kind, flags, stream = int.from_bytes(head[:3]), head[3], head[4], int.from_bytes(head[5:])
        payload = self._connection.read(length)
        if kind == _SETTINGS and not flags & _ACK:
            self._settle(payload)
        elif kind == _WINDOW:
            self._windows[stream] += int.from_bytes(payload)
        elif kind == _PING and not flags & _ACK:
            self._connection.send(_frame(_PING, _ACK, 0, payload))
        elif kind == _HEADERS:
            self._see(_status(payload))
        elif kind == _DATA:
            self._body += payload
        elif kind in {_RESET, _AWAY}:
            # A stream that is reset without an error after its answer is complete; the body was not wanted.
            self._over = kind == _RESET or int.from_bytes(payload[4:8]) != 0
        if kind in {_HEADERS, _DATA} and flags & _END_STREAM:
            self._over = self._complete = True

    def _settle(self, payload: bytes) -> None:
        for key, value in struct.iter_unpack(">HI", payload):
            if key == 4:
                self._windows[1] += value - self._first_window
                self._first_window = value
        self._connection.send(_frame(_SETTINGS, _ACK, 0, b""))

    def _see(self, status: int | None) -> None:
        if status is not None and status < 200:
            self._interim.append(status)
        elif self._status is None:
            self._status = status


def _head(block: bytes, *, end_stream: bool) -> Iterator[bytes]:
    """A HEADERS frame and as many CONTINUATIONs as it takes."""
    pieces = [block[start : start + _LARGEST] for start in range(0, len(block), _LARGEST)]
    for number, piece in enumerate(pieces):
        flags = _END_HEADERS if number == len(pieces) - 1 else 0
        if number == 0 and end_stream:
            flags |= _END_STREAM
        yield _frame(9 if number else _HEADERS, flags, 1, piece)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def _status(block: bytes) -> int | None:
    """The status, which nginx writes first and without Huffman codes; None in trailers."""
    while block and block[0] >> 5 == 1:
        block = block[1:]
    if not block:
        return None
    if block[0] & 0x80:
        return _STATIC.get(block[0] & 0x7F)
    name = block[0] & (0x3F if block[0] & 0x40 else 0x0F)
    return int(block[2:5]) if 8 <= name <= 14 and block[1] == 3 else None
