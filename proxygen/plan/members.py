"""A service's instances, judged one by one: their tags, their addresses, their weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from proxygen.errors import TagError
from proxygen.model import Health, Instance
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


def judge(instances: Iterable[Instance], policy: Policy) -> tuple[list[Member], list[Unusable]]:
    """Return the instances that can be believed, and those that cannot."""
    members, unusable = [], []
    # Most instances of a service say the same.
    read: dict[tuple[object, object], ProxyTags] = {}
    for instance in instances:
        said = (instance.tags, instance.meta)
        try:
            tags = read.get(said) or parse_tags(*said, policy.prefix)
            read[said] = tags
            endpoint = _endpoint(instance, policy)
        except TagError as error:
            unusable.append(Unusable(instance, error))
            continue
        members.append(Member(instance, tags, endpoint, _weight(instance, tags)))
    return members, unusable


def _endpoint(instance: Instance, policy: Policy) -> Endpoint | None:
    """The address that nginx may connect to; None for an instance without a port."""
    if instance.port == 0:
        return None
    if not 0 < instance.port < 65536:
        raise TagError("port", f"{instance.port} is not from 1 to 65535")
    address: IPv4Address | IPv6Address
    try:
        address = ip_address(instance.address)
    except ValueError:
        raise TagError(
            "address",
            f"{instance.address[:80]!r} is not an IP address; register one (nginx would have to resolve a name, and one"
            " name that does not resolve rejects every service)",
        ) from None
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            raise TagError("address", f"{address} has a zone, which nginx cannot use")
        # ::ffff:169.254.169.254 reaches the IPv4 address, so it is judged as one.
        address = address.ipv4_mapped or address
    networks = [network for network in policy.allowed if network.version == address.version]
    if not any(address in network for network in networks) or any(
        address in network for network in policy.denied if network.version == address.version
    ):
        raise TagError(
            "address", f"{address} is outside the networks in which instances may live (proxy.allowed_addresses)"
        )
    endpoint = Endpoint.of(address, instance.port)
    is_own = address.is_loopback or address in policy.own_addresses
    if endpoint in policy.denied_endpoints or (is_own and instance.port in policy.wildcard_ports):
        raise TagError("address", f"{endpoint} belongs to the proxy's own host and may not be an instance")
    return endpoint


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
