"""Consul's JSON as typed values. Pure; decodes only the fields that are needed.

Rules of health: an instance is as healthy as its worst check, its node's included; an unknown status is critical.

A check that has not run since its agent started is critical with an empty output; or, where its service was registered
more than once, with that of a run before (Consul 1.8.7, seen), which tells of a success as no run that failed would
(agent/checks/check.go). That holds only of checks that the agent runs itself and that always say something: a script
may be silent, and a TTL is set by an application with or without a word. An agent with ``discard_check_output`` never
tells an output.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeVar

import msgspec

from proxygen.catalog import Health, Instance, ServiceName
from proxygen.consul.names import is_askable
from proxygen.kit.errors import CatalogUnavailable, printable

CONSUL_SERVICE: Final = "consul"
"""The service of the Consul servers themselves: always there, never routed."""

_NODE_MAINTENANCE: Final = "_node_maintenance"
_SERVICE_MAINTENANCE: Final = "_service_maintenance:"

_NEVER_SILENT: Final = frozenset({"http", "h2ping", "tcp", "udp", "grpc"})
"""Types of checks whose every run leaves an output."""

_SUCCESS: Final = re.compile(
    r"HTTP [A-Z]+ \S+: (?:2[0-9]{2}|429) |(?:TCP|TCP\+TLS|UDP) connect \S+: Success|gRPC check \S+: success"
    r"|HTTP2 ping was successful"
)
"""How the outputs begin of runs that a check is not critical after."""

T = TypeVar("T")

UNREADABLE: Final = (msgspec.DecodeError, UnicodeError, RecursionError)
"""What msgspec raises for a text that cannot be read. Nesting of some thousand levels is a RecursionError, also in a
field that is skipped, and Consul keeps a Proxy.Config of any depth."""


_CHECKS_TOLD: Final = 3
"""Of one instance, whose output is told."""

_OUTPUT_TOLD: Final = 300
"""Characters of one check's output: an agent keeps 4 kB of each."""


class NodeRecord(msgspec.Struct, rename="pascal"):
    """The agent's host, as ``/v1/health/service`` answers."""

    node: str
    address: str = ""
    datacenter: str | None = ""


class WeightsRecord(msgspec.Struct, rename="pascal"):
    """Consul's own weights; it fills in 1 where a registration states none."""

    passing: int = 1
    warning: int = 1


class ServiceRecord(msgspec.Struct, rename="pascal"):
    """One registration, as ``/v1/health/service`` answers. Consul may answer null for what is empty."""

    id: str = msgspec.field(name="ID")
    service: str
    tags: tuple[str, ...] | None = ()
    meta: dict[str, str] | None = None
    address: str = ""
    port: int = 0
    weights: WeightsRecord | None = None
    kind: str | None = ""
    """Not empty for Connect proxies and gateways."""
    create_index: int = 0
    modify_index: int = 0


class CheckRecord(msgspec.Struct, rename="pascal"):
    """A check as ``health/service`` and ``health/state`` list it; a node's check has no service."""

    check_id: str = msgspec.field(name="CheckID")
    status: str
    node: str = ""
    service_id: str = msgspec.field(name="ServiceID", default="")
    service_name: str = ""
    type: str = ""
    output: str = ""

    @property
    def unchecked(self) -> bool:
        """Whether it is critical because it has not run yet."""
        is_silent = not self.output or _SUCCESS.match(self.output) is not None
        return self.status == Health.CRITICAL and self.type in _NEVER_SILENT and is_silent

    @property
    def speaks(self) -> bool:
        """Whether its output shows that it has run."""
        return self.type in _NEVER_SILENT and self.output != ""


class HealthEntry(msgspec.Struct, rename="pascal"):
    """One element of ``/v1/health/service/NAME``."""

    node: NodeRecord
    service: ServiceRecord
    checks: tuple[CheckRecord, ...] | None = ()


class RegistrationState(msgspec.Struct, rename="pascal", frozen=True):
    """What tells one state of a registered instance from the next."""

    service: str
    modify_index: int = 0


class NodeServices(msgspec.Struct, rename="pascal"):
    """The answer to ``/v1/catalog/node/NODE``: registrations by ServiceID."""

    services: dict[str, RegistrationState] | None = None


