"""The agent's directory: one agent at a time, and what the next one must know."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from proxygen.kit.errors import NetworkError
from proxygen.kit.lock import LockHeld, hold_lock, is_locked, sign
from proxygen.network.memory import AgentMemory, read_boot_id


@dataclass(frozen=True, slots=True, kw_only=True)
class StateDirectory:
    """``network.state``."""

    path: Path

    @property
    def lock(self) -> Path:
        """Held by the agent that runs: a host has one."""
        return self.path / "agent.lock"

    @property
    def lease(self) -> Path:
        """The subnet and session of this host, for the next start."""
        return self.path / "lease.json"

    @property
    def known(self) -> Path:
        """The members as last seen, for a start while Consul is down."""
        return self.path / "known.json"

    @property
    def status(self) -> Path:
        """What the agent does, for ``proxygen network status`` and the doctor."""
        return self.path / "status.json"

    @property
    def wireguard_key(self) -> Path:
        """The private key; it never leaves the host."""
        return self.path / "wireguard.key"

    def memory(self) -> AgentMemory:
        """The lease's memory, which is void after another boot."""
        return AgentMemory(self.lease, boot=read_boot_id())

    @contextmanager
    def held(self) -> Iterator[None]:
        """Be the only one who changes this host's part of the network. Raise NetworkError where there is another."""
        with ExitStack() as stack:
            try:
                self.path.mkdir(parents=True, exist_ok=True, mode=0o755)
                lock = stack.enter_context(hold_lock(self.lock))
            except LockHeld as error:
                raise NetworkError(
                    f"the agent of this host runs (process {error.holder}, {self.lock}); stop it first"
                ) from error
            except OSError as error:
                raise NetworkError(f"network.state: {self.path} cannot be used: {error.strerror}") from error
            with suppress(OSError):
                # For people alone; on a disk that is full the lock counts all the same.
                sign(lock)
            yield

    def is_held(self) -> bool:
        """Tell whether an agent runs."""
        return is_locked(self.lock)
