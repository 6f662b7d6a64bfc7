"""What one instance, and one service, may cost all others: judged by counting, before anything is parsed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from proxygen.catalog import Instance
from proxygen.kit.errors import TagError


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The most of each; the operator's ``[bounds]``."""

    instances: int = 1_000
    tags: int = 256
    tag_bytes: int = 65_536
    service_tag_bytes: int = 262_144
    routes: int = 100
    wide_routes: int = 20
    """Routes of any host or a wildcard stand in every virtual server that they cover."""
    copies: int = 500
    all_copies: int = 600
    force_rules: int = 20
    variants: int = 16
    ports: int = 20
    all_ports: int = 256
    hash_bytes: int = 160


def within(instances: Sequence[Instance], bounds: Bounds) -> Sequence[Instance]:
    """Return the instances that are looked at: all of them, or the oldest registrations, in the order given."""
    if len(instances) <= bounds.instances:
        return instances
    kept = {instance.key for instance in oldest_first(instances)[: bounds.instances]}
    return [instance for instance in instances if instance.key in kept]


def oldest_first(instances: Iterable[Instance]) -> list[Instance]:
    return sorted(instances, key=lambda instance: (instance.create_index, instance.key))


def left_over(instances: Sequence[Instance], bounds: Bounds) -> Iterator[str]:
    """Say how many instances are not looked at."""
    more = len(instances) - bounds.instances
    if more > 0:
        yield f"{more} instances are left out, the newest: a service may have {bounds.instances} (bounds.instances)"


def check_tags(instance: Instance, prefix: str, bounds: Bounds) -> int:
    """Return the bytes that an instance says to the proxy; what it says to others costs nothing.

    Raise TagError where it says more than it may.
    """
    said = list(islice(texts_of(instance, prefix), bounds.tags + 1))
    if len(said) > bounds.tags:
        raise TagError(
            "tags", f"there are more than the {bounds.tags} proxy tags that an instance may have (bounds.tags)"
        )
    size = sum(len(text.encode(errors="surrogatepass")) for text in said)
    if size > bounds.tag_bytes:
        most = f"{bounds.tag_bytes} bytes of proxy tags that an instance may have (bounds.tag_bytes)"
        raise TagError("tags", f"{size} bytes are more than the {most}")
    return size


def texts_of(instance: Instance, prefix: str) -> Iterator[str]:
    """Yield what of an instance is meant for the proxy: tags, and Meta with its keys."""
    yield from (tag for tag in instance.tags if tag.startswith(f"{prefix}."))
    yield from (f"{key}={value}" for key, value in instance.meta if key.startswith(f"{prefix}-"))
