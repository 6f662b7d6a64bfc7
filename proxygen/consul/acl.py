"""What the token may read, asked at start: what it may not, Consul mostly answers with 200 and nothing."""

from __future__ import annotations

from typing import Final

from proxygen.consul.client import ConsulClient
from proxygen.consul.decode import decode_entries
from proxygen.consul.names import is_askable
from proxygen.consul.reads import confirm_listing, overrides_prefix, service_path
from proxygen.kit.errors import AccessDenied

_PROBED: Final = 5
"""Services that are asked for; one that shows its instances is enough."""


async def probe(client: ConsulClient) -> None:
    """Read one of everything. Raise AccessDenied naming the missing rule, ConsulUnreachable as any read does."""
    listing = (await confirm_listing(client)).services
    names = [name for name in sorted(listing) if is_askable(name)][:_PROBED]
    if names and not any([await _shows_instances(client, name) for name in names]):
        raise AccessDenied(
            f"Consul at {client.http.address} lists services but shows no instance of {', '.join(names)}; "
            'the token needs node_prefix "" { policy = "read" }'
        )
    # A list of keys leaves out what the token may not read; a single key, there or not, is refused with 403.
    await client.read(f"/v1/kv/{overrides_prefix(client.settings.kv_prefix)}probe")


async def _shows_instances(client: ConsulClient, name: str) -> bool:
    return bool(decode_entries((await client.read(service_path(name))).body))
