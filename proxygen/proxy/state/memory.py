"""What must outlive the process: who holds which claim, where wider routes serve, the overrides in
force, the operator's pin.

One JSON file in OUTPUT/state, replaced whole.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

import msgspec

from proxygen.catalog import ServiceName
from proxygen.kit.disk import write_atomically
from proxygen.proxy.plan.types import Claim, Copy, Memory, PortClaim, RouteClaim
from proxygen.tags.shares import parse_override

_FILE: Final = "state/memory.json"


class _Route(msgspec.Struct, frozen=True):
    service: str
    host: str
    path: str


class _Port(msgspec.Struct, frozen=True):
    service: str
    protocol: str
    port: int


class _File(msgspec.Struct, frozen=True):
    routes: tuple[_Route, ...] = ()
    ports: tuple[_Port, ...] = ()
    copies: tuple[Copy, ...] = ()
    overrides: dict[str, str] = {}
    pinned: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """The memory of the last plan that went live, and the operator's pin."""

    plan: Memory = field(default_factory=Memory)
    pinned: int | None = None
    """The generation to which the operator went back; None: new plans may go live."""


def recall(output: Path) -> Remembered:
    """Read what the last run left; nothing where it left nothing, or nothing that can be read."""
    try:
        file = msgspec.json.decode((output / _FILE).read_bytes(), type=_File)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return Remembered()
    return Remembered(plan=_memory(file), pinned=file.pinned)


def _memory(file: _File) -> Memory:
    holders: dict[Claim, ServiceName] = {
        RouteClaim(route.host, route.path): ServiceName(route.service) for route in file.routes
    }
    holders.update((PortClaim(port.protocol, port.port), ServiceName(port.service)) for port in file.ports)
    overrides = {ServiceName(name): text for name, text in file.overrides.items() if _parses(text)}
    return Memory(
        holders=MappingProxyType(holders),
        overrides=MappingProxyType(overrides),
        copies=frozenset(file.copies),
    )


def _parses(override: str) -> bool:
    with suppress(ValueError):
        return parse_override(override) is not None
    return False


def remember(output: Path, remembered: Remembered) -> None:
    """Replace what is on disk. Raise OSError where that fails."""
    write_atomically(output / _FILE, msgspec.json.encode(_file(remembered)))


def _file(remembered: Remembered) -> _File:
    routes, ports = [], []
    for claim, service in remembered.plan.holders.items():
        match claim:
            case RouteClaim(host, path):
                routes.append(_Route(service, host, path))
            case PortClaim(protocol, port):
                ports.append(_Port(service, protocol, port))
    return _File(
        routes=tuple(routes),
        ports=tuple(ports),
        copies=tuple(sorted(remembered.plan.copies)),
        overrides={str(name): text for name, text in remembered.plan.overrides.items()},
        pinned=remembered.pinned,
    )
