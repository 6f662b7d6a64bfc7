"""What stands behind a service's local instances: those of another datacenter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from proxygen.catalog import Instance
from proxygen.proxy.plan.members import JudgedInstance, Unusable, addresses, judge, report
from proxygen.proxy.plan.types import Endpoint, PlannedInstance, PlannedState, Policy
from proxygen.tags import Datacenter
from proxygen.tags.shares import STABLE


@dataclass(frozen=True, slots=True, kw_only=True)
class Standby:
    """The stable instances of the first datacenter that has some which can serve; empty where none has."""

    members: tuple[JudgedInstance, ...] = ()
    servers: Mapping[Endpoint, int] = field(default_factory=lambda: MappingProxyType({}))
    """Those that can take requests, with their weights."""
    serves: bool = False
    """They are the servers themselves, because nothing local can serve."""

    @property
    def behind(self) -> Mapping[Endpoint, int]:
        """The servers that are to be nginx's ``backup``."""
        return {} if self.serves else self.servers

    def in_service(self) -> Standby:
        return replace(self, serves=True)

    def reports(self) -> tuple[PlannedInstance, ...]:
        """Say what becomes of each of them."""
        return tuple(self._report(member) for member in self.members)

    def _report(self, member: JudgedInstance) -> PlannedInstance:
        planned = report(member)
        stands_by = planned.state is PlannedState.SERVING and not self.serves
        return replace(planned, state=PlannedState.STANDBY) if stands_by else planned


def find_standby(
    named: Sequence[Datacenter],
    local: Sequence[JudgedInstance],
    elsewhere: Mapping[str, Sequence[Instance]],
    policy: Policy,
) -> tuple[Standby, list[str]]:
    """Return what stands behind the local instances, and what an operator should know about the datacenters named.

    An instance elsewhere that cannot be used is left out by itself: it must not harm the local service. So is one
    whose address is registered here too.
    """
    here = {member.instance.datacenter for member in local}
    registered_here = {member.endpoint for member in local}
    standby, warnings = Standby(), []
    for datacenter in named:
        if datacenter in here:
            warnings.append(f"failover names {datacenter}, which is the local datacenter; it is passed over")
            continue
        if datacenter not in elsewhere:
            warnings.append(f"failover names {datacenter}, and nothing is known yet of this service there")
            continue
        members, unusable = judge(elsewhere[datacenter], policy)
        warnings += _left_out(datacenter, unusable)
        if not standby.servers:
            found = tuple(one for one in members if one.variant == STABLE and one.endpoint not in registered_here)
            standby = Standby(members=found, servers=addresses(found))
    return standby if standby.servers else Standby(), warnings


def _left_out(datacenter: Datacenter, unusable: Sequence[Unusable]) -> Iterator[str]:
    """One line for each datacenter, however much is wrong there."""
    if unusable:
        more = f" (and {len(unusable) - 1} more)" if len(unusable) > 1 else ""
        yield f"failover leaves out of {datacenter}: {unusable[0]}{more}"
