"""What an application announces, judged before anything is sent, and how it differs from what an agent holds."""

from __future__ import annotations

import hashlib
import json
import re
import socket
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final

from proxygen.kit.errors import BadInput, quoted
from proxygen.registration.address import check_form
from proxygen.registration.checks import Check, HealthCallable, Seconds, Status, TtlCheck, duration, seconds
from proxygen.tags import PREFIX, ProxyTags, format_tags, lint_tags

NO_TAGS: Final = ProxyTags()
HEARTBEAT: Final = TtlCheck()
"""Without a check Consul would call a dead process passing for ever."""

_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?")
_ID: Final = re.compile(r"[A-Za-z0-9._:@=+-]{1,255}")
_META_KEY: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
_META_LONGEST: Final = 512
META_MOST: Final = 64
_SOONEST_REMOVAL: Final = 60.0
"""Consul takes a shorter ``DeregisterCriticalServiceAfter`` for a minute."""
_OWN_ADDRESSES: Final = frozenset({"lan", "wan", "lan_ipv4", "wan_ipv4", "lan_ipv6", "wan_ipv6", "virtual"})
"""Tagged addresses that Consul fills in by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """What an instance counts beside the others of its service, by its health."""

    passing: int = 1
    warning: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.passing <= 65535 or not 0 <= self.warning <= 65535:
            raise BadInput(f"weights: passing = {self.passing} is from 1, warning = {self.warning} from 0, to 65535")


EVEN: Final = Weights()


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundCheck:
    """A check of one service: as Consul is told, and what the application adds to it."""

    id: str
    definition: Mapping[str, Any]
    initially: Status
    ttl: float | None
    """Seconds; None where Consul asks by itself."""
    health: HealthCallable | None

    @property
    def notes(self) -> str:
        """What the agent tells of a check's definition: not its URL, but the notes, which carry a digest of it."""
        notes: str = self.definition["Notes"]
        return notes

    def written_with(self, token_mark: str) -> BoundCheck:
        words, _, digest = self.notes.rpartition(" [")
        return replace(self, definition={**self.definition, "Notes": f"{words} [{_digest(digest + token_mark)}]"})


