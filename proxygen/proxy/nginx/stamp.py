"""The mark that each generation carries and that nginx tells on a private address: which one it really runs."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

STAMP_FILE: Final = "http.d/90-stamp.conf"
"""Where it stands in a generation."""

PATH: Final = "/proxygen/stamp"
"""Where the private virtual server answers."""

ALTERED_TYPES: Final = frozenset({"addition_types", "sub_filter_types"})
"""Directives that say which answers nginx alters besides HTML. Where ``http`` says one, the private server ends it for
itself; where it does not, nginx may lack the module."""

# A worker answers within microseconds; one that does not is stopped or drowning, and is asked again.
_PATIENCE: Final = 0.5
_REQUEST: Final = "GET {} HTTP/1.0\r\nHost: proxygen-stamp\r\n\r\n"
_STAMP: Final = re.compile(r"([1-9][0-9]{0,11}) ([0-9a-f]{8,64})")
_LONGEST_ANSWER: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """One generation's identity."""

    generation: int
    digest: str
    """Of everything in it but the stamp; lower-case hexadecimal."""

    def __str__(self) -> str:
        return stamp_text(self.generation, self.digest)


def stamp_text(generation: int, digest: str) -> str:
    """Return what nginx answers for a generation; `parse_stamp` reads it back."""
    text = f"{generation} {digest}"
    if _STAMP.fullmatch(text) is None:
        raise ValueError(f"{text!r} cannot be a stamp: a positive number and 8 to 64 hexadecimal digits")
    return text


def parse_stamp(text: str) -> Stamp | None:
    """Return the stamp, or None for any other text."""
    match = _STAMP.fullmatch(text.strip())
    return Stamp(generation=int(match[1]), digest=match[2]) if match else None


async def read_stamp(address: str) -> Stamp | None:
    """Ask nginx on a connection of its own (a kept one would stay with its old worker).

    ``address`` is ``HOST:PORT`` or ``unix:/PATH``. None: nobody answers there, or somebody who is no stamp.
    """
    status, said = await ask(address, PATH, patience=_PATIENCE)
    return parse_stamp(said) if status == "200" else None


async def ask(address: str, path: str, *, patience: float) -> tuple[str, str]:
    """Ask nginx's private virtual server for a path, and return status and text; both "" where nobody answers within
    ``patience`` seconds."""
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(patience):
            reader, writer = await _connect(address)
            try:
                writer.write(_REQUEST.format(path).encode())
                answer = await reader.read(_LONGEST_ANSWER)
                while chunk := await reader.read(_LONGEST_ANSWER):
                    answer = (answer + chunk)[:_LONGEST_ANSWER]
            finally:
                writer.transport.abort()
        return _parts(answer.decode("latin-1"))
    return "", ""


async def _connect(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if address.startswith("unix:"):
        return await asyncio.open_unix_connection(address.removeprefix("unix:"))
    host, _, port = address.rpartition(":")
    return await asyncio.open_connection(host.strip("[]"), int(port))


def _parts(answer: str) -> tuple[str, str]:
    head, _, body = answer.partition("\r\n\r\n")
    return "".join(head.split(" ", 2)[1:2]), body