class _Summary(msgspec.Struct, rename="pascal"):
    name: str
    tags: tuple[str, ...] | None = None


class _Pair(msgspec.Struct, rename="pascal"):
    key: str
    value: str | None = None


_ENTRIES: Final = msgspec.json.Decoder(tuple[HealthEntry, ...])
_LISTING: Final = msgspec.json.Decoder(dict[str, tuple[str, ...] | None])
_SUMMARIES: Final = msgspec.json.Decoder(tuple[_Summary, ...] | None)
_CHECKS: Final = msgspec.json.Decoder(tuple[CheckRecord, ...])
_NODES: Final = msgspec.json.Decoder(tuple[NodeRecord, ...])
_NODE_SERVICES: Final = msgspec.json.Decoder(NodeServices | None)
_PAIRS: Final = msgspec.json.Decoder(tuple[_Pair, ...])
_NAMES: Final = msgspec.json.Decoder(tuple[str, ...])
_RAW_ENTRIES: Final = msgspec.json.Decoder(list[msgspec.Raw])
_RAW: Final = msgspec.json.Decoder(msgspec.Raw)
_ROOM: Final = 100
"""Levels by which an entry may come to lie deeper than in the answer, counting our own calls."""


def decode_entries(body: bytes) -> tuple[HealthEntry, ...]:
    """Decode ``/v1/health/service/NAME``."""
    return _decoded(_ENTRIES, body, "health/service")


def decode_raw_entries(body: bytes) -> list[msgspec.Raw]:
    """Take ``/v1/health/service/NAME`` apart into entries that can also be written into a file and read back."""
    _decoded(_RAW, b"[" * _ROOM + body + b"]" * _ROOM, "health/service")
    return _decoded(_RAW_ENTRIES, body, "health/service")


def decode_listing(body: bytes) -> dict[str, tuple[str, ...]]:
    """Decode ``/v1/catalog/services``: every name with the union of its instances' tags."""
    return {name: tags or () for name, tags in _decoded(_LISTING, body, "catalog/services").items()}


def decode_summaries(body: bytes) -> dict[str, tuple[str, ...]]:
    """Decode ``/v1/internal/ui/services`` into what `decode_listing` returns."""
    return {one.name: one.tags or () for one in _decoded(_SUMMARIES, body, "internal/ui/services") or ()}


def decode_checks(body: bytes) -> tuple[CheckRecord, ...]:
    """Decode ``/v1/health/state/any``."""
    return _decoded(_CHECKS, body, "health/state")


def decode_datacenters(body: bytes) -> tuple[str, ...]:
    """Decode ``/v1/catalog/datacenters``."""
    return _decoded(_NAMES, body, "catalog/datacenters")


def decode_nodes(body: bytes) -> tuple[str, ...]:
    """Decode ``/v1/catalog/nodes`` into names."""
    return tuple(node.node for node in _decoded(_NODES, body, "catalog/nodes"))


def decode_registrations(body: bytes) -> dict[str, RegistrationState]:
    """Decode ``/v1/catalog/node/NODE``: registrations by ServiceID, none where the node is gone."""
    answer = _decoded(_NODE_SERVICES, body, "catalog/node")
    return (answer.services if answer is not None else None) or {}


def decode_overrides(body: bytes, prefix: str) -> dict[ServiceName, str]:
    """Decode the keys under ``prefix`` of KV into raw texts by service; folder markers are skipped."""
    overrides: dict[ServiceName, str] = {}
    for pair in _decoded(_PAIRS, body, "kv"):
        name = pair.key.removeprefix(prefix)
        if pair.key.startswith(prefix) and name and not name.endswith("/"):
            overrides[ServiceName(name)] = _text(pair.value)
    return overrides


def _text(value: str | None) -> str:
    """Decode a value of KV; Consul sends null for an empty one."""
    try:
        return base64.b64decode(value or "", validate=True).decode("utf-8", errors="replace")
    except ValueError as error:
        raise CatalogUnavailable(f"Consul sent a KV value that is not base64: {error}") from error


