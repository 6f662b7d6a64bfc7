"""All proxy tags of one instance as one value."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any, Final, TypedDict, Unpack

from proxygen.kit.errors import TagError
from proxygen.tags.key import Key
from proxygen.tags.keys import BY_FIELD, BY_NAME, KEYS, NOT_WITH
from proxygen.tags.shares import CANARY
from proxygen.tags.values import (
    Balance,
    BalanceBy,
    Datacenter,
    FileName,
    Force,
    IPNetwork,
    Protocol,
    Rate,
    RouteTag,
    Sticky,
    StickyBy,
    VariantTag,
)


class TagValues(TypedDict, total=False):
    """What `ProxyTags` can be built from: the text of a tag's value, or the value itself."""

    route: str | Iterable[str | RouteTag]
    canary: str | float | None
    """Sugar for a ``variant`` named canary: a percentage."""
    variant: str | VariantTag | None
    sticky: str | Sticky | None
    force: str | Iterable[str | Force]
    weight: str | int | None
    balance: str | Balance | None
    failover: str | Iterable[str] | None
    protocol: str | Protocol | None
    listen: str | int | None
    strip_prefix: str | bool | None
    redirect_https: str | bool | None
    hsts: str | bool | None
    websocket: str | bool | None
    tls: str | None
    timeout: str | int | None
    idle_timeout: str | int | None
    connect_timeout: str | int | None
    body_size: str | int | None
    request_buffering: str | bool | None
    response_buffering: str | bool | None
    max_fails: str | int | None
    fail_timeout: str | int | None
    retries: str | int | None
    retries_unsafe: str | bool | None
    keepalive: str | int | None
    keepalive_timeout: str | int | None
    rate: str | Rate | None
    allow: str | Iterable[str | IPNetwork] | None
    deny: str | Iterable[str | IPNetwork] | None
    auth: str | None


@dataclass(frozen=True, slots=True, init=False)
class ProxyTags:
    """What one instance asks of the proxy, in normal form; None or empty: the key is not stated.

    Built by keywords from the texts of tags or from values, ``ProxyTags(route=["app.example.com"], canary="10%")``;
    raises TagError, whose place is the keyword, for what the grammar refuses. Whether the keys make sense together
    is `check_combination`'s question, so that what several instances state can be merged before it is asked.
    """

    route: tuple[RouteTag, ...] = ()
    """Sorted as texts, each once; so are all tuples here."""
    variant: VariantTag | None = None
    """The tag ``canary`` too. None: the instance belongs to stable."""
    sticky: Sticky | None = None
    force: tuple[Force, ...] = ()
    weight: int | None = None
    balance: Balance | None = None
    failover: tuple[Datacenter, ...] | None = None
    """In the order in which they stand behind the local datacenter."""
    protocol: Protocol | None = None
    listen: int | None = None
    strip_prefix: bool | None = None
    redirect_https: bool | None = None
    hsts: bool | None = None
    websocket: bool | None = None
    tls: FileName | None = None
    timeout: int | None = None
    """Milliseconds, as all time-outs."""
    idle_timeout: int | None = None
    connect_timeout: int | None = None
    body_size: int | None = None
    """Bytes; 0 is unlimited."""
    request_buffering: bool | None = None
    response_buffering: bool | None = None
    max_fails: int | None = None
    fail_timeout: int | None = None
    retries: int | None = None
    retries_unsafe: bool | None = None
    keepalive: int | None = None
    keepalive_timeout: int | None = None
    rate: Rate | None = None
    allow: tuple[IPNetwork, ...] | None = None
    deny: tuple[IPNetwork, ...] | None = None
    auth: FileName | None = None

    def __init__(self, **values: Unpack[TagValues]) -> None:
        given: dict[str, Any] = {name: value for name, value in values.items() if value is not None}
        if "canary" in given and "variant" in given:
            raise TagError("canary", TWO_VARIANTS)
        judged = {}
        for name, value in given.items():
            key = BY_NAME["canary"] if name == "canary" else BY_FIELD.get(name)
            if key is None:
                raise TypeError(f"ProxyTags() got an unexpected keyword argument {name!r}")
            judged[key.field] = _judge(name, key, value)
        for field in fields(self):
            object.__setattr__(self, field.name, judged.get(field.name, field.default))


TWO_VARIANTS: Final = "an instance belongs to one variant; write canary or variant, not both"


def _judge(name: str, key: Key, value: Any) -> Any:
    """Return the normal form of a keyword's value.

    A value that is no text is written as one and read back, so that nothing gets past the grammar.
    """
    if key.repeatable:
        return in_order({_judge_one(name, key, item) for item in ([value] if isinstance(value, str) else value)})
    return _judge_one(name, key, value)


def _judge_one(name: str, key: Key, value: Any) -> Any:
    try:
        return key.parse(value if type(value) is str else key.format(value))
    except ValueError as error:
        raise TagError(name, str(error)) from None


def in_order(values: Iterable[Any]) -> tuple[Any, ...]:
    """Return the values of a repeatable key in their normal order."""
    return tuple(sorted(values, key=str))


def states(tags: ProxyTags, key: Key) -> bool:
    """Whether a key, or the other one with its field, is stated."""
    return getattr(tags, key.field) not in (None, ())


_HTTP_STICKY: Final = (StickyBy.COOKIE, StickyBy.HEADER)
_HTTP_BALANCE: Final = (BalanceBy.IP_HASH, BalanceBy.HASH_URI, BalanceBy.HASH_HEADER, BalanceBy.HASH_COOKIE)


def check_combination(tags: ProxyTags) -> tuple[TagError, ...]:
    """Return what makes no sense together; the places are names of keys."""
    return tuple(_contradictions(tags))


def _contradictions(tags: ProxyTags) -> Iterator[TagError]:
    protocol = tags.protocol or Protocol.HTTP
    if protocol.is_stream and tags.listen is None:
        yield TagError("protocol", f"{protocol} needs a port to listen on; add listen")
    for key in NOT_WITH[protocol]:
        # "false" asks for nothing that is not there; a body size of 0 does, and it equals False.
        asks = states(tags, key) and getattr(tags, key.field) is not False
        if asks and protocol not in key.ignored_with:
            yield TagError(key.name, key.why_not(protocol))
    if protocol.is_stream:
        yield from _values_without_streams(protocol, tags)
    for name, stated in (("redirect-https", tags.redirect_https), ("hsts", tags.hsts)):
        if stated and tags.tls is None:
            yield TagError(name, "there is no HTTPS without a certificate; add tls")


def _values_without_streams(protocol: Protocol, tags: ProxyTags) -> Iterator[TagError]:
    if tags.sticky and tags.sticky.by in _HTTP_STICKY:
        yield TagError("sticky", f"{protocol} has no headers or cookies; write none or ip")
    if tags.balance and tags.balance.by in _HTTP_BALANCE:
        yield TagError("balance", f"{protocol} has no requests to hash; write round_robin, least_conn or random")


def format_values(tags: ProxyTags) -> Iterator[tuple[Key, str]]:
    """Yield every stated key with its text, in the order of `KEYS`; a repeatable key once for each value.

    Raise TagError for a combination that nobody could read back.
    """
    for problem in check_combination(tags):
        raise problem
    for key in KEYS:
        if not states(tags, key):
            continue
        value = getattr(tags, key.field)
        if isinstance(value, VariantTag) and (key.name == CANARY) != (value.name == CANARY):
            continue
        for item in value if key.repeatable else [value]:
            yield key, key.format(item)
