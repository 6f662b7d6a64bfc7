"""What a key of the grammar declares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from proxygen.tags.values import Protocol

EVERY_PROTOCOL: Final = frozenset(Protocol)
STREAMS: Final = frozenset(protocol for protocol in Protocol if protocol.is_stream)
WITH_REQUESTS: Final = EVERY_PROTOCOL - STREAMS


class Combine(StrEnum):
    """Whose a key is, and what counts where a service's instances state different values."""

    NEWEST = "service: the value of the newest registration that states it"
    UNION = "service: every value that an instance states"
    LOWEST = "variant: the lowest share that its instances state"
    OWN = "instance: its own value"


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key of the grammar: a row of the documentation's table, where it holds, and the two directions of its
    value."""

    name: str
    """As it stands in a tag."""
    field: str
    """Of `ProxyTags`."""
    meaning: str
    syntax: str
    example: str
    default: str
    repeatable: bool = False
    parse: Callable[[str], Any]
    """Raises ValueError for a text outside the syntax."""
    format: Callable[[Any], str] = str
    combine: Combine
    protocols: frozenset[Protocol]
    """With which it has an effect."""
    ignored_with: frozenset[Protocol] = frozenset()
    """With these it is taken, and a warning says that it has no effect; with any other it is refused."""
    elsewhere: str = ""
    """Why it has no effect with another protocol, ``{protocol}``. Streams need none where only requests have it."""

    def why_not(self, protocol: Protocol) -> str:
        """Say why it has no effect with a protocol."""
        only_requests = self.protocols <= WITH_REQUESTS
        reason = "{protocol} has no requests to apply it to" if protocol.is_stream and only_requests else self.elsewhere
        return reason.format(protocol=protocol)
