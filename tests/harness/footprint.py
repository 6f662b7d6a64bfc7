"""What a process holds: file descriptors, threads, memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import psutil  # type: ignore[import-untyped]


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """One look at a process."""

    descriptors: int
    threads: int
    memory: int
    """Resident bytes."""

    @classmethod
    def of(cls, pid: int) -> Self:
        process = psutil.Process(pid)
        with process.oneshot():
            return cls(descriptors=process.num_fds(), threads=process.num_threads(), memory=process.memory_info().rss)

    def __str__(self) -> str:
        return f"{self.descriptors} file descriptors, {self.threads} threads, {self.memory / 2**20:.0f} MiB"
