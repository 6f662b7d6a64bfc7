"""A service's instances, judged one by one: their tags, their addresses, their weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from proxygen.errors import TagError
from proxygen.model import Health, Instance
from proxygen.plan.bounds import check_tags, within
from proxygen.plan.endpoints import endpoint_of
from proxygen.plan.types import Endpoint, InstanceState, PlannedInstance, Policy
from proxygen.shares import STABLE
from proxygen.tags import ProxyTags, has_proxy_tags, parse_tags


@dataclass(frozen=True, slots=True)
class Member:
    """An instance with its tags, judged."""

    instance: Instance
    tags: ProxyTags
    endpoint: Endpoint | None
    weight: int

    @property
    def variant(self) -> str:
        return self.tags.variant.name if self.tags.variant else STABLE


@dataclass(frozen=True, slots=True)
class Unusable:
    """An instance, and what of its registration cannot be used."""

    instance: Instance
    error: TagError
    tags: ProxyTags | None = None
    """What it states, where that makes no sense beside the others or with what the operator has; None: it cannot be
    used by itself."""

    @property
    def place(self) -> str:
        return f"instance {self.instance.id!r:.80} on {self.instance.node!r:.80}: {self.error.place}"

    def __str__(self) -> str:
        return f"{self.place}: {self.error.reason}"


def asks(instance: Instance, prefix: str) -> bool:
    """Whether anything of an instance is meant for the proxy; of the others nothing is judged."""
    return has_proxy_tags(instance.tags, prefix) or any(key.startswith(f"{prefix}-") for key, _ in instance.meta)


def _read(instance: Instance, policy: Policy) -> ProxyTags | TagError:
    try:
        check_tags(instance, policy.prefix, policy.bounds)
        return parse_tags(instance.tags, instance.meta, policy.prefix)
    except TagError as error:
        return error


def judge(instances: Sequence[Instance], policy: Policy) -> tuple[list[Member], list[Unusable]]:
    """Return the instances that can be believed, and those that cannot."""
    members, unusable = [], []
    # Most instances of a service say the same.
    known: dict[tuple[object, object], ProxyTags | TagError] = {}
    for instance in within(instances, policy.bounds):
        said = (instance.tags, instance.meta)
        if said not in known:
            known[said] = _read(instance, policy)
        tags = known[said]
        try:
            if isinstance(tags, TagError):
                raise tags
            endpoint = endpoint_of(instance.address, instance.port, policy)
        except TagError as error:
            unusable.append(Unusable(instance, error))
            continue
        members.append(Member(instance, tags, endpoint, _weight(instance, tags)))
    return members, unusable


def _weight(instance: Instance, tags: ProxyTags) -> int:
    match instance.health:
        case Health.CRITICAL | Health.MAINTENANCE:
            return 0
        case Health.WARNING:
            return tags.weight if tags.weight is not None else max(0, instance.weight_warning)
        case Health.PASSING:
            return tags.weight if tags.weight is not None else max(0, instance.weight_passing)


def addresses(members: Iterable[Member]) -> Mapping[Endpoint, int]:
    """Where requests can go, with the weights. The same address on two agents is one server, and stays one until both
    are gone."""
    weights: dict[Endpoint, int] = {}
    for member in members:
        if member.endpoint is not None and member.weight > 0:
            weights[member.endpoint] = max(weights.get(member.endpoint, 0), member.weight)
    return weights


def report(member: Member, registered: Unusable | None = None) -> PlannedInstance:
    """Say what becomes of an instance, for those who ask why; ``registered`` is what it states now, where that cannot
    be used and it has the tags of before."""
    return _planned(member.instance, _state(member), member.variant, member.weight, registered)


def report_left_out(one: Unusable) -> PlannedInstance:
    return _planned(one.instance, InstanceState.LEFT_OUT, STABLE, 0, one)


def _state(member: Member) -> InstanceState:
    instance = member.instance
    if instance.health in (Health.CRITICAL, Health.MAINTENANCE):
        return InstanceState.UNHEALTHY
    if member.endpoint is None:
        return InstanceState.NO_PORT
    if member.weight == 0:
        return InstanceState.DRAINED
    return InstanceState.SERVING


def _planned(
    instance: Instance, state: InstanceState, variant: str, weight: int, unusable: Unusable | None
) -> PlannedInstance:
    return PlannedInstance(
        node=instance.node,
        id=instance.id,
        datacenter=instance.datacenter,
        address=instance.address,
        port=instance.port,
        variant=variant,
        weight=weight,
        health=instance.health,
        state=state,
        unchecked=instance.unchecked,
        problem="" if unusable is None else f"{unusable.error.place}: {unusable.error.reason}",
    )
