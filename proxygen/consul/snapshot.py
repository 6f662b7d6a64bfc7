"""One read of the whole watched part of Consul, for the one-shot commands."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Final

import msgspec

from proxygen.consul.catalog_file import RawCatalog, catalog_of, write_catalog_file
from proxygen.consul.client import ConsulClient
from proxygen.consul.decode import (
    CONSUL_SERVICE,
    carries_proxy_keys,
    decode_entries,
    instances_of,
    is_askable,
    routed_names,
)
from proxygen.consul.reads import (
    confirm_absence,
    confirm_listing,
    confirm_overrides,
    overrides_prefix,
    read_datacenter,
    service_path,
)
from proxygen.errors import CatalogFileError, CatalogUnavailable
from proxygen.model import Catalog

_READERS: Final = 10
_RAW_ENTRIES: Final = msgspec.json.Decoder(list[msgspec.Raw])


async def fetch_catalog(client: ConsulClient, *, tag_prefix: str) -> Catalog:
    """Read the catalog once. Raise CatalogUnavailable when anything in it cannot be read or believed."""
    try:
        return catalog_of(await _gather(client, tag_prefix))
    except CatalogFileError as error:
        raise CatalogUnavailable(f"Consul's answer cannot be read: {error}") from error


async def take_snapshot(client: ConsulClient, *, tag_prefix: str) -> bytes:
    """Read the catalog once and return the text of a catalog file."""
    return write_catalog_file(await _gather(client, tag_prefix), taken_at=datetime.now(UTC))


async def _gather(client: ConsulClient, tag_prefix: str) -> RawCatalog:
    datacenter = await read_datacenter(client)
    listing = await confirm_listing(client)
    tagged = routed_names(listing, tag_prefix)
    names = [name for name in sorted(listing) if name != CONSUL_SERVICE and is_askable(name)]
    if not client.settings.meta_sweep:
        names = sorted(tagged)
    limit = asyncio.Semaphore(min(_READERS, client.settings.max_connections))

    async def read(name: str) -> tuple[str, list[msgspec.Raw]]:
        async with limit:
            body = (await client.read(service_path(name))).body
            entries = decode_entries(body)
            if name in tagged and not entries and await confirm_absence(client, name):
                body = (await client.read(service_path(name))).body
            routed = name in tagged or carries_proxy_keys(instances_of(name, entries), tag_prefix)
            return name, _RAW_ENTRIES.decode(body) if routed else []

    readers = [asyncio.create_task(read(name), name=f"snapshot of {name}") for name in names]
    try:
        found = await asyncio.gather(*readers)
    finally:
        for reader in readers:
            reader.cancel()
    overrides = await confirm_overrides(client, ())
    prefix = overrides_prefix(client.settings.kv_prefix)
    return RawCatalog(
        datacenter=datacenter,
        services={name: entries for name, entries in found if entries or name in tagged},
        kv={f"{prefix}{name}": value for name, value in overrides.items()},
    )
