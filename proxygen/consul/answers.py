"""What an HTTP answer of Consul's means: a `Reply` to believe, or the failure to raise."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from proxygen.kit.errors import AccessDenied, CatalogUnavailable, ConsulUnreachable

TRANSACTION: Final = "/v1/txn"
BACKEND_HEADER: Final = "x-consul-query-backend"
_KEYS: Final = "/v1/kv/"

MAX_STALENESS: Final = 30.0
"""Seconds. A server that has not heard from the leader for longer is cut off, and knows of no change; a busy one may be
behind by a few."""
_LONGEST_RETRY_AFTER: Final = 60.0
"""Nobody may send us away for longer."""
_QUOTED: Final = 200
"""Characters of Consul's own words in a message."""
_EMPTY: Final = frozenset({101, 204, 304})
"""Answers without a body: no Consul gives them, only what stands between."""
_ROLLED_BACK: Final = 409
"""Of a transaction: one of its operations said no, and the body says which."""


class QueryBackend(StrEnum):
    """Where an answer comes from, by ``X-Consul-Query-Backend``: the one place that decides what an answer vouches for.

    ============= ============================================== =========================================
    header        which answers                                  what they vouch for
    ============= ============================================== =========================================
    none          every one of Consul 1.8 and 1.9                leader, last contact, index, absence
    blocking-query from 1.10 on: without an index (or with 0),   the same
                  and always for the catalog, checks, KV,
                  sessions, and with ``near``
    streaming     from 1.10 on: ``health/service`` with an       content, and no more
                  index, from a view that the agent keeps
    ============= ============================================== =========================================

    Seen on 1.14.0: a streamed answer says ``X-Consul-KnownLeader: false`` and ``X-Consul-LastContact: 0`` always, in
    perfect health and for ``stale``, default and ``consistent`` alike. A view goes on answering 200 with what it last
    had while its agent is cut off from the servers, and 200 ``[]`` with index 1 where it never had anything; some
    answers are 500 instead. So neither its freshness nor its silence means anything, and whether the servers have a
    leader is told by the questions that are not streamed: the listing, the overrides, and every read without an index.

    A view counts by itself and may stand at a lower index than a read before it. Asked from above its own index it
    waits, and when the wait is over answers with what it has: `Poll` takes no answer below what it asked from.
    """

    UNTOLD = ""
    SERVERS = "blocking-query"
    VIEW = "streaming"
    UNKNOWN = "unknown"
    """Of a Consul to come: its leader and last contact are taken at their word, so that nothing is believed which no
    leader vouches for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer: its body and what the X-Consul headers say about it."""

    status: int
    body: bytes
    index: int = 0
    """0 where the header is missing or no number."""
    backend: QueryBackend = QueryBackend.UNTOLD
    known_leader: bool = True
    last_contact: float = 0.0
    """Seconds since the server that answered heard from the leader."""
    filtered_by_acls: bool = False
    """The token hid something; Consul tells since 1.11."""
    retry_after: float | None = None
    is_signed: bool = True
    """Whether it has any of Consul's own headers. A gateway may leave out some; its own answers have none."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """As sent; looking up ignores case where the transport's mapping does."""

    @property
    def tells_contact(self) -> bool:
        """Whether ``known_leader`` and ``last_contact`` mean what they say; see `QueryBackend`."""
        return self.backend is not QueryBackend.VIEW


def read_reply(status: int, headers: Mapping[str, str], body: bytes) -> Reply:
    """Read the headers, whose case differs between Consul's versions and proxies."""
    lowered = {name.lower(): value for name, value in headers.items()}
    return Reply(
        status=status,
        body=body,
        index=_whole(lowered.get("x-consul-index")),
        backend=_backend(lowered.get(BACKEND_HEADER, "")),
        known_leader=lowered.get("x-consul-knownleader", "true").strip().lower() != "false",
        last_contact=_whole(lowered.get("x-consul-lastcontact")) / 1000,
        filtered_by_acls=lowered.get("x-consul-results-filtered-by-acls", "").strip().lower() == "true",
        retry_after=_retry_after(lowered.get("retry-after")),
        is_signed=any(name.startswith("x-consul-") for name in lowered),
        headers=headers,
    )


