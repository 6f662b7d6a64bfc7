"""The standing watch on Consul: puts a catalog into a slot on every real change."""

from __future__ import annotations

import asyncio

from proxygen.catalog import Catalog
from proxygen.consul.client import ConsulClient
from proxygen.consul.ledger import Ledger
from proxygen.consul.observation import CATALOG, NOTHING_KNOWN, Observation
from proxygen.consul.reads import read_datacenter
from proxygen.consul.view import ObservedView
from proxygen.kit.aio import Latest, retrying
from proxygen.kit.errors import CatalogUnavailable, stay_away


class CatalogWatch:
    """Watches services, health and overrides until it is cancelled.

    The first catalog comes once every routed service has been observed and the overrides have been read. A service
    that cannot be read holds it back for some time only: it keeps the instances of an earlier run, and where there are
    none it is missing, which is not the same as empty.
    """

    def __init__(
        self, client: ConsulClient, *, tag_prefix: str, into: Latest[Catalog], known: Catalog = NOTHING_KNOWN
    ) -> None:
        """``known`` is what an earlier run knew."""
        self._client = client
        self._tag_prefix = tag_prefix
        self._into = into
        self._known = known
        self._ledger = Ledger()
        self._observation: Observation | None = None
        """None until Consul has said which datacenter this is."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What makes nothing here less fresh: names that cannot be served, services that could not be read since the
        start, what is wrong in other datacenters, or odd about this Consul."""
        observed = self._observation.warnings if self._observation is not None else ()
        return (*observed, *self._client.oddities.warnings)

    @property
    def problem(self) -> str | None:
        """The newest failure that nothing has healed yet, in one line."""
        return self._ledger.problem

    def freshness(self) -> float:
        """Return the age in seconds of what we know; see `Ledger.freshness`."""
        return self._ledger.freshness()

    async def run(self) -> None:
        """Watch until cancelled; Consul's failures are waited out."""
        self._ledger.expect(CATALOG)
        caller = retrying(CatalogUnavailable, longest=1.0, at_least=stay_away)
        datacenter: str = await caller(self._read_datacenter)
        view = ObservedView(datacenter, self._into)
        async with asyncio.TaskGroup() as group:
            self._observation = Observation(
                self._client, self._ledger, view, group, tag_prefix=self._tag_prefix, known=self._known
            )
            # It is large, and the observation lets go of it once it is not needed.
            self._known = NOTHING_KNOWN

    async def _read_datacenter(self) -> str:
        try:
            return await read_datacenter(self._client)
        except CatalogUnavailable as error:
            self._ledger.failed(CATALOG, error)
            raise