@dataclass(frozen=True, slots=True, kw_only=True)
class CompleteRegistration:
    """One registration, complete."""

    id: str
    name: str
    address: str
    port: int
    tags: tuple[str, ...]
    meta: Mapping[str, str]
    weights: Weights
    tagged_addresses: Mapping[str, tuple[str, int]]
    checks: tuple[BoundCheck, ...]

    def written_with(self, token_mark: str) -> CompleteRegistration:
        """The same, as it is written with this token.

        An agent goes on telling the catalog of a service and of a check with the token that wrote them. Once Consul has
        forgotten that one, nothing reaches the catalog any more, not even that the service is gone. An agent does not
        tell the token, so the checks' notes tell it from others: by 32 bits of a digest, and a token has 122.
        """
        if not token_mark:
            return self
        return replace(self, checks=tuple(check.written_with(token_mark) for check in self.checks))

    def body(self, checks: Sequence[BoundCheck], statuses: Mapping[str, Status]) -> dict[str, Any]:
        """The body of a registration that writes some of the checks; the others stay as the agent has them.

        ``statuses`` are the checks' by id, where they are known: a registration is no reason to doubt them.
        """
        return {
            "ID": self.id,
            "Name": self.name,
            "Address": self.address,
            "Port": self.port,
            "Tags": list(self.tags),
            "Meta": dict(self.meta),
            "Weights": {"Passing": self.weights.passing, "Warning": self.weights.warning},
            "TaggedAddresses": {
                name: {"Address": address, "Port": port} for name, (address, port) in self.tagged_addresses.items()
            },
            "EnableTagOverride": False,
            "Checks": [{**check.definition, "Status": statuses.get(check.id, check.initially)} for check in checks],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldByAgent:
    """What the local agent holds under one service id."""

    service: Mapping[str, Any]
    checks: Mapping[str, Mapping[str, Any]]
    """By check id, as ``/v1/agent/checks`` tells."""


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def missing_checks(service: CompleteRegistration, held: HeldByAgent) -> tuple[BoundCheck, ...]:
    """The checks that the agent does not hold, whatever they are."""
    return tuple(check for check in service.checks if check.id not in held.checks)


def changed_checks(service: CompleteRegistration, held: HeldByAgent) -> tuple[BoundCheck, ...]:
    """The checks that are missing or were defined otherwise."""
    return tuple(
        check
        for check in service.checks
        if check.id not in held.checks or held.checks[check.id].get("Notes") != check.notes
    )


def stale_checks(service: CompleteRegistration, held: HeldByAgent) -> tuple[str, ...]:
    """Ids of checks that an earlier registration of ours left and this one does not have; others' stay."""
    wanted = {check.id for check in service.checks}
    return tuple(sorted(id for id in held.checks if id.startswith(f"{service.id}:") and id not in wanted))


def changed_fields(service: CompleteRegistration, held: HeldByAgent) -> tuple[str, ...]:
    """Names of the fields in which a held service is not the one that is announced; checks aside."""
    wanted = service.body((), {})
    known = held.service
    pairs = {
        "name": (known.get("Service"), wanted["Name"]),
        "address": (known.get("Address", ""), wanted["Address"]),
        "port": (known.get("Port", 0), wanted["Port"]),
        "tags": (known.get("Tags") or [], wanted["Tags"]),
        "meta": (known.get("Meta") or {}, wanted["Meta"]),
        "weights": (known.get("Weights"), wanted["Weights"]),
        "tagged addresses": (_stated(known, service.tagged_addresses), wanted["TaggedAddresses"]),
    }
    return tuple(name for name, (before, after) in pairs.items() if before != after)


def operators_part(held: HeldByAgent) -> dict[str, Any]:
    """What an operator may have changed on a live entry, as it stands in the body of a registration."""
    return {key: held.service[key] for key in ("Tags", "Meta", "Weights") if held.service.get(key) is not None}


def _stated(held: Mapping[str, Any], ours: Mapping[str, object]) -> dict[str, Any]:
    addresses = held.get("TaggedAddresses") or {}
    return {name: value for name, value in addresses.items() if name in ours or name not in _OWN_ADDRESSES}


def meta_problem(key: str, value: str) -> str:
    """Why Consul does not take an entry of Meta; empty where it does."""
    if not _META_KEY.fullmatch(key):
        return "a key is up to 128 letters, digits, hyphens and underscores"
    size = len(value.encode(errors="surrogateescape"))
    return f"{size} bytes, and Consul takes {_META_LONGEST}" if size > _META_LONGEST else ""


@dataclass(kw_only=True, eq=False)
class Announcement:
    """What an application says of itself. Raise BadInput or TagError for what Consul or the proxy would refuse."""

    name: str
    port: int
    tags: ProxyTags = NO_TAGS
    plain_tags: Sequence[str] = ()
    """Tags as they stand in Consul, beside ``tags``; the proxy's may be among them."""
    check: Check | Sequence[Check] = HEARTBEAT
    address: str | None = None
    """An IP address, ``interface:NAME``, a network (the first address in it), ``env:VARIABLE``, or
    ``docker[:NETWORK]``, a container's own by its engine. Default: the address from which Consul's agent is reached,
    else the first private one; loopback only where it is written."""
    id: str = ""
    """Default ``NAME-HOST-PORT``: the same after a restart, another on every host."""
    meta: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    weights: Weights = EVEN
    tagged_addresses: Mapping[str, tuple[str, int]] = field(default_factory=lambda: MappingProxyType({}))
    deregister_after: Seconds = _SOONEST_REMOVAL
    """How long critical until Consul removes the instance, where it could not say good-bye; at least a minute."""
    tag_prefix: str = PREFIX

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise BadInput(f"name = {quoted(self.name)}: write letters, digits, dots and hyphens, such as web")
        if not 1 <= self.port <= 65535:
            raise BadInput(f"port = {self.port} is not from 1 to 65535")
        self.id = self.id or f"{self.name}-{socket.gethostname()}-{self.port}"
        if not _ID.fullmatch(self.id):
            raise BadInput(f"id = {quoted(self.id)}: write up to 255 letters, digits, dots, colons and hyphens")
        if self.address is not None:
            check_form(self.address)
        if not self.checks:
            raise BadInput("check: there is none, and Consul would call a dead process passing for ever")
        seconds(self.deregister_after, what="deregister_after", least=_SOONEST_REMOVAL)
        self._judge_meta()
        problems = lint_tags(self.all_tags, sorted(self.meta.items()), self.tag_prefix)
        if problems:
            raise problems[0]

    @property
    def checks(self) -> tuple[Check, ...]:
        """Always a tuple, as ``check`` may be one."""
        return tuple(self.check) if isinstance(self.check, Sequence) else (self.check,)

    @property
    def all_tags(self) -> tuple[str, ...]:
        """As Consul holds them: the proxy's first, each once."""
        return tuple(dict.fromkeys((*format_tags(self.tags, self.tag_prefix), *self.plain_tags)))

    def service(self, address: str) -> CompleteRegistration:
        """What is announced once the address is known."""
        return CompleteRegistration(
            id=self.id,
            name=self.name,
            address=address,
            port=self.port,
            tags=self.all_tags,
            meta=dict(self.meta),
            weights=self.weights,
            tagged_addresses=dict(self.tagged_addresses),
            checks=tuple(self._bind(address)),
        )

    def _bind(self, address: str) -> Iterator[BoundCheck]:
        seen: Counter[str] = Counter()
        for check in self.checks:
            seen[check.kind] += 1
            id = f"{self.id}:{check.kind}" + (f"-{seen[check.kind]}" if seen[check.kind] > 1 else "")
            definition: dict[str, Any] = {
                "CheckID": id,
                "Name": f"{self.name}: {check.kind}",
                "DeregisterCriticalServiceAfter": duration(seconds(self.deregister_after, what="deregister_after")),
                **check.definition(address, self.port),
            }
            digest = _digest(json.dumps(definition, sort_keys=True))
            definition["Notes"] = f"{check.words(address, self.port)} [{digest}]"
            yield BoundCheck(
                id=id,
                definition=definition,
                initially=check.initially,
                ttl=seconds(check.ttl, what="ttl") if isinstance(check, TtlCheck) else None,
                health=check.health if isinstance(check, TtlCheck) else None,
            )

    def _judge_meta(self) -> None:
        if len(self.meta) > META_MOST:
            raise BadInput(f"meta: {len(self.meta)} entries, and Consul takes {META_MOST}")
        for key, value in self.meta.items():
            if problem := meta_problem(key, value):
                raise BadInput(f"meta {key if _META_KEY.fullmatch(key) else quoted(key)}: {problem}")
