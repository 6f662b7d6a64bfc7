"""What is asked for by instances that cannot be used.

Nobody else gets what their service holds of it; where nothing of the service can be served, its requests get an answer
of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import Final

from proxygen.catalog import Instance
from proxygen.kit.errors import TagError
from proxygen.proxy.plan.bounds import Bounds, oldest_first, within
from proxygen.proxy.plan.types import Claim, Policy, PortClaim, RouteClaim
from proxygen.tags import parse_route, parse_tags

_MOST_READ: Final = 1_000
"""Texts of routes that are parsed for one service; it may hold far fewer."""


def claims_that_parse(instances: Sequence[Instance], policy: Policy) -> Iterator[Claim]:
    """Yield what the instances claim, the oldest registration's first, as far as it can be read."""
    judged = oldest_first(within(instances, policy.bounds))
    texts = (text for instance in judged for text in _routes(instance, policy.prefix))
    for text in islice(texts, _MOST_READ):
        with suppress(ValueError):
            route = parse_route(text)
            yield RouteClaim(route.host or "", route.path)
    for instance in judged:
        yield from _port(instance, policy.prefix)


def _routes(instance: Instance, prefix: str) -> Sequence[str]:
    start = f"{prefix}.route="
    texts = [tag.removeprefix(start) for tag in instance.tags if tag.startswith(start)]
    return texts or dict(instance.meta).get(f"{prefix}-route", "").split(" ")


def _port(instance: Instance, prefix: str) -> Iterator[PortClaim]:
    """Its port, where the tags or Meta that name it are right by themselves."""
    own = {tag for tag in instance.tags if tag.startswith((f"{prefix}.protocol=", f"{prefix}.listen="))}
    meta = [(key, text) for key, text in instance.meta if key in (f"{prefix}-protocol", f"{prefix}-listen")]
    # More tags can only contradict each other.
    if len(own) <= 2 <= len(own) + len(meta):
        with suppress(TagError):
            tags = parse_tags(own, meta, prefix)
            if tags.protocol is not None and tags.listen is not None:
                yield PortClaim(tags.protocol.value, tags.listen)


def bounded(claims: Iterable[Claim], bounds: Bounds) -> Iterator[Claim]:
    """Yield the first claims, as many as one service may hold."""
    routes = wide = ports = 0
    for claim in claims:
        if isinstance(claim, PortClaim):
            ports += 1
            if ports <= bounds.ports:
                yield claim
            continue
        wide += claim.is_wide
        if claim.is_wide and wide > bounds.wide_routes:
            continue
        routes += 1
        if routes <= bounds.routes:
            yield claim
