"""Single reads from Consul, and when "nothing there" may be believed.

Consul answers a token without rights, a restarting agent and a lagging server with 200 and an empty list. So an
absence is only believed after a consistent read, and only while the catalog still lists the service ``consul``,
which every real catalog has.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from proxygen.catalog import ServiceName
from proxygen.consul.client import Consistency, ConsulClient
from proxygen.consul.decode import (
    CONSUL_SERVICE,
    HealthEntry,
    decode_datacenters,
    decode_entries,
    decode_listing,
    decode_overrides,
)
from proxygen.consul.names import is_askable
from proxygen.kit.errors import AccessDenied, CatalogUnavailable, ConsulUnreachable

LISTING_PATH = "/v1/catalog/services"


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The names and tags of all services, and the index that they stand for."""

    services: Mapping[str, tuple[str, ...]]
    index: int


class InstancesHidden(AccessDenied):
    """A service is listed, but none of its instances is shown to our token."""


def is_about_one_service(error: CatalogUnavailable) -> bool:
    """Tell whether a failure to read a service is that service's own, such as a name that Consul answers with 400.

    Such a failure lasts; who waits for all services must not wait for this one.
    """
    return isinstance(error, InstancesHidden) or not isinstance(error, ConsulUnreachable | AccessDenied)


def overrides_prefix(kv_prefix: str) -> str:
    """The folder of the operator's shares, with its slash: one key for each service below it."""
    return f"{kv_prefix}/canary/"


def service_path(name: str) -> str:
    return f"/v1/health/service/{name}"


async def read_datacenter(client: ConsulClient) -> str:
    """Return the datacenter that is watched: the setting's, else the agent's own."""
    entries = decode_entries((await client.read(service_path(CONSUL_SERVICE))).body)
    client.oddities.heed_servers(entries)
    if client.settings.datacenter:
        return client.settings.datacenter
    if entries and entries[0].node.datacenter:
        return entries[0].node.datacenter
    # Nearest first, and nobody is nearer than the agent's own.
    return next(iter(await read_datacenters(client)), "")


async def read_datacenters(client: ConsulClient) -> tuple[str, ...]:
    """Return the names of all datacenters that the servers know, nearest first."""
    return decode_datacenters((await client.read("/v1/catalog/datacenters")).body)


async def confirm_listing(client: ConsulClient) -> Listing:
    """Read the names and tags of all services consistently. Raise AccessDenied when the token hides them."""
    reply = await client.read(LISTING_PATH, consistency="consistent")
    listing = decode_listing(reply.body)
    if is_whole(client, listing) and (listing or not reply.filtered_by_acls):
        return Listing(services=listing, index=reply.index)
    raise AccessDenied(
        f"Consul at {client.http.address} does not list its own service {CONSUL_SERVICE!r}, so it hides services; "
        'the token needs service_prefix "" { policy = "read" } and node_prefix "" { policy = "read" }'
    )


def is_whole(client: ConsulClient, listing: dict[str, tuple[str, ...]]) -> bool:
    """Tell whether a listing shows what every catalog has.

    The servers' own service lives in the default namespace and partition; elsewhere there is no such witness.
    """
    tenancy = (client.settings.namespace or "default", client.settings.partition or "default")
    return CONSUL_SERVICE in listing or tenancy != ("default", "default")


async def read_service(client: ConsulClient, name: str, consistency: Consistency) -> tuple[HealthEntry, ...]:
    """Read the entries of a service that is listed; an empty answer is confirmed before it is returned."""
    entries = decode_entries((await client.read(service_path(name), consistency=consistency)).body)
    return entries or await confirm_absence(client, name, partial(confirm_listing, client))


async def confirm_absence(
    client: ConsulClient, name: str, list_services: Callable[[], Awaitable[Listing]]
) -> tuple[HealthEntry, ...]:
    """Read consistently a service that seemed to have no instances.

    Raise AccessDenied when the catalog still lists it: then its instances are hidden, not gone. ``list_services``
    reads the listing consistently.
    """
    entries = decode_entries((await client.read(service_path(name), consistency="consistent")).body)
    if entries or name not in (await list_services()).services:
        return entries
    # It may have been registered between the two reads.
    entries = decode_entries((await client.read(service_path(name), consistency="consistent")).body)
    if not entries:
        raise InstancesHidden(
            f"Consul lists the service {name!r} but none of its instances; "
            'the token needs node_prefix "" { policy = "read" }'
        )
    return entries


async def confirm_overrides(client: ConsulClient, known: Sequence[str]) -> dict[ServiceName, str]:
    """Read the overrides consistently after keys seemed to be gone.

    Consul leaves keys that the token may not read out of a list; asked for one key, it says 403. Where a key cannot be
    asked for (`name_problem`), the list alone is believed.
    """
    prefix = overrides_prefix(client.settings.kv_prefix)
    reply = await client.read(f"/v1/kv/{prefix}", [("recurse", "")], consistency="consistent")
    overrides = {} if reply.status == 404 else decode_overrides(reply.body, prefix)
    for name in known:
        if name not in overrides and is_askable(name):
            await client.read(f"/v1/kv/{prefix}{name}", consistency="consistent")
            break
    return overrides