def refuse_failure(reply: Reply, *, method: str, path: str, address: str, hide: Callable[[str], str]) -> None:
    """Raise for every status that is no answer; ``hide`` removes secrets from Consul's words.

    Of a key a 404 says that it is not there, where Consul itself says so.
    """
    status = reply.status
    if status == 404 and path.startswith(_KEYS) and not reply.is_signed:
        raise ConsulUnreachable(f"Consul at {address} answered {method} {path} with a 404 that is not Consul's own")
    is_outage = status == 429 or status >= 500 or status in _EMPTY
    if not is_outage and (status < 300 or status == 404 or (status == _ROLLED_BACK and path == TRANSACTION)):
        return
    said = hide(" ".join(reply.body[: 4 * _QUOTED].decode("utf-8", errors="replace").split()))[:_QUOTED]
    words = f"{status} {said}".strip()
    if status in (401, 403):
        raise AccessDenied(f"Consul at {address} refused {method} {path}: {words}; {_advice(method, path, said)}")
    if is_outage:
        raise ConsulUnreachable(
            f"Consul at {address} answered {words} to {method} {path}", retry_after=reply.retry_after
        )
    raise CatalogUnavailable(f"Consul at {address} does not accept {method} {path}: {words}")


def refuse_unled(reply: Reply, *, address: str) -> None:
    """Raise for an answer of a server that has no leader or has not heard from it for too long."""
    if not reply.tells_contact:
        return
    if not reply.known_leader:
        raise ConsulUnreachable(f"Consul at {address} answered without a known leader; its answer is not believed")
    if reply.last_contact > MAX_STALENESS:
        raise ConsulUnreachable(
            f"Consul at {address} answered from a server that last heard from the leader {reply.last_contact:.1f} s "
            f"ago; an answer from more than {MAX_STALENESS:g} s ago is not believed"
        )


def _advice(method: str, path: str, said: str) -> str:
    if "not found" in said.lower():
        return "the token is unknown to Consul"
    endpoint, _, rest = path.removeprefix("/v1/").partition("/")
    return f"the token needs {_rule(endpoint, rest, 'read' if method == 'GET' else 'write')}"


def _rule(endpoint: str, rest: str, policy: str) -> str:
    if endpoint == "kv":
        # A key is KV_PREFIX/canary/SERVICE; the rule covers all services.
        return f'key_prefix "{rest.rpartition("/")[0]}/" {{ policy = "{policy}" }}'
    if endpoint in ("catalog", "health"):
        return 'service_prefix "" { policy = "read" } and node_prefix "" { policy = "read" }'
    if endpoint == "agent" and rest.startswith(("service", "check")):
        return f'service "NAME" {{ policy = "{policy}" }} for the service'
    if endpoint == "session":
        return f'session_prefix "" {{ policy = "{policy}" }}'
    return f'agent_prefix "" {{ policy = "{policy}" }}'


def _backend(text: str) -> QueryBackend:
    try:
        return QueryBackend(text.strip().lower())
    except ValueError:
        return QueryBackend.UNKNOWN


def _whole(text: str | None) -> int:
    return int(text) if text is not None and text.isascii() and text.isdigit() else 0


def _retry_after(text: str | None) -> float | None:
    if text is None:
        return None
    if text.strip().isdigit():
        return min(float(text), _LONGEST_RETRY_AFTER)
    try:
        moment = email.utils.parsedate_to_datetime(text).timestamp()
    except (TypeError, ValueError):
        return None
    return min(max(0.0, moment - time.time()), _LONGEST_RETRY_AFTER)
