"""Services whose tags make the listing of all services long, and the question that leaves them out.

Consul builds and sends the whole of catalog/services at each change of any service: 0.6 s for one service of 600,000
tags, for which every newcomer waits. From 1.14.0 on it takes a filter there (hashicorp/consul#11742). Older ones
ignore it and answer with everything, which their answer shows: it has a name that was to be left out.

A service that is left out counts as it was in the last whole listing. It is not gone: only a whole listing or its own
instances' answer says that. So the whole is asked for again every ``consul.wait``, which is how often a quiet Consul
sends it anyway.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import quote

from proxygen.consul.client import Params
from proxygen.consul.decode import CONSUL_SERVICE
from proxygen.kit.errors import AccessDenied, CatalogUnavailable, ConsulUnreachable
from proxygen.kit.log import get_logger

_log: Final = get_logger(__name__)

_MOST: Final = 100_000
"""Characters of a service's tags in the listing; a thousand instances with a UUID of their own each have half of it."""
_LONGEST_FILTER: Final = 2_000
"""Characters of the filter in the URL: whatever stands before Consul takes that."""
_REST: Final = 10
"""Times ``every`` for which the whole is asked for after the filter was refused, or failed too often."""
_MOST_FAILURES: Final = 2
"""Failures in a row from which on they are the filter's."""

Listing = Mapping[str, tuple[str, ...]]


class Oversized:
    """What the standing question for catalog/services leaves out."""

    def __init__(self, *, tag_prefix: str, every: float) -> None:
        """``every`` is how many seconds a whole listing is good for."""
        self._tag_prefix = tag_prefix
        self._every = every
        self._known: Listing = {}
        """What is left out, with at most one proxy tag of each."""
        self._asked_without: Listing = {}
        """What the question that is not answered yet leaves out."""
        self._failures = 0
        self._is_ignored: bool | None = None
        """Whether this Consul answered with what was to be left out; None before any was."""
        self._logged: set[str] = set()
        self._whole_until = 0.0
        self._rests_until = 0.0

    def question(self, index: int) -> tuple[int, Params]:
        """Return where to ask from and with which parameters.

        From one below, which is answered at once, the whole is asked for, so that no newcomer waits for it; and with
        the first filter, so that it is known whether Consul heeds it, and the first after a failure.
        """
        now = time.monotonic()
        is_whole_due = now >= self._whole_until
        self._asked_without = {} if not index or is_whole_due or now < self._rests_until else self._known
        if self._asked_without:
            is_tried = (self._is_ignored is not None and not self._failures) or index == 1
            return index if is_tried else index - 1, [("filter", filter_without(self._asked_without))]
        return (index - 1 if index and self._known and is_whole_due else index), ()

    def failed(self, error: CatalogUnavailable) -> None:
        """Take note that the last question failed, perhaps for its filter: something between may refuse what it does
        not know. An outage of Consul's fails it too, but not twice with an answer to the whole in between."""
        if not self._asked_without:
            self._failures = 0
            return
        is_refused = not isinstance(error, ConsulUnreachable | AccessDenied)
        self._failures += _MOST_FAILURES if is_refused else 1
        if self._failures >= _MOST_FAILURES:
            self._failures = 0
            self._rests_until = time.monotonic() + _REST * self._every

    def take(self, listing: Listing) -> dict[str, tuple[str, ...]]:
        """Return the answer to the last question together with what it left out."""
        without, self._asked_without = self._asked_without, {}
        if not without:
            return self.take_whole(listing)
        self._failures = 0
        self._is_ignored = not without.keys().isdisjoint(listing.keys())
        return self.take_whole(listing) if self._is_ignored else {**listing, **without}

    @property
    def still_listed(self) -> tuple[str, ...]:
        """Those that this Consul does not leave out."""
        return tuple(self._known) if self._is_ignored else ()

    def take_whole(self, listing: Listing) -> dict[str, tuple[str, ...]]:
        """Return a whole listing, and leave out from the next questions what makes it long."""
        self._whole_until = time.monotonic() + self._every
        self._known = {name: _one_proxy_tag(listing[name], self._tag_prefix) for name in choose_oversized(listing)}
        self._log_new()
        return {**listing, **self._known}

    def _log_new(self) -> None:
        new = self._known.keys() - self._logged
        # Once for each: their tags may go up and down.
        self._logged |= new
        if new:
            _log.info("services left out of the listing for the size of their tags", services=sorted(new))


def choose_oversized(listing: Listing) -> tuple[str, ...]:
    """Return the services with too many characters of tags, the largest first, as many as a filter has room for."""
    sizes = {name: sum(map(len, tags)) for name, tags in listing.items() if name != CONSUL_SERVICE}
    chosen: tuple[str, ...] = ()
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        if sizes[name] <= _MOST:
            break
        if len(quote(filter_without((*chosen, name)))) <= _LONGEST_FILTER:
            chosen = (*chosen, name)
    return chosen


def filter_without(names: Iterable[str], *, selector: str = "ServiceName") -> str:
    """Return the filter that leaves these services out."""
    return " and ".join(f"{selector} != {_literal(name)}" for name in names)


def _literal(name: str) -> str:
    """Write a name as Consul's filters read it: a string as Go's, in which no quote may stand, even behind a ``\\``."""
    return '"' + name.replace("\\", r"\x5c").replace('"', r"\x22").replace("\n", r"\n") + '"'


def _one_proxy_tag(tags: Iterable[str], tag_prefix: str) -> tuple[str, ...]:
    first = min((tag for tag in tags if tag.startswith(f"{tag_prefix}.")), default=None)
    return () if first is None else (first,)
