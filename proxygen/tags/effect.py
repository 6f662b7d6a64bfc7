"""What tags state and nothing comes of: it is taken, and a warning says so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from proxygen.tags.keys import NOT_WITH
from proxygen.tags.proxy import ProxyTags, states
from proxygen.tags.values import Protocol


def without_effect(options: ProxyTags, instances: Sequence[ProxyTags]) -> Iterator[str]:
    """Say what of a service's options, and of what its instances state by themselves, changes nothing."""
    protocol = options.protocol or Protocol.HTTP
    for key in NOT_WITH[protocol]:
        if any(states(tags, key) for tags in instances):
            yield f"{key.name} has no effect with protocol={protocol}: {key.why_not(protocol)}"
    yield from _beside_a_balance(options)
    yield from _beside_each_other(options)


def _beside_a_balance(options: ProxyTags) -> Iterator[str]:
    """Where nginx knows no backup, a server that rests could leave nobody to ask, so none does."""
    if options.balance is not None and not options.balance.by.may_back_up:
        for name, value in (("max-fails", options.max_fails), ("fail-timeout", options.fail_timeout)):
            if value:
                yield f"{name} has no effect with balance={options.balance}: nginx then never leaves an instance out"


def _beside_each_other(options: ProxyTags) -> Iterator[str]:
    for name, value, other in (
        ("retries-unsafe", options.retries_unsafe, "retries=0" if options.retries == 0 else ""),
        ("keepalive-timeout", options.keepalive_timeout, "keepalive=0" if options.keepalive == 0 else ""),
        ("fail-timeout", options.fail_timeout, "max-fails=0" if options.max_fails == 0 else ""),
    ):
        if value and other:
            yield f"{name} has no effect with {other}"
    if options.protocol in (Protocol.GRPC, Protocol.GRPCS) and options.timeout and options.idle_timeout:
        both = f"protocol={options.protocol} and idle-timeout"
        yield f"timeout has no effect with {both}: gRPC has one time-out for all its calls"
