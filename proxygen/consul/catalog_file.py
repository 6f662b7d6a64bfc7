"""The catalog file: what ``proxygen snapshot`` writes and ``--catalog`` reads back.

``{"datacenter": …, "taken_at": ISO 8601, "services": {NAME: [entries of health/service]}, "kv": {KEY: text},
"elsewhere": {DATACENTER: {NAME: [entries]}}}``, the last only where services name other datacenters for their failover.
The entries stay exactly as Consul returned them, so that a snapshot also shows what proxygen does not read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Final

import msgspec

from proxygen.catalog import Catalog, Instance, ServiceName
from proxygen.consul.decode import UNREADABLE, HealthEntry, instances_of
from proxygen.kit.errors import CatalogFileError

_CANARY: Final = "/canary/"


class _File(msgspec.Struct, forbid_unknown_fields=True):
    datacenter: str
    services: dict[str, list[msgspec.Raw]]
    taken_at: datetime | None = None
    kv: dict[str, str] = {}
    elsewhere: dict[str, dict[str, list[msgspec.Raw]]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class RawCatalog:
    """The watched part of Consul with every field that Consul sent."""

    datacenter: str
    services: Mapping[str, Sequence[msgspec.Raw]]
    kv: Mapping[str, str]
    """Raw texts by full key."""
    elsewhere: Mapping[str, Mapping[str, Sequence[msgspec.Raw]]] = field(default_factory=dict)


_FILE: Final = msgspec.json.Decoder(_File)
_ENTRY: Final = msgspec.json.Decoder(HealthEntry)


def write_catalog_file(raw: RawCatalog, *, taken_at: datetime) -> bytes:
    """Return the text of a catalog file, indented and sorted so that two snapshots compare line by line."""
    document = {
        "datacenter": raw.datacenter,
        "taken_at": taken_at.isoformat(timespec="seconds"),
        "services": _sorted(raw.services),
        "kv": dict(sorted(raw.kv.items())),
    }
    if raw.elsewhere:
        document["elsewhere"] = {name: _sorted(services) for name, services in sorted(raw.elsewhere.items())}
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def _sorted(services: Mapping[str, Sequence[msgspec.Raw]]) -> dict[str, list[msgspec.Raw]]:
    return {name: list(services[name]) for name in sorted(services)}


def read_catalog_file(text: str | bytes) -> Catalog:
    """Read a catalog file. Raise CatalogFileError that names the service and the field."""
    try:
        document = _FILE.decode(text)
    except UNREADABLE as error:
        raise CatalogFileError(f"catalog file: {error}") from error
    return catalog_of(
        RawCatalog(
            datacenter=document.datacenter,
            services=document.services,
            kv=document.kv,
            elsewhere=document.elsewhere,
        )
    )


def catalog_of(raw: RawCatalog) -> Catalog:
    """Return the same catalog as typed values. Raise CatalogFileError where an entry cannot be read."""
    return Catalog(
        datacenter=raw.datacenter,
        services=_services(raw.services, "services"),
        overrides=MappingProxyType({ServiceName(_service_of(key)): value for key, value in raw.kv.items()}),
        elsewhere=MappingProxyType(
            {name: _services(services, f"elsewhere.{name}") for name, services in raw.elsewhere.items()}
        ),
    )


def _services(services: Mapping[str, Sequence[msgspec.Raw]], place: str) -> Mapping[ServiceName, tuple[Instance, ...]]:
    return MappingProxyType({ServiceName(name): _instances(name, entries, place) for name, entries in services.items()})


def _instances(name: str, entries: Sequence[msgspec.Raw], place: str) -> tuple[Instance, ...]:
    decoded = []
    for number, entry in enumerate(entries):
        try:
            decoded.append(_ENTRY.decode(entry))
        except UNREADABLE as error:
            raise CatalogFileError(f"catalog file: {place}.{name}[{number}]: {error}") from error
    return instances_of(name, decoded)


def _service_of(key: str) -> str:
    prefix, found, name = key.rpartition(_CANARY)
    if not (prefix and found and name):
        raise CatalogFileError(f"catalog file: kv key {key!r} is not PREFIX/canary/SERVICE")
    return name
