"""A service's instances, judged one by one: their tags, their addresses, their weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from proxygen.catalog import Health, Instance
from proxygen.kit.errors import TagError
from proxygen.proxy.plan.bounds import check_tags, oldest_first, within
from proxygen.proxy.plan.endpoints import endpoint_of
from proxygen.proxy.plan.types import Endpoint, PlannedInstance, PlannedState, Policy
from proxygen.tags import ProxyTags, has_proxy_tags, parse_tags
from proxygen.tags.shares import STABLE


@dataclass(frozen=True, slots=True)
class JudgedInstance:
    """An instance with its tags, judged."""

    instance: Instance
    tags: ProxyTags
    endpoint: Endpoint | None
    weight: int

    @property
    def variant(self) -> str:
        """The name of its variant; without one it is stable."""
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
        """Instance, node and what of it, cut to a length that a log can bear."""
        return f"instance {self.instance.id!r:.80} on {self.instance.node!r:.80}: {self.error.place}"

    def __str__(self) -> str:
        return f"{self.place}: {self.error.reason}"


def asks(instance: Instance, prefix: str) -> bool:
    """Whether anything of an instance is meant for the proxy; of the others nothing is judged."""
    return has_proxy_tags(instance.tags, prefix) or any(key.startswith(f"{prefix}-") for key, _ in instance.meta)


_Said = tuple[tuple[str, ...], tuple[tuple[str, str], ...]]


def _said(instance: Instance, prefix: str) -> _Said:
    """What is meant for the proxy: instances differ in what they say to others."""
    tags = tuple(tag for tag in instance.tags if tag.startswith(f"{prefix}."))
    return tags, tuple((key, value) for key, value in instance.meta if key.startswith(f"{prefix}-"))


class _Reader:
    """Reads what instances of one service say. Most say the same, which is read once; of what differs, so much."""

    def __init__(self, policy: Policy) -> None:
        self._policy: Final = policy
        self._room = policy.bounds.service_tag_bytes
        self._known: Final[dict[_Said, ProxyTags | TagError]] = {}

    def read(self, instance: Instance) -> ProxyTags | TagError:
        said = _said(instance, self._policy.prefix)
        if said not in self._known:
            try:
                self._known[said] = self._parse(instance)
            except TagError as error:
                self._known[said] = error
        return self._known[said]

    def _parse(self, instance: Instance) -> ProxyTags:
        policy = self._policy
        size = check_tags(instance, policy.prefix, policy.bounds)
        if size > self._room:
            most = f"{policy.bounds.service_tag_bytes} bytes that a service may have (bounds.service_tag_bytes)"
            raise TagError("tags", f"with older instances' different ones they are more than the {most}")
        self._room -= size
        return parse_tags(instance.tags, instance.meta, policy.prefix)


def judge(instances: Sequence[Instance], policy: Policy) -> tuple[list[JudgedInstance], list[Unusable]]:
    """Return the instances that can be believed, and those that cannot."""
    members, unusable = [], []
    reader = _Reader(policy)
    judged = within(instances, policy.bounds)
    read = {instance.key: reader.read(instance) for instance in oldest_first(judged)}
    for instance in judged:
        tags = read[instance.key]
        try:
            if isinstance(tags, TagError):
                raise tags
            endpoint = endpoint_of(instance.address, instance.port, policy)
        except TagError as error:
            unusable.append(Unusable(instance, error))
            continue
        members.append(JudgedInstance(instance, tags, endpoint, _weight(instance, tags)))
    return members, unusable


def _weight(instance: Instance, tags: ProxyTags) -> int:
    match instance.health:
        case Health.CRITICAL | Health.MAINTENANCE:
            return 0
        case Health.WARNING:
            return tags.weight if tags.weight is not None else max(0, instance.weight_warning)
        case Health.PASSING:
            return tags.weight if tags.weight is not None else max(0, instance.weight_passing)


def addresses(members: Iterable[JudgedInstance]) -> Mapping[Endpoint, int]:
    """Where requests can go, with the weights. The same address on two agents is one server, and stays one until both
    are gone."""
    weights: dict[Endpoint, int] = {}
    for member in members:
        if member.endpoint is not None and member.weight > 0:
            weights[member.endpoint] = max(weights.get(member.endpoint, 0), member.weight)
    return weights


def report(member: JudgedInstance, registered: Unusable | None = None) -> PlannedInstance:
    """Say what becomes of an instance, for those who ask why; ``registered`` is what it states now, where that cannot
    be used and it has the tags of before."""
    return _planned(member.instance, _state(member), member.variant, member.weight, registered)


def report_left_out(one: Unusable) -> PlannedInstance:
    return _planned(one.instance, PlannedState.LEFT_OUT, STABLE, 0, one)


def _state(member: JudgedInstance) -> PlannedState:
    instance = member.instance
    if instance.health in (Health.CRITICAL, Health.MAINTENANCE):
        return PlannedState.UNHEALTHY
    if member.endpoint is None:
        return PlannedState.NO_PORT
    if member.weight == 0:
        return PlannedState.DRAINED
    return PlannedState.SERVING


def _planned(
    instance: Instance, state: PlannedState, variant: str, weight: int, unusable: Unusable | None
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