def _decoded(decoder: msgspec.json.Decoder[T], body: bytes, what: str) -> T:
    try:
        return decoder.decode(body)
    except UNREADABLE as error:
        raise CatalogUnavailable(f"Consul's answer to {what} cannot be read: {error}") from error


def instances_of(name: str, entries: Iterable[HealthEntry]) -> tuple[Instance, ...]:
    """Return the instances of exactly this service, sorted and each once.

    Consul matches names without case and also lists Connect proxies; both are left out here.
    """
    chosen = {
        (entry.node.node, entry.service.id): entry
        for entry in entries
        if entry.service.service == name and not entry.service.kind and name != CONSUL_SERVICE
    }
    return tuple(_instance(entry) for _, entry in sorted(chosen.items()))


def failures_of(entries: Iterable[HealthEntry]) -> dict[tuple[str, str], str]:
    """Return by node and id what the checks say that do not pass: the first few, one line each, cut."""
    found = {}
    for entry in entries:
        failing = [check for check in entry.checks or () if check.status != "passing"]
        lines = [
            f"{check.check_id[:_OUTPUT_TOLD]}: {' '.join(check.output[:_OUTPUT_TOLD].split())}"
            for check in failing[:_CHECKS_TOLD]
        ]
        if lines:
            found[entry.node.node, entry.service.id] = printable("; ".join(lines))
    return found


def _instance(entry: HealthEntry) -> Instance:
    service, checks = entry.service, entry.checks or ()
    weights = service.weights or WeightsRecord()
    health = aggregate(service.id, checks)
    return Instance(
        service=ServiceName(service.service),
        id=service.id,
        node=entry.node.node,
        datacenter=entry.node.datacenter or "",
        address=service.address or entry.node.address,
        port=service.port,
        tags=service.tags or (),
        meta=tuple(sorted((service.meta or {}).items())),
        health=health,
        unchecked=health is Health.CRITICAL and _only_unchecked(checks),
        speaks=any(check.speaks for check in checks),
        weight_passing=weights.passing,
        weight_warning=weights.warning,
        create_index=service.create_index,
        modify_index=service.modify_index,
    )


def aggregate(service_id: str, checks: Sequence[CheckRecord]) -> Health:
    """Return the worst of the checks; no check at all is passing, as in Consul's DNS."""
    maintenance = {_NODE_MAINTENANCE, _SERVICE_MAINTENANCE + service_id}
    if any(check.check_id in maintenance for check in checks):
        return Health.MAINTENANCE
    statuses = {check.status for check in checks}
    if statuses - {Health.PASSING, Health.WARNING}:
        return Health.CRITICAL
    return Health.WARNING if Health.WARNING in statuses else Health.PASSING


def _only_unchecked(checks: Iterable[CheckRecord]) -> bool:
    return all(check.unchecked for check in checks if check.status not in (Health.PASSING, Health.WARNING))


def carries_proxy_keys(instances: Iterable[Instance], tag_prefix: str) -> bool:
    """Tell whether any instance has a proxy tag or a proxy key in its Meta."""
    return any(
        has_proxy_tag(instance.tags, tag_prefix) or any(key.startswith(f"{tag_prefix}-") for key, _ in instance.meta)
        for instance in instances
    )


def has_proxy_tag(tags: Iterable[str], tag_prefix: str) -> bool:
    """Whether a tag begins with the prefix and a dot; whether it parses is another matter."""
    return any(tag.startswith(f"{tag_prefix}.") for tag in tags)


def routed_names(listing: Mapping[str, Sequence[str]], tag_prefix: str) -> set[str]:
    """Return the names whose tags say that they are proxied."""
    return {
        name
        for name, tags in listing.items()
        if name != CONSUL_SERVICE and has_proxy_tag(tags, tag_prefix) and is_askable(name)
    }


def unservable_names(listing: Mapping[str, Sequence[str]], tag_prefix: str) -> tuple[str, ...]:
    """Return the names that ask to be proxied and cannot be, sorted; see `name_problem`."""
    return tuple(
        sorted(name for name, tags in listing.items() if has_proxy_tag(tags, tag_prefix) and not is_askable(name))
    )
