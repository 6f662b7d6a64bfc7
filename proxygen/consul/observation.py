"""What a watch on Consul observes while it runs, and what it asks next.

A service is routed while the tags in catalog/services say so or any of its instances' Meta does. A failure never
looks like absence: whatever cannot be read stays as it was last seen, and what seems to be gone is asked for once
more, consistently, before it is believed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator
from types import MappingProxyType
from typing import Final

from proxygen.catalog import Catalog, ServiceName
from proxygen.consul.answers import Reply
from proxygen.consul.candidates import Candidates
from proxygen.consul.client import ConsulClient
from proxygen.consul.decode import (
    CONSUL_SERVICE,
    HealthEntry,
    carries_proxy_keys,
    decode_entries,
    decode_listing,
    instances_of,
    routed_names,
    unservable_names,
)
from proxygen.consul.detect import DetectChanges
from proxygen.consul.early import EarlyNews
from proxygen.consul.elsewhere import Elsewhere
from proxygen.consul.follow import Follower, PollEach
from proxygen.consul.ledger import Ledger
from proxygen.consul.names import is_askable, name_problem
from proxygen.consul.overrides import Overrides
from proxygen.consul.oversized import Oversized
from proxygen.consul.poll import Poll, Question
from proxygen.consul.reads import (
    LISTING_PATH,
    Listing,
    confirm_absence,
    confirm_listing,
    is_about_one_service,
    is_whole,
)
from proxygen.consul.registrations import RegistrationScan
from proxygen.consul.view import ObservedView
from proxygen.kit.aio import start_eternal
from proxygen.kit.errors import CatalogUnavailable
from proxygen.kit.log import get_logger

_log: Final = get_logger(__name__)

_PATIENCE: Final = 10.0
"""Seconds for which a service whose reads fail holds back the first catalog. Longer than for another datacenter, which
serves only in need: while servers elect a leader, any read may fail."""
CATALOG: Final = "catalog"
"""The source, in a ledger, that stands for Consul as a whole."""
NOTHING_KNOWN: Final = Catalog(datacenter="", services=MappingProxyType({}))


class Observation:
    """What a watch that runs keeps: its view, its questions, and which services are routed by now."""

    def __init__(
        self,
        client: ConsulClient,
        ledger: Ledger,
        view: ObservedView,
        group: asyncio.TaskGroup,
        *,
        tag_prefix: str,
        known: Catalog,
    ) -> None:
        """Start the questions in ``group``; ``known`` is what an earlier run knew."""
        self._client = client
        self._ledger = ledger
        self._view = view
        self._group = group
        self._settings = client.settings
        self._tag_prefix = tag_prefix
        self._listing: dict[str, tuple[str, ...]] | None = None
        self._unservable: tuple[str, ...] = ()
        self._listing_index = 0
        self._oversized = Oversized(tag_prefix=tag_prefix, every=client.settings.wait)
        self._tagged: set[str] = set()
        self._routed: set[str] = set()
        self._newcomers: set[str] = set()
        """Those routed that no listing had yet: until one has, only their own answer says that they are gone."""
        self._known = known
        self._recalled: set[str] = set()
        """Services that have the instances of an earlier run, for they could not be read."""
        self._indexes: dict[str, int] = {}
        """The index of each service's last answer, in the store that there is now."""
        self._refused: set[str] = set()
        self._failing_since: dict[str, float] = {}
        self._elsewhere = Elsewhere(
            client, tag_prefix=tag_prefix, known=known.elsewhere, observed=self._open_when_ready
        )
        self._overrides = Overrides(client, ledger, view, observed=self._open_when_ready)
        self._scan = RegistrationScan(client, ledger, group)
        self._follower: Follower = PollEach(client, ledger, self, group)
        self._candidates = Candidates(
            client,
            ledger,
            self._scan,
            group,
            self,
            tag_prefix=tag_prefix,
        )
        self._early = EarlyNews(client, group, tag_prefix=tag_prefix, found=self._route_early)
        start_eternal(group, self._listing_poll().run(), name="watch of catalog/services")
        start_eternal(group, self._overrides.poll().run(), name="watch of the overrides in KV")
        start_eternal(group, self._elsewhere.run(view), name="watch of other datacenters")

    @property
    def warnings(self) -> tuple[str, ...]:
        """Names that cannot be served, services that could not be read since the start, and what is wrong in other
        datacenters."""
        unservable = (f"service {name!r} is left out: {name_problem(name)}" for name in self._unservable)
        return (*unservable, *self._unread_lines(), *self._elsewhere.problems)

    def _listing_poll(self) -> Poll:
        return Poll(
            self._client,
            self._ledger,
            Question(source=CATALOG, path=LISTING_PATH, pathfinder=True, narrow=self._oversized.question),
            self._heed_listing,
            on_failure=self._oversized.failed,
        )

    async def _heed_listing(self, reply: Reply) -> None:
        listing = self._oversized.take(decode_listing(reply.body))
        tagged = routed_names(listing, self._tag_prefix)
        seems_hidden = not is_whole(self._client, listing) or (not listing and reply.filtered_by_acls)
        # An answer without an index says nothing about the past.
        seems_wiped = 0 < reply.index < self._view.index
        self._newcomers = self._newcomers - listing.keys() if self._oversized.still_listed else set()
        if seems_hidden or seems_wiped or self._tagged - tagged or self._routed - self._newcomers - listing.keys():
            listing = self._oversized.take_whole((await self._confirm_listing()).services)
            tagged = routed_names(listing, self._tag_prefix)
        else:
            self._view.count(reply.index)
        before, self._listing, self._tagged = self._listing or {}, listing, tagged
        self._leave_out(unservable_names(listing, self._tag_prefix))
        self._let_go()
        added = sorted(tagged - self._routed)
        self._choose_follower(len(self._routed) + len(added))
        for name in added:
            self._route(name)
        # Consul lists the same tags in another order each time.
        retagged = [name for name in self._routed if set(listing.get(name, ())) != set(before.get(name, ()))]
        if reply.index != self._listing_index:
            self._listing_index = reply.index
            self._follower.listing_moved(reply.index, retagged)
            if self._settings.meta_sweep:
                names = {name for name in listing if name != CONSUL_SERVICE and is_askable(name)}
                self._candidates.listed(names - self._routed, reply.index)
        self._early.ask_without(self._oversized.still_listed)
        self._open_when_ready()

    async def _confirm_listing(self) -> Listing:
        known = self._view.index
        listing = await confirm_listing(self._client)
        if listing.index:
            self._view.recount(listing.index, known=known)
        if self._view.index < known:
            self._indexes.clear()
            # An agent may have carried a question over to a store that does not count as far for a long time.
            self._ledger.recover()
        return listing

    def _leave_out(self, unservable: tuple[str, ...]) -> None:
        for name in unservable:
            if name not in self._unservable:
                _log.warning("service left out", service=name, reason=name_problem(name))
        self._unservable = unservable

    def _let_go(self) -> None:
        """Stop routing what is gone from the listing, and what was routed only by tags that it lost."""
        assert self._listing is not None
        for name in sorted(self._routed - self._tagged - self._newcomers):
            if name not in self._listing:
                self._unroute(name)
                self._view.observe(name, ())
                self._view.retire(name)
            elif name in self._view and not carries_proxy_keys(self._view.instances(name), self._tag_prefix):
                self._unroute(name)
                self._view.retire(name)

    def _route(self, name: str) -> None:
        self._routed.add(name)
        self._candidates.forget(name)
        self._follower.follow(name)

    def _route_early(self, tagged: set[str]) -> None:
        """Route newcomers that the listing does not have yet."""
        for name in sorted(tagged - self._routed):
            self._choose_follower(len(self._routed) + 1)
            self._newcomers.add(name)
            self._route(name)

    def _unroute(self, name: str) -> None:
        self._routed.discard(name)
        self._newcomers.discard(name)
        self._refused.discard(name)
        self._recalled.discard(name)
        self._indexes.pop(name, None)
        self._follower.unfollow(name)
        self._elsewhere.follow(name, ())
        _log.info("service no longer routed", service=name)

    def _choose_follower(self, services: int) -> None:
        """Poll each service while the sockets last; a margin keeps us from changing to and fro."""
        capacity = _capacity(self._settings.max_connections - self._elsewhere.sockets)
        polls_each = isinstance(self._follower, PollEach)
        if polls_each == (services <= (capacity if polls_each else capacity * 3 // 4)):
            return
        self._follower.stop()
        if polls_each:
            self._follower = DetectChanges(self._client, self._ledger, self, self._view, self._scan, self._group)
        else:
            self._follower = PollEach(self._client, self._ledger, self, self._group)
        for name in sorted(self._routed):
            self._follower.follow(name)

    # What followers see.

    def is_routed(self, name: str) -> bool:
        """Whether it asks for requests: by its tags in the newest listing, or by the Meta that was read last."""
        return name in self._routed

    def observe(self, name: str, entries: tuple[HealthEntry, ...]) -> bool:
        """Take a service's instances; return whether they differ. Unroute it where neither listing nor instances
        ask."""
        instances = instances_of(name, entries)
        self._refused.discard(name)
        self._recalled.discard(name)
        is_new = self._view.observe(name, instances)
        self._elsewhere.follow(name, instances)
        self._choose_follower(len(self._routed))
        if name not in self._tagged and not carries_proxy_keys(instances, self._tag_prefix):
            self._unroute(name)
            self._view.retire(name)
        self._open_when_ready()
        return is_new

    async def entries_of(self, name: str, reply: Reply) -> tuple[HealthEntry, ...]:
        """Decode an answer. No entry at all is believed only once the listing confirms it. Raise CatalogUnavailable."""
        entries = decode_entries(reply.body)
        if reply.index < self._indexes.get(name, 0):
            # Perhaps of a store that was wiped or restored: who sees a loss in it must know.
            await self._confirm_listing()
        self._indexes[name] = reply.index
        return entries or await confirm_absence(self._client, name, self._confirm_listing)

    def failed(self, name: str, error: CatalogUnavailable) -> None:
        """Before the view opens: let it open without this service, at once where only this one is refused, else in a
        while."""
        if self._view.is_open:
            return
        if is_about_one_service(error):
            self._refused.add(name)
        elif name not in self._failing_since:
            self._failing_since[name] = time.monotonic()
            asyncio.get_running_loop().call_later(_PATIENCE, self._open_when_ready)
        self._open_when_ready()

    # What candidates see.

    def route_by_meta(self, name: str, entries: tuple[HealthEntry, ...]) -> None:
        """Follow a service whose instances ask by Meta alone; ``entries`` are what was just read of it."""
        self._choose_follower(len(self._routed) + 1)
        self._route(name)
        self.observe(name, entries)

    def looked_at(self, name: str) -> None:
        """Say that a service was asked for once; the view may open with it."""
        self._open_when_ready()

    # The first catalog.

    def _open_when_ready(self) -> None:
        """Show the catalog once everything routed was observed.

        A service that Consul does not show to us, or for too long cannot, does not hold back the others, unless it is
        all there are.
        """
        if self._view.is_open or self._listing is None or not self._overrides.are_read:
            return
        unread = self._unread()
        sees_none = self._routed and not any(name in self._view for name in self._routed)
        if sees_none or not all(self._is_given_up(name) for name in unread):
            return
        self._recall(unread)
        if self._elsewhere.is_observed:
            self._known = NOTHING_KNOWN
            self._view.open()

    def _unread(self) -> set[str]:
        return {name for name in self._routed if name not in self._view} | self._candidates.unread

    def _is_given_up(self, name: str) -> bool:
        if name in self._refused:
            return True
        since = self._failing_since.get(name)
        # While Consul as a whole fails, a service's failure is not its own.
        return since is not None and time.monotonic() - since >= _PATIENCE and not self._ledger.fails(CATALOG)

    def _recall(self, unread: Iterable[str]) -> None:
        """Start from what an earlier run knew of services that cannot be read: what nginx has of them stays."""
        if self._known.datacenter != self._view.datacenter:
            return
        for name in sorted(unread):
            instances = self._known.services.get(ServiceName(name), ())
            if carries_proxy_keys(instances, self._tag_prefix):
                self._recalled.add(name)
                self._view.observe(name, instances)
                self._elsewhere.follow(name, instances)
                if name not in self._routed:
                    self._route(name)

    def _unread_lines(self) -> Iterator[str]:
        if self._listing is None or not self._view.is_open:
            return
        for name in sorted(self._recalled):
            yield f"service {name!r} could not be read since the start; its last known instances stay"
        for name in sorted(self._unread() & (self._failing_since.keys() | self._refused)):
            yield f"service {name!r} could not be read since the start; if it has a route, that is left out until then"


def _capacity(max_connections: int) -> int:
    """Return how many services may have a query of their own.

    Two sockets are for the listing and the overrides; some stay free for the witness and for short reads.
    """
    return max_connections - 2 - min(8, max(1, max_connections // 4))
