"""The operator's overrides in KV, one key a service: ``KV_PREFIX/canary/SERVICE`` = ``{"canary": "12.5%"}``.

Writes are check-and-set, so that two operators cannot overwrite each other unseen. What a text means is decided
elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

from proxygen.consul.client import ConsulClient
from proxygen.consul.reads import overrides_prefix
from proxygen.kit.errors import BadInput, ConflictingWrite


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """The raw text of a key and the index to hand back when writing."""

    value: str
    index: int


async def read_override(client: ConsulClient, service: str) -> Override | None:
    """Return the override of a service, None where there is none."""
    _, item = await client.kv.get(override_key(client, service), consistency="consistent")
    if item is None:
        return None
    return Override(value=(item["Value"] or b"").decode("utf-8", errors="replace"), index=item["ModifyIndex"])


async def write_override(client: ConsulClient, service: str, value: str, *, index: int) -> None:
    """Write over what has this index; 0: where there is nothing. Raise ConflictingWrite when it is another by now."""
    key = override_key(client, service)
    if not await client.kv.put(key, value, cas=index):
        raise ConflictingWrite(f"{key} was written by somebody else meanwhile; read it again")


async def delete_override(client: ConsulClient, service: str, *, index: int) -> None:
    """Delete what has this index. Raise ConflictingWrite when it is another by now."""
    key = override_key(client, service)
    if not await client.kv.delete(key, cas=index):
        raise ConflictingWrite(f"{key} was written by somebody else meanwhile; read it again")


def override_key(client: ConsulClient, service: str) -> str:
    """Raise BadInput where no service can have that name."""
    if not service or service.endswith("/"):
        raise BadInput(f"{service!r} is not a service name")
    return f"{overrides_prefix(client.settings.kv_prefix)}{service}"
