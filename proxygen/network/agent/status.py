"""What the agent says of itself: a document on disk, which says too when it was written."""

from __future__ import annotations

import time
from enum import Enum
from pathlib import Path
from typing import Final

import msgspec

from proxygen.kit.disk import write_atomically
from proxygen.kit.errors import NetworkError
from proxygen.network.agent.place import StateDirectory

BEAT: Final = 5.0
"""Seconds after which the document is written again where nothing changed."""
_SILENT: Final = 4 * BEAT


class HostState(Enum):
    """How the host's part of the network is, in one word."""

    STARTING = "starting"
    """The host has no subnet yet, or nothing was carried yet."""
    READY = "ready"
    DEGRADED = "degraded"
    """Containers may well reach each other; something is wrong all the same, and `problems` says what."""
    SILENT = "silent"
    """The agent runs and has not written for a while."""


class MemberStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Another host."""

    host_id: str
    node: str
    subnet: str
    public_ip: str
    lives: bool


class CarryStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The last time that the data plane was brought to what it should be."""

    at: float
    seconds: float
    error: str
    """Empty: it was done."""
    done: int = 0
    """How often since the agent's start, as the next."""
    failed: int = 0


class AgentStatus(msgspec.Struct, frozen=True, kw_only=True):
    """All of it; times are seconds since 1970."""

    version: str
    pid: int
    at: float
    state: HostState
    host_id: str
    node: str
    standing: str
    reason: str
    """Why the lease is not held; empty where it is."""
    network: str
    subnet: str
    backend: str
    mtu: int
    interface: str
    public_ip: str
    consul_answered: float | None
    members: tuple[MemberStatus, ...]
    problems: tuple[str, ...]
    carried: CarryStatus | None


def write_status(path: Path, status: AgentStatus) -> None:
    """Raise OSError.

    It is read only while the agent that wrote it runs: the disk need not have it, and the agent's loop does not wait.
    """
    write_atomically(path, msgspec.json.encode(status), mode=0o644, durable=False)


def read_status(directory: StateDirectory) -> AgentStatus | None:
    """Return what the running agent says; None where none runs. Raise NetworkError where it cannot be read."""
    if not directory.is_held():
        return None
    try:
        status = msgspec.json.decode(directory.status.read_bytes(), type=AgentStatus)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise NetworkError(f"the agent's status in {directory.status} cannot be read: {error}") from error
    # Of a clock that was set back since.
    age = abs(time.time() - status.at)
    if age < _SILENT:
        return status
    said = f"the agent (process {status.pid}) has said nothing for {age:.0f} s"
    return msgspec.structs.replace(status, state=HostState.SILENT, problems=(said, *status.problems))
