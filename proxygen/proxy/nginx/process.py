"""nginx's binary and those around it, run to their end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from proxygen.kit import programs
from proxygen.kit.errors import NginxUnavailable, ProgramUnavailable
from proxygen.kit.programs import Completed

__all__ = ["Completed", "run"]


async def run(
    argv: tuple[str, ...],
    *,
    timeout: float,  # noqa: ASYNC109 - it ends the program, not only our wait for it
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Completed:
    """Like `programs.run`. Raise NginxUnavailable when it cannot be started or does not end in time."""
    try:
        return await programs.run(argv, timeout=timeout, cwd=cwd, environment=environment)
    except ProgramUnavailable as error:
        raise NginxUnavailable(str(error)) from error
