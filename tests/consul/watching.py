"""A running `CatalogWatch` for tests, and a way to wait for the catalog that one expects."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from proxygen.catalog import Catalog, Health, ServiceName
from proxygen.consul.client import ConsulClient
from proxygen.consul.watch import CatalogWatch
from proxygen.kit.aio import Latest
from proxygen.settings import ConsulSettings

ROUTE = "proxygen.route=app.example.com"
NOTHING = Catalog(datacenter="", services={})


class Watching:
    """A watch, its client, and the catalogs that it put."""

    def __init__(self, client: ConsulClient, known: Catalog) -> None:
        self.client = client
        self.slot: Latest[Catalog] = Latest()
        self.watch = CatalogWatch(client, tag_prefix="proxygen", into=self.slot, known=known)

    async def until(self, condition: Callable[[Catalog], bool], *, within: float = 30.0) -> float:
        """Wait for a catalog that meets the condition; return the seconds that it took."""
        started = time.monotonic()
        while True:
            catalog = self.slot.peek()
            if catalog is not None and condition(catalog):
                return time.monotonic() - started
            remaining = started + within - time.monotonic()
            try:
                async with asyncio.timeout(remaining):
                    await self.slot.take()
            except TimeoutError:
                raise AssertionError(
                    f"not within {within} s; problem: {self.watch.problem}; {str(catalog)[:3000]}"
                ) from None

    async def nothing_comes(self, seconds: float) -> bool:
        """Tell whether no catalog is put for so long."""
        try:
            async with asyncio.timeout(seconds):
                await self.slot.take()
        except TimeoutError:
            return True
        return False


@asynccontextmanager
async def watching(settings: ConsulSettings, *, known: Catalog = NOTHING) -> AsyncIterator[Watching]:
    async with ConsulClient(settings) as client:
        one = Watching(client, known)
        task = asyncio.create_task(one.watch.run())
        try:
            yield one
            assert not task.done(), task.exception()
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def ids(catalog: Catalog, name: str) -> list[str]:
    return [instance.id for instance in catalog.services.get(ServiceName(name), ())]


def health(catalog: Catalog, name: str) -> list[Health]:
    return [instance.health for instance in catalog.services.get(ServiceName(name), ())]
