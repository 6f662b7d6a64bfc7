"""One read of the whole watched part of Consul, for the one-shot commands."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

import msgspec

from proxygen.catalog import Catalog
from proxygen.consul.catalog_file import RawCatalog, catalog_of, write_catalog_file
from proxygen.consul.client import ConsulClient
from proxygen.consul.decode import (
    CONSUL_SERVICE,
    carries_proxy_keys,
    decode_entries,
    decode_raw_entries,
    instances_of,
    routed_names,
    unservable_names,
)
from proxygen.consul.elsewhere import datacenters_named
from proxygen.consul.names import is_askable, name_problem
from proxygen.consul.reads import (
    confirm_listing,
    confirm_overrides,
    is_about_one_service,
    overrides_prefix,
    read_datacenter,
    read_datacenters,
    read_service,
    service_path,
)
from proxygen.kit.errors import CatalogFileError, CatalogUnavailable
from proxygen.kit.log import get_logger

_log: Final = get_logger(__name__)

_READERS: Final = 10


async def fetch_catalog(client: ConsulClient, *, tag_prefix: str) -> Catalog:
    """Read the catalog once. Raise CatalogUnavailable when it cannot be read or believed.

    A single service that Consul does not show is left out, with a warning in the log.
    """
    try:
        return catalog_of(await _gather(client, tag_prefix))
    except CatalogFileError as error:
        raise CatalogUnavailable(f"Consul's answer cannot be read: {error}") from error


async def take_snapshot(client: ConsulClient, *, tag_prefix: str) -> bytes:
    """Read the catalog once and return the text of a catalog file."""
    return write_catalog_file(await _gather(client, tag_prefix), taken_at=datetime.now(UTC))


async def _gather(client: ConsulClient, tag_prefix: str) -> RawCatalog:
    datacenter = await read_datacenter(client)
    listing = (await confirm_listing(client)).services
    tagged = routed_names(listing, tag_prefix)
    for name in unservable_names(listing, tag_prefix):
        _log.warning("service left out", service=name, reason=name_problem(name))
    names = [name for name in sorted(listing) if name != CONSUL_SERVICE and is_askable(name)]
    if not client.settings.meta_sweep:
        names = sorted(tagged)
    limit = asyncio.Semaphore(min(_READERS, client.settings.max_connections))

    async def read(name: str) -> list[msgspec.Raw] | CatalogUnavailable:
        async with limit:
            try:
                return await _read_routed(client, name, tag_prefix, is_tagged=name in tagged)
            except CatalogUnavailable as error:
                if not is_about_one_service(error):
                    raise
                _log.warning("service left out", service=name, reason=str(error))
                return error

    readers = [asyncio.create_task(read(name), name=f"snapshot of {name}") for name in names]
    try:
        found = await asyncio.gather(*readers)
    finally:
        for reader in readers:
            reader.cancel()
    refusals = [one for one in found if isinstance(one, CatalogUnavailable)]
    if refusals and not any(isinstance(one, list) and one for one in found):
        raise refusals[0]
    overrides = await confirm_overrides(client, ())
    prefix = overrides_prefix(client.settings.kv_prefix)
    raw = RawCatalog(
        datacenter=datacenter,
        services={
            name: entries
            for name, entries in zip(names, found, strict=True)
            if isinstance(entries, list) and (entries or name in tagged)
        },
        kv={f"{prefix}{name}": value for name, value in overrides.items()},
    )
    return replace(raw, elsewhere=await _gather_elsewhere(client, raw, tag_prefix))


def _wanted_elsewhere(raw: RawCatalog, tag_prefix: str) -> dict[str, list[str]]:
    """By the other datacenter the services that name it."""
    wanted: dict[str, list[str]] = {}
    for name, instances in catalog_of(raw).services.items():
        for datacenter in datacenters_named(instances, tag_prefix):
            if datacenter != raw.datacenter:
                wanted.setdefault(datacenter, []).append(name)
    return wanted


async def _gather_elsewhere(
    client: ConsulClient, raw: RawCatalog, tag_prefix: str
) -> dict[str, dict[str, list[msgspec.Raw]]]:
    """Read the services that name other datacenters for their failover; what is not observed there is missing."""
    wanted = _wanted_elsewhere(raw, tag_prefix)
    if not wanted:
        return {}
    listed = await read_datacenters(client)
    for stranger in sorted(wanted.keys() - set(listed)):
        _log.warning("datacenter left out", datacenter=stranger, reason="Consul does not list it")
    known = [datacenter for datacenter in sorted(wanted) if datacenter in listed]
    found = await asyncio.gather(*(_read_there(client.at(name), wanted[name], tag_prefix) for name in known))
    return {datacenter: services for datacenter, services in zip(known, found, strict=True) if services}


async def _read_there(client: ConsulClient, names: Sequence[str], tag_prefix: str) -> dict[str, list[msgspec.Raw]]:
    """Read services of the client's datacenter, none where it cannot be asked."""
    datacenter = client.settings.datacenter
    limit = asyncio.Semaphore(max(1, client.settings.max_connections // 8))
    found: dict[str, list[msgspec.Raw]] = {}

    async def read(name: str) -> None:
        async with limit:
            try:
                found[name] = await _read_routed(client, name, tag_prefix, is_tagged=True)
            except CatalogUnavailable as error:
                if not is_about_one_service(error):
                    raise
                _log.warning("service left out", service=name, datacenter=datacenter, reason=str(error))

    try:
        async with asyncio.TaskGroup() as group:
            for name in names:
                group.create_task(read(name), name=f"snapshot of {name} in {datacenter}")
    except* CatalogUnavailable as errors:
        reason = str(errors.exceptions[0])
        _log.warning("datacenter left out", datacenter=datacenter, reason=reason)
        found.clear()
    return found


async def _read_routed(client: ConsulClient, name: str, tag_prefix: str, *, is_tagged: bool) -> list[msgspec.Raw]:
    """Return the raw entries of a service; none where it has no tag and its Meta does not route it either."""
    body = (await client.read(service_path(name))).body
    entries = decode_entries(body)
    if is_tagged and not entries and await read_service(client, name, "consistent"):
        body = (await client.read(service_path(name), consistency="consistent")).body
    routed = is_tagged or carries_proxy_keys(instances_of(name, entries), tag_prefix)
    return decode_raw_entries(body) if routed else []
