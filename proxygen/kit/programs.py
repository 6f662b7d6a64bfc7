"""The project's one door to other programs: no shell, a time-out that ends the whole process group, bounded output."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from proxygen.kit.errors import ProgramUnavailable

# nginx -t of 10,000 conflicting names prints megabytes; its first lines and its verdict at the end are what counts.
_HEAD: Final = 192 * 1024
_TAIL: Final = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """A program that ended by itself."""

    argv: tuple[str, ...]
    returncode: int
    """Negative: the number of the signal that ended it."""
    output: str
    """Standard output and standard error in the order they were written, the middle left out where it is long."""
    seconds: float


async def run(
    argv: tuple[str, ...],
    *,
    timeout: float,  # noqa: ASYNC109 - it ends the program, not only our wait for it
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    stdin: str = "",
    room: int = _HEAD,
) -> Completed:
    """Run a program to its end. ``environment`` adds to ours; with no ``stdin`` there is nothing for it to read.

    ``room`` is for the output, in bytes; of a longer one the middle is left out.

    Raise ProgramUnavailable when it cannot be started or does not end in time; it is dead by then, children included.
    """
    started = time.monotonic()
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=cwd,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ProgramUnavailable(f"{argv[0]} cannot be started: {reason}") from error
    assert process.stdout is not None
    try:
        async with asyncio.timeout(timeout):
            # Both at once: a program that talks while it reads would stop at a full pipe.
            output, _ = await asyncio.gather(_read_bounded(process.stdout, room), _feed(process.stdin, stdin))
            returncode = await process.wait()
    except TimeoutError:
        raise ProgramUnavailable(f"{' '.join(argv)} did not end within {timeout:g}s and was ended") from None
    finally:
        await _end_group(process)
    seconds = time.monotonic() - started
    return Completed(argv=argv, returncode=returncode, output=output, seconds=seconds)


async def _feed(stream: asyncio.StreamWriter | None, text: str) -> None:
    if stream is not None:
        # It may end before it has read everything; its code tells why.
        with suppress(BrokenPipeError, ConnectionResetError):
            stream.write(text.encode())
            await stream.drain()
        stream.close()


async def _read_bounded(stream: asyncio.StreamReader, room: int) -> str:
    head, tail, left_out = bytearray(), bytearray(), 0
    while chunk := await stream.read(64 * 1024):
        space = room - len(head)
        head += chunk[:space]
        tail += chunk[space:]
        left_out += max(0, len(tail) - _TAIL)
        del tail[:-_TAIL]
    gap = f"\n... {left_out} bytes left out ...\n".encode() if left_out else b""
    return bytes(head + gap + tail).decode("utf-8", "replace")


async def _end_group(process: asyncio.subprocess.Process) -> None:
    # The leader may be gone while its children live on; the group keeps its number as long as one of them does.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    if process.returncode is None:
        await process.wait()
