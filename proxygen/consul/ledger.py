"""What each standing question to Consul last answered: freshness, the last problem, and when to ask again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, Final

from proxygen.kit.errors import CatalogUnavailable
from proxygen.kit.log import get_logger

_log: Final = get_logger(__name__)


class Ledger:
    """Failures and successes by source; a source is a question, named as an operator would.

    ``scope`` stands before each name where it is shown.
    """

    def __init__(self, scope: str = "") -> None:
        self._scope = scope
        self._believed: dict[str, float] = {}
        self._problems: dict[str, str] = {}
        self._recovered = asyncio.Event()

    @property
    def problem(self) -> str | None:
        """The newest failure that nothing has healed yet, in one line."""
        return next(reversed(self._problems.values()), None)

    def fails(self, source: str) -> bool:
        """Tell whether the source's last answer was a failure."""
        return source in self._problems

    def freshness(self) -> float:
        """Return the age in seconds of the oldest last answer among the standing questions.

        Infinite before every one of them has been answered once.
        """
        if not self._believed:
            return float("inf")
        return time.monotonic() - min(self._believed.values())

    def expect(self, source: str) -> None:
        """Count the source in `freshness` from now on.

        Once everything has been answered, whoever comes later is not older than its coming: a question about a service
        that is new, or that changed, makes nothing else less fresh.
        """
        is_whole = self.freshness() < float("inf")
        self._believed.setdefault(source, time.monotonic() if is_whole else float("-inf"))

    def forget(self, source: str) -> None:
        """Drop a question that is no longer asked, with its problem."""
        self._believed.pop(source, None)
        self._problems.pop(source, None)

    def believed(self, source: str) -> None:
        """Note an answer that may be believed."""
        if source in self._believed:
            self._believed[source] = time.monotonic()
        if self._problems.pop(source, None) is not None:
            _log.info("consul answers again", source=f"{self._scope}{source}")

    def failed(self, source: str, error: CatalogUnavailable) -> None:
        """Note a failure; only the first of a row is logged, or the page of a long outage would be all there is."""
        if source not in self._problems:
            _log.warning("consul read failed", source=f"{self._scope}{source}", error=str(error))
        self._problems.pop(source, None)
        self._problems[source] = f"{self._scope}{source}: {error}"

    def recover(self) -> None:
        """Consul is back, or began anew: end every pause, which may have grown long, and every wait for a change.

        The agent's views may not have noticed either, and then tell of no change (see `Poll`).
        """
        self._recovered.set()
        self._recovered = asyncio.Event()

    def recovered(self) -> Coroutine[Any, Any, object]:
        """Return what waits for the next `recover` from now on."""
        return self._recovered.wait()

    async def pause(self, seconds: float) -> None:
        """Wait, but not longer than until `recover`."""
        try:
            async with asyncio.timeout(seconds):
                await self.recovered()
        except TimeoutError:
            pass
