"""The network's keys and sessions in Consul: reads of all at one moment, and writes that happen whole or not at all."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import msgspec

from proxygen.consul.witness import loss_of
from proxygen.kit.aio import unless
from proxygen.kit.errors import AccessDenied, CatalogUnavailable, ConflictingWrite
from proxygen.network.config import NetworkConfig, parse_config
from proxygen.network.records import (
    CONFIG,
    SETTLED,
    KeyEntry,
    Record,
    View,
    host_key,
    read_record,
    read_view,
    subnet_key,
    write_value,
)

if TYPE_CHECKING:
    from proxygen.consul.answers import Reply
    from proxygen.consul.client import ConsulClient

PREFIX: Final = "proxygen/network"

Operation = Mapping[str, Any]


class LostRace(ConflictingWrite):
    """A transaction was rolled back: something is not as it was read."""


class LockDelayed(LostRace):
    """Consul keeps a lock from everybody for a while after its session ended (LockDelay)."""


class SessionLost(LostRace):
    """Consul does not know the session any more."""


class NetworkStore:
    """One network's part of Consul. Everything raises CatalogUnavailable; `commit` raises LostRace too."""

    def __init__(self, client: ConsulClient, *, prefix: str = PREFIX, deadline: float) -> None:
        self._client = client
        self._http = client.http
        self._datacenter = [("dc", client.settings.datacenter)] if client.settings.datacenter else []
        self.prefix = prefix
        self._deadline = deadline

    # --- sessions

    async def open_session(self, name: str, *, ttl: float, lock_delay: float) -> str:
        """Open a session that ends by its TTL alone, and then leaves keys as they are."""
        body = {
            "Name": name,
            "TTL": f"{ttl:g}s",
            "LockDelay": f"{lock_delay:g}s",
            "Behavior": "release",
            # By default a session ends with the node's gossip, which a busy network interrupts for seconds. Consul
            # before 1.7 knows these as Checks.
            "Checks": [],
            "NodeChecks": [],
        }
        answer = await self._put("/v1/session/create", body)
        return str(answer["ID"])

    async def renew(self, session: str) -> bool:
        """Renew; return False where the session is gone."""
        reply = await self._http.exchange(
            "PUT", f"/v1/session/renew/{session}", self._datacenter, deadline=self._deadline
        )
        return reply.status != 404

    async def destroy(self, session: str) -> None:
        """End a session; Consul then releases its locks."""
        await self._put(f"/v1/session/destroy/{session}")

    # --- reading

    async def look(self) -> View:
        """Read all keys, as the servers agree on them at one moment."""
        return await self._view(await self._read(f"{self.prefix}/", recurse=True))

    async def watch(self, index: int = 0, *, seen: View | None = None) -> tuple[View, int]:
        """Wait until a key is another than at an index, and read all. Return the index to wait from next.

        ``seen`` is the view that came with the index; where its config was there, the loss of all keys is told at once.

        It answers at once from 0, which is also what it returns after Consul's index fell (a restart, a restored
        snapshot); and after ``consul.wait`` in any case. After a failure ask from 0. An answer may well be the same
        as the one before.
        """
        path = f"/v1/kv/{quote(self.prefix)}/"
        reading = self._client.read(path, [("recurse", "")], index=index, consistency="consistent")
        # Only what was there can be lost: a question about a key that never was is answered at once, over and over.
        bears_witness = index and seen is not None and seen.config_index
        reply = await (unless(reading, self._loss_of_config(index)) if bears_witness else reading)
        if reply is None:
            return await self.watch()
        return await self._view(_entries(reply, path)), 0 if reply.index < index else reply.index

    async def _loss_of_config(self, index: int) -> None:
        """Return once the config was there at the index and is gone: all keys may be, without a word about them."""
        await loss_of(self._client, self._key(CONFIG), index=index, consistency="consistent")

    async def record(self, subnet: IPv4Network) -> Record | None:
        """Read one lease; None where it is gone or is none of ours."""
        entry = await self.entry(subnet_key(subnet))
        if entry is None:
            return None
        try:
            return read_record(subnet, entry)
        except (ValueError, msgspec.MsgspecError):
            return None

    async def entry(self, name: str) -> KeyEntry | None:
        """None where Consul says that there is no such key. Raise where it does not answer."""
        entries = await self._read(self._key(name))
        return entries[0] if entries else None

    async def _view(self, entries: list[KeyEntry]) -> View:
        """Return what a list of all keys says, unless the token may not see them.

        Of a list Consul leaves out what a token may not read, without a word; a single key it refuses.
        """
        if not any(entry.key == self._key(CONFIG) for entry in entries):
            await self.entry(CONFIG)
        return read_view(self.prefix, entries)

    async def _read(self, key: str, *, recurse: bool = False) -> list[KeyEntry]:
        params = [*self._datacenter, ("consistent", "")]
        if recurse:
            params.append(("recurse", ""))
        path = f"/v1/kv/{quote(key)}"
        return _entries(await self._http.exchange("GET", path, params, deadline=self._deadline), path)

    # --- writing

    async def commit(self, *operations: Operation) -> dict[str, int]:
        """Do all or nothing. Return the new index of each key that was written."""
        reply = await self._http.exchange(
            "PUT", "/v1/txn", self._datacenter, data=json.dumps(operations).encode(), deadline=self._deadline
        )
        answer = json.loads(reply.body)
        if reply.status == 409:
            raise _refusal([str(error.get("What")) for error in answer.get("Errors") or ()], self.prefix)
        entries = [result["KV"] for result in answer["Results"] or ()]
        return {entry["Key"].removeprefix(f"{self.prefix}/"): int(entry["ModifyIndex"]) for entry in entries}

    def unchanged(self, name: str, index: int) -> Operation:
        """Part of a transaction: fails it where the key was written since ``index``."""
        return self._operation("check-index", name, Index=index)

    def absent(self, name: str) -> Operation:
        """Part of a transaction: fails it where the key exists."""
        return self._operation("check-not-exists", name)

    def locked(self, name: str, session: str) -> Operation:
        """Part of a transaction: fails it where another session, or none, has the lock."""
        return self._operation("check-session", name, Session=session)

    def lock(self, name: str, value: bytes, session: str) -> Operation:
        """Lock and write; whoever has the lock keeps it and writes."""
        return self._operation("lock", name, value, Session=session)

    def unlock(self, name: str, value: bytes, session: str) -> Operation:
        """Part of a transaction: writes the key and releases its lock."""
        return self._operation("unlock", name, value, Session=session)

    def replace(self, name: str, value: bytes, index: int) -> Operation:
        """Write over what has this index; 0: where there is nothing."""
        return self._operation("cas", name, value, Index=index)

    def delete(self, name: str, index: int) -> Sequence[Operation]:
        """Delete what has this index. Consul's delete-cas alone succeeds where there is nothing."""
        return self.unchanged(name, index), self._operation("delete-cas", name, Index=index)

    def drop(self, name: str) -> Operation:
        """Delete, whatever the index is: it belongs behind what proves that it may."""
        return self._operation("delete", name)

    def _operation(self, verb: str, name: str, value: bytes | None = None, **facts: object) -> Operation:
        if value is not None:
            facts["Value"] = b64encode(value).decode("ascii")
        return {"KV": {"Verb": verb, "Key": self._key(name), **facts}}

    async def _put(self, path: str, body: Mapping[str, object] | None = None) -> Any:
        data = b"" if body is None else json.dumps(body).encode()
        reply = await self._http.exchange("PUT", path, self._datacenter, data=data, deadline=self._deadline)
        return json.loads(reply.body)

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{name}"


