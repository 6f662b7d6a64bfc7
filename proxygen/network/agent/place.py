"""The agent's directory: one agent at a time, and what the next one must know."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from proxygen.kit.errors import NetworkError
from proxygen.network.memory import AgentMemory, read_boot_id


@dataclass(frozen=True, slots=True, kw_only=True)
class StateDirectory:
    """``network.state``."""

    path: Path

    @property
    def lock(self) -> Path:
        return self.path / "agent.lock"

    @property
    def lease(self) -> Path:
        return self.path / "lease.json"

    @property
    def known(self) -> Path:
        return self.path / "known.json"

    @property
    def status(self) -> Path:
        return self.path / "status.json"

    @property
    def wireguard_key(self) -> Path:
        return self.path / "wireguard.key"

    def memory(self) -> AgentMemory:
        return AgentMemory(self.lease, boot=read_boot_id())

    @contextmanager
    def held(self) -> Iterator[None]:
        """Be the only one who changes this host's part of the network. Raise NetworkError where there is another.

        The kernel ends the lock with its holder, however that ends.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o755)
            descriptor = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise NetworkError(f"network.state: {self.path} cannot be used: {error.strerror}") from error
        try:
            try:
                _lock(descriptor)
            except BlockingIOError as error:
                holder = os.read(descriptor, 20).decode(errors="replace").strip()
                raise NetworkError(
                    f"the agent of this host runs (process {holder or 'unknown'}, {self.lock}); stop it first"
                ) from error
            with suppress(OSError):
                # For people alone; on a disk that is full the lock counts all the same.
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(descriptor)

    def is_held(self) -> bool:
        """Tell whether an agent runs."""
        with suppress(OSError):
            descriptor = os.open(self.lock, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            finally:
                os.close(descriptor)
        return False


def _lock(descriptor: int) -> None:
    # Whoever asks whether an agent runs has the lock for a moment.
    for pause in (0.05, 0.1, 0.2):
        with suppress(BlockingIOError):
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(pause)
    return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
