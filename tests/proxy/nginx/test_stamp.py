"""Stamps, and reading them from whatever listens there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from proxygen.proxy.nginx.stamp import Stamp, parse_stamp, read_stamp, stamp_text

_STAMP = Stamp(generation=42, digest="0123456789abcdef")


def test_a_stamp_is_read_back() -> None:
    assert parse_stamp(stamp_text(42, "0123456789abcdef") + "\n") == _STAMP


@pytest.mark.parametrize(("generation", "digest"), [(0, "0123456789"), (1, "XYZ"), (1, "short"), (-1, "0123456789")])
def test_what_could_not_be_read_back_is_not_written(generation: int, digest: str) -> None:
    with pytest.raises(ValueError, match="stamp"):
        stamp_text(generation, digest)


@pytest.mark.parametrize("text", ["", "42", "042 0123456789", "42 0123456789 more", "x 0123456789", "<html>"])
def test_another_text_is_no_stamp(text: str) -> None:
    assert parse_stamp(text) is None


@asynccontextmanager
async def _answering(path: Path, *parts: bytes, hold: bool = False) -> AsyncIterator[str]:
    """Answer each connection with these bytes, a moment apart; ``hold``: and never close."""
    closing = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.01)
        if hold:
            await closing.wait()
        writer.close()

    async with await asyncio.start_unix_server(answer, path / "stamp.sock"):
        yield f"unix:{path}/stamp.sock"
        closing.set()


async def test_an_answer_may_come_in_parts(short_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A machine under load takes its time; what is meant here is what is read.
    monkeypatch.setattr("proxygen.proxy.nginx.stamp._PATIENCE", 30)
    async with _answering(short_directory, b"HTTP/1.1 200 OK\r\n\r\n42 0123", b"456789abcdef\n") as address:
        assert await read_stamp(address) == _STAMP


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 404 Not Found\r\n\r\n42 0123456789abcdef",
        b"42 0123456789abcdef",
        b"",
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100_000,
    ],
)
async def test_any_other_answer_is_no_stamp(short_directory: Path, answer: bytes) -> None:
    async with _answering(short_directory, answer) as address:
        assert await read_stamp(address) is None


async def test_an_answer_that_never_ends_is_given_up(short_directory: Path) -> None:
    async with _answering(short_directory, b"HTTP/1.1 200 OK\r\n\r\n42 0123456789abcdef", hold=True) as address:
        async with asyncio.timeout(3):
            assert await read_stamp(address) is None


async def test_nobody_there_is_no_stamp(short_directory: Path) -> None:
    assert await read_stamp(f"unix:{short_directory}/nobody.sock") is None
