"""Services without proxy tags: any of them may carry a route in its Meta, which no listing shows.

Each is read once when it is new, and again when its registration changed. Most catalogs have far more of them than of
routed services, so they are never all read because something moved.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Final, Protocol

from proxygen.consul.client import ConsulClient
from proxygen.consul.decode import HealthEntry, RegistrationState, carries_proxy_keys, decode_entries, instances_of
from proxygen.consul.fetch import Fetcher, Sweep
from proxygen.consul.ledger import Ledger
from proxygen.consul.reads import service_path
from proxygen.consul.registrations import RegistrationReader, RegistrationScan
from proxygen.kit.aio import start_eternal
from proxygen.kit.errors import CatalogUnavailable

_MOST_READERS: Final = 4
_FOR_EVER: Final = 86_400.0


class MetaWatcher(Protocol):
    """Who is told what was found of services without proxy tags."""

    def route_by_meta(self, name: str, entries: tuple[HealthEntry, ...]) -> None:
        """Route a service whose Meta asks for it."""
        ...

    def looked_at(self, name: str) -> None:
        """Take in that the service was read, whatever it has."""
        ...

    def failed(self, name: str, error: CatalogUnavailable) -> None:
        """Take in that the service could not be read."""
        ...


class Candidates:
    """Asks whether a service's Meta carries a route."""

    def __init__(
        self,
        client: ConsulClient,
        ledger: Ledger,
        scan: RegistrationScan,
        group: asyncio.TaskGroup,
        watcher: MetaWatcher,
        *,
        tag_prefix: str,
    ) -> None:
        self._client = client
        self._tag_prefix = tag_prefix
        self._watcher = watcher
        self._names: set[str] = set()
        self._asked: set[str] = set()
        self._read_once: set[str] = set()
        self._since: int | None = None
        self._scan = scan
        self._gap = gap = client.settings.meta_sweep
        self._due: dict[str, float] = {}
        """When, by the loop's clock, a service that changed may be read once more."""
        self._waiting: set[str] = set()
        """Those that changed since and are read then."""
        workers = min(_MOST_READERS, max(1, client.settings.max_connections // 16))
        self._reader = Fetcher(self._read, ledger, workers=workers)
        sweep = Sweep(self._reader, lambda: tuple(self._names), gap=gap, longest_gap=gap, every=_FOR_EVER)
        if gap:
            scan.join(
                RegistrationReader(
                    gap=gap, longest_gap=gap, known=self._known, ask=self._ask, look_everywhere=sweep.moved
                )
            )
        start_eternal(group, self._reader.run(), name="reading of services without proxy tags")
        start_eternal(group, sweep.run(), name="sweep over services without proxy tags")

    @property
    def unread(self) -> set[str]:
        """Those of which nothing is known yet."""
        return self._names - self._read_once

    def listed(self, names: set[str], index: int) -> None:
        """Take in which services without proxy tags there are, by the listing of this index."""
        for name in self._names - names:
            self._reader.forget(name)
            self._due.pop(name, None)
        self._read_once &= names
        self._names = names
        # The reader tries again by itself what failed.
        self._reader.ask(sorted(names - self._asked))
        self._asked = set(names)
        if self._since is None:
            self._since = index
        elif names:
            self._scan.moved(index)

    def forget(self, name: str) -> None:
        """Leave out a service that is routed now."""
        self._names.discard(name)
        self._due.pop(name, None)
        self._reader.forget(name)

    def _known(self, node: str, registered: Mapping[str, RegistrationState]) -> Mapping[str, RegistrationState]:
        # What is older than the first listing was in the first answers.
        since = self._since or 0
        return {identity: one for identity, one in registered.items() if one.modify_index <= since}

    def _ask(self, names: Iterable[str]) -> bool:
        """Read those of these services that are ours; each once within the gap, however often it changes."""
        for name in sorted(self._names.intersection(names) - self._waiting):
            loop = asyncio.get_running_loop()
            now = loop.time()
            if now >= self._due.get(name, now):
                self._due[name] = now + self._gap
                self._reader.ask((name,))
            else:
                self._waiting.add(name)
                loop.call_at(self._due[name], self._ask_late, name)
        # They never ask for another look before its time.
        return False

    def _ask_late(self, name: str) -> None:
        self._waiting.discard(name)
        self._ask((name,))

    async def _read(self, name: str, urgent: bool) -> bool:
        if name not in self._names:
            return False
        try:
            reply = await self._client.read(service_path(name), consistency="default" if urgent else "any")
            entries = decode_entries(reply.body)
        except CatalogUnavailable as error:
            self._watcher.failed(name, error)
            raise
        self._read_once.add(name)
        is_routed = name in self._names and carries_proxy_keys(instances_of(name, entries), self._tag_prefix)
        if is_routed:
            self._watcher.route_by_meta(name, entries)
        self._watcher.looked_at(name)
        return is_routed
