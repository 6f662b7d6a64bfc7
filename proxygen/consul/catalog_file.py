"""The catalog file: what ``proxygen snapshot`` writes and ``--catalog`` reads back.

``{"datacenter": …, "taken_at": ISO 8601, "services": {NAME: [entries of health/service]}, "kv": {KEY: text}}``; the
entries stay exactly as Consul returned them, so that a snapshot also shows what proxygen does not read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Final

import msgspec

from proxygen.consul.decode import Entry, instances_of
from proxygen.errors import CatalogFileError
from proxygen.model import Catalog, Instance, ServiceName

_CANARY: Final = "/canary/"


class _File(msgspec.Struct, forbid_unknown_fields=True):
    datacenter: str
    services: dict[str, list[msgspec.Raw]]
    taken_at: datetime | None = None
    kv: dict[str, str] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class RawCatalog:
    """The watched part of Consul with every field that Consul sent."""

    datacenter: str
    services: Mapping[str, Sequence[msgspec.Raw]]
    kv: Mapping[str, str]
    """Raw texts by full key."""


_FILE: Final = msgspec.json.Decoder(_File)
_ENTRY: Final = msgspec.json.Decoder(Entry)


def write_catalog_file(raw: RawCatalog, *, taken_at: datetime) -> bytes:
    """Return the text of a catalog file, indented and sorted so that two snapshots compare line by line."""
    document = {
        "datacenter": raw.datacenter,
        "taken_at": taken_at.isoformat(timespec="seconds"),
        "services": {name: list(raw.services[name]) for name in sorted(raw.services)},
        "kv": dict(sorted(raw.kv.items())),
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def read_catalog_file(text: str | bytes) -> Catalog:
    """Read a catalog file. Raise CatalogFileError that names the service and the field."""
    try:
        document = _FILE.decode(text)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise CatalogFileError(f"catalog file: {error}") from error
    return catalog_of(RawCatalog(datacenter=document.datacenter, services=document.services, kv=document.kv))


def catalog_of(raw: RawCatalog) -> Catalog:
    """Return the same catalog as typed values. Raise CatalogFileError where an entry cannot be read."""
    return Catalog(
        datacenter=raw.datacenter,
        services=MappingProxyType(
            {ServiceName(name): _instances(name, entries) for name, entries in raw.services.items()}
        ),
        overrides=MappingProxyType({ServiceName(_service_of(key)): value for key, value in raw.kv.items()}),
    )


def _instances(name: str, entries: Sequence[msgspec.Raw]) -> tuple[Instance, ...]:
    decoded = []
    for number, entry in enumerate(entries):
        try:
            decoded.append(_ENTRY.decode(entry))
        except (msgspec.DecodeError, UnicodeError) as error:
            raise CatalogFileError(f"catalog file: services.{name}[{number}]: {error}") from error
    return instances_of(name, decoded)


def _service_of(key: str) -> str:
    prefix, found, name = key.rpartition(_CANARY)
    if not (prefix and found and name):
        raise CatalogFileError(f"catalog file: kv key {key!r} is not PREFIX/canary/SERVICE")
    return name
