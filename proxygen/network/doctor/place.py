"""Where the doctor looks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from proxygen.network.memory import AgentMemory
from proxygen.network.session import Terms
from proxygen.network.store import NetworkStore
from proxygen.settings import NetworkSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class ExaminedHost:
    """A host, and its network's part of Consul."""

    store: NetworkStore
    settings: NetworkSettings
    host_id: str
    memory: AgentMemory
    """The agent's own, which is only read."""
    terms: Terms
    daemon_json: Path = Path("/etc/docker/daemon.json")
