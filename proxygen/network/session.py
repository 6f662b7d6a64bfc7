"""A host's session, by which others see that it lives; and the times that all hosts agree on."""

from __future__ import annotations

from dataclasses import dataclass

from proxygen.network.store import NetworkStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The times of a network, in seconds; the same on all of its hosts."""

    ttl: float = 30.0
    """Consul ends a session between one and two of these after its last renewal."""
    lock_delay: float = 30.0
    """For so long after that nobody gets the session's locks. As long as the TTL: even where a session is destroyed
    by hand, a copy of its host gets no lock while the host may still believe that it holds."""
    grace: float = 86_400.0
    """A lease that nobody locks is collected after this time."""

    @property
    def rhythm(self) -> float:
        """Between two renewals."""
        return self.ttl / 3

    @property
    def deadline(self) -> float:
        """For one request: a renewal must fail in time for another try."""
        return self.ttl / 4

    @property
    def lapse(self) -> float:
        """After so long nobody relies any more on what he does not see in Consul."""
        return self.ttl

    @property
    def settle(self) -> float:
        """So long newcomers wait where data was lost: hosts that have subnets wait for the lapse, and come first."""
        return self.ttl * 2

    @property
    def busy(self) -> float:
        """The longest that a session of our own past can be in our way."""
        return self.ttl * 2 + self.lock_delay + self.rhythm


class HostSession:
    """One session at a time, renewed as long as Consul knows it."""

    def __init__(self, store: NetworkStore, name: str, *, terms: Terms, past: str) -> None:
        self.id = past
        """Empty while there is none."""
        self._store = store
        self._name = name
        self._terms = terms

    async def renew(self) -> bool:
        """Renew it, or open another. Return whether it is the one from before, with what it locked."""
        if self.id and await self._store.renew(self.id):
            return True
        self.id = ""
        self.id = await self._store.open_session(self._name, ttl=self._terms.ttl, lock_delay=self._terms.lock_delay)
        return False

    def abandon(self) -> None:
        """Leave it to others, or to its end."""
        self.id = ""

    async def end(self) -> None:
        """Destroy it, so that its locks are released at once. Without a session nothing is done."""
        session, self.id = self.id, ""
        if session:
            await self._store.destroy(session)