async def create_network(store: NetworkStore, text: str) -> NetworkConfig:
    """Write the config of a new network, on which no host has a subnet yet. Raise ConflictingWrite where there is one.

    Its first hosts need not wait then for others to come forward, as they do where only the config is written:
    that is also how a network looks whose data was lost while hosts lived on.
    """
    config = parse_config(text)
    view = await store.look()
    if view.config_index or view.records:
        raise ConflictingWrite(f"{store.prefix} has a network already: its config, or leases of hosts")
    try:
        await store.commit(store.replace(CONFIG, text.encode(), 0), store.replace(SETTLED, b"new", 0))
    except LostRace as error:
        raise ConflictingWrite(f"{store.prefix} was written by somebody else meanwhile; read it again") from error
    return config


def claiming(store: NetworkStore, record: Record, *, config_index: int, pointer_index: int) -> list[Operation]:
    """Return what writes a record that was not there, if the config and the host's key are as they were read.

    The config counts: two hosts that read different ones may choose subnets of different sizes that overlap.
    """
    key, value = subnet_key(record.subnet), write_value(record.host_id, record.attributes, record.generation)
    return [
        store.unchanged(CONFIG, config_index),
        store.absent(key),
        store.lock(key, value, record.session),
        store.replace(host_key(record.host_id), str(record.subnet).encode(), pointer_index),
    ]


def replacing(store: NetworkStore, gone: Record, session: str) -> list[Operation]:
    """Return what deletes a host's own record, if it is as it was read and its lock is to be had.

    Another host may live under the same id, and nothing but the lock says so.
    """
    key = subnet_key(gone.subnet)
    value = write_value(gone.host_id, gone.attributes, gone.generation)
    return [store.unchanged(key, gone.index), store.lock(key, value, session), store.drop(key)]


def adopting(store: NetworkStore, record: Record, *, read: Record, pointer_index: int) -> list[Operation]:
    """Return what writes and locks a record that is the host's own, if it is as it was read."""
    key, value = subnet_key(record.subnet), write_value(record.host_id, record.attributes, record.generation)
    return [
        store.unchanged(key, read.index),
        store.lock(key, value, record.session),
        store.replace(host_key(record.host_id), str(record.subnet).encode(), pointer_index),
    ]


def releasing(store: NetworkStore, view: View, host_id: str, session: str) -> list[Operation]:
    """Return what deletes all that a host has, but for what another under the same id has locked."""
    own = [record for record in view.records_of(host_id) if record.session in ("", session)]
    operations = [operation for one in own for operation in store.delete(subnet_key(one.subnet), one.index)]
    pointer = view.pointers.get(host_id)
    if own and pointer is not None:
        operations += store.delete(host_key(host_id), pointer.index)
    return operations


def _entries(reply: Reply, path: str) -> list[KeyEntry]:
    if reply.status == 404:
        return []
    try:
        return _ENTRIES.decode(reply.body)
    except msgspec.MsgspecError as error:
        raise CatalogUnavailable(f"Consul's answer to {path} cannot be read: {error}") from error


def _refusal(reasons: list[str], prefix: str) -> Exception:
    said = "; ".join(reasons)
    if "Permission denied" in said:
        return AccessDenied(
            f'Consul refused a transaction: {said}; the token needs key_prefix "{prefix}/" {{ policy = "write" }} and '
            'session_prefix "" { policy = "write" }'
        )
    kind = LockDelayed if "lock delay" in said else SessionLost if "invalid session" in said else LostRace
    return kind(f"Consul rolled a transaction back: {said}")


_ENTRIES: Final = msgspec.json.Decoder(list[KeyEntry])
