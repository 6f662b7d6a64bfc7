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


def asks(instance: Instance, prefix: str) -> bool:
    """Whether anything of an instance is meant for the proxy; of the others nothing is judged."""
    return has_proxy_tags(instance.tags, prefix) or any(key.startswith(f"{prefix}-") for key, _ in instance.meta)


def _read(instance: Instance, policy: Policy) -> ProxyTags | TagError:
    try:
        check_tags(instance, policy.prefix, policy.bounds)
        return parse_tags(instance.tags, instance.meta, policy.prefix)
    except TagError as error:
        return error


def judge(instances: Sequence[Instance], policy: Policy) -> tuple[list[Member], list[TagError]]:
    """Return the instances that can be believed, and what is wrong with each of the others."""
    members, problems = [], []
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
            problems.append(
                TagError(f"instance {instance.id!r:.80} on {instance.node!r:.80}: {error.place}", error.reason)
            )
            continue
        members.append(Member(instance, tags, endpoint, _weight(instance, tags)))
    return members, problems


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


def report(member: Member) -> PlannedInstance:
    """Say what becomes of an instance, for those who ask why."""
    instance = member.instance
    if instance.health in (Health.CRITICAL, Health.MAINTENANCE):
        state = InstanceState.UNHEALTHY
    elif member.endpoint is None:
        state = InstanceState.NO_PORT
    elif member.weight == 0:
        state = InstanceState.DRAINED
    else:
        state = InstanceState.SERVING
    return PlannedInstance(
        node=instance.node,
        id=instance.id,
        datacenter=instance.datacenter,
        address=instance.address,
        port=instance.port,
        variant=member.variant,
        weight=member.weight,
        health=instance.health,
        state=state,
        unchecked=instance.unchecked,
    )
