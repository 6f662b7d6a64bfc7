"""The operator's lever on a service: the shares in Consul's KV, which go before those in its instances' tags.

Reading takes both in; a write puts other shares in KV, or none, over exactly what was read (check-and-set). The
pipeline hears of it from its own watch of the same key.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Final

from proxygen.consul.client import ConsulClient
from proxygen.consul.decode import failures_of, instances_of
from proxygen.consul.kv import delete_override, override_key, read_override, write_override
from proxygen.consul.reads import read_service
from proxygen.kit.errors import BadInput, CatalogUnavailable, ConsulUnreachable, WithoutEffect, quoted
from proxygen.proxy.plan.members import addresses, judge
from proxygen.proxy.plan.shares import stated_shares
from proxygen.proxy.plan.types import Policy
from proxygen.tags.shares import NOTHING, WHOLE, Share, format_share, parse_override

Shares = Mapping[str, Share]
"""By variant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lever:
    """A service's shares as they stand: in KV, and by its instances' tags."""

    service: str
    key: str
    index: int | None
    """What a check-and-set has to name; 0: there is no key; None: not known, so it is to be read first."""
    in_kv: Shares = field(default_factory=dict)
    in_tags: Shares = field(default_factory=dict)
    """The lowest that a variant's instances state."""
    served: Shares = field(default_factory=dict)
    """What nginx gives the named variants now, where that is known: by older tags, where the newest wait or cannot be
    read."""
    healthy: frozenset[str] = frozenset()
    """The variants of which an instance can take requests."""
    failures: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """What failing checks say, by node and id of the instance."""
    is_registered: bool = True
    """Whether there is an instance of it, healthy or not."""
    problem: str = ""
    """Why the text in KV counts for nothing, where it does."""

    @property
    def asked(self) -> Shares:
        return {**self.in_tags, **self.in_kv}

    @property
    def unknown(self) -> tuple[str, ...]:
        """The variants in KV that no instance belongs to."""
        return tuple(sorted(self.in_kv.keys() - self.in_tags.keys() - self.served.keys()))

    @property
    def named(self) -> frozenset[str]:
        """The variants that are asked for or served."""
        return frozenset(self.asked.keys() | self.served.keys())


Change = Callable[[Lever], Shares | None]
"""Says what to ask for instead, where other variants stay as they are; None: nothing, so that the tags count."""


def promoted(lever: Lever, variant: str) -> Shares:
    """Everything for one variant, and nothing for every other one that is named."""
    return {**dict.fromkeys(sorted(lever.named), NOTHING), variant: WHOLE}


def refuse_unregistered(lever: Lever) -> None:
    """Raise WithoutEffect for shares of a service that has no instance and that nginx does not serve: most likely its
    name is misspelt."""
    if not lever.is_registered and not lever.served:
        raise WithoutEffect(
            f"no instance of the service {quoted(lever.service)} is registered, so its shares have no effect;"
            " nothing was written"
        )


def refuse_unknown(lever: Lever, variant: str) -> None:
    """Raise WithoutEffect for the end of a variant that has no instance and no share, and that nginx does not serve."""
    if variant not in lever.named:
        names = ", ".join(sorted(lever.named)) or "none"
        raise WithoutEffect(
            f"the service {quoted(lever.service)} has no variant {variant} (its variants: {names}); nothing was written"
        )


def refuse_unhealthy(lever: Lever, variant: str) -> None:
    """Raise WithoutEffect for all requests to a variant that cannot take any."""
    if variant not in lever.healthy:
        raise WithoutEffect(
            f"no healthy instance of {quoted(lever.service)} belongs to the variant {variant}, so it would get no"
            " requests; nothing was written"
        )


def refuse_excess(asked: Shares) -> None:
    """Raise BadInput where the shares sum to more than the whole, which would scale each of them down."""
    total = Share(sum(asked.values()))
    if total > WHOLE:
        parts = format_shares({name: share for name, share in asked.items() if share}, joined=" + ")
        raise BadInput(f"{parts} is {format_share(total)}; all variants together can have 100%")


def format_shares(shares: Shares, *, joined: str = ", ") -> str:
    """Return ``blue 5%, canary 20%``."""
    return joined.join(f"{name} {format_share(share)}" for name, share in sorted(shares.items()))


class Steering:
    """Reads and writes the levers of services. Every call raises CatalogUnavailable where Consul gives no answer."""

    def __init__(self, client: ConsulClient, *, patience: float | None = None) -> None:
        """``patience`` is how many seconds a read may take, and a write; None: as long as the client lets it."""
        self._client: Final = client
        self._patience: Final = patience

    async def read(self, service: str, policy: Policy) -> Lever:
        """Read a service's lever, consistently. Its instances are judged by ``policy``, as they are for a plan."""
        async with self._bounded():
            override = await read_override(self._client, service)
            entries = await read_service(self._client, service, "consistent")
        instances = instances_of(service, entries)
        # What is wrong with the others, `status` and `check` say.
        members, _ = judge(instances, policy)
        lever = Lever(
            service=service,
            key=override_key(self._client, service),
            index=override.index if override is not None else 0,
            in_tags=stated_shares(members),
            healthy=frozenset(member.variant for member in members if addresses([member])),
            failures=failures_of(entries),
            is_registered=bool(instances),
        )
        try:
            return replace(lever, in_kv=parse_override(override.value) if override is not None else {})
        except ValueError as error:
            return replace(lever, problem=str(error))

    async def move(self, lever: Lever, shares: Shares | None) -> Lever:
        """Write these shares beside others in KV, or None: delete them all; return the lever as it is then.

        ``lever`` is one that was read. What is so already is not written. Raise ConflictingWrite when it is another
        by now.
        """
        if lever.index is None:
            raise ValueError("a lever must be read before it is moved")
        wanted = None if shares is None else {**lever.in_kv, **shares}
        if (wanted is None and lever.index == 0) or (wanted == lever.in_kv and not lever.problem):
            return lever
        try:
            async with self._bounded():
                if wanted is None:
                    await delete_override(self._client, lever.service, index=lever.index)
                    return replace(lever, index=0, in_kv={}, problem="")
                await write_override(self._client, lever.service, _text(wanted), index=lever.index)
        except ConsulUnreachable as error:
            raise ConsulUnreachable(f"read {lever.key} again, nobody knows whether it was written: {error}") from error
        return replace(lever, index=await self._index_of(lever.service, _text(wanted)), in_kv=wanted, problem="")

    async def _index_of(self, service: str, text: str) -> int | None:
        """Return the index of a text that was written just now; None where that cannot be told any more."""
        try:
            async with self._bounded():
                override = await read_override(self._client, service)
        except CatalogUnavailable:
            return None
        return override.index if override is not None and override.value == text else None

    @asynccontextmanager
    async def _bounded(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._patience):
                yield
        except TimeoutError as error:
            raise ConsulUnreachable(f"Consul did not answer within {self._patience:g} s") from error


def _text(shares: Shares) -> str:
    return json.dumps({name: format_share(share) for name, share in sorted(shares.items())})
