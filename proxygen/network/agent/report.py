"""The agent's status, put together from its parts."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

from proxygen import __version__
from proxygen.network.agent.handover import Handover
from proxygen.network.agent.plane import DataPlane
from proxygen.network.agent.status import AgentStatus, HostState, MemberStatus
from proxygen.network.choice import Standing
from proxygen.network.config import NetworkConfig
from proxygen.network.fabric import Fabric
from proxygen.network.lease import SubnetLease
from proxygen.network.status import LeaseStatus
from proxygen.network.watch import FabricWatch


@dataclass(slots=True, kw_only=True)
class Parts:
    """What there is of an agent so far; it grows while the agent starts."""

    host_id: str
    node: str
    config: NetworkConfig | None = None
    plane: DataPlane | None = None
    lease: SubnetLease | None = None
    watch: FabricWatch | None = None
    handover: Handover | None = None


def report(parts: Parts, *, waits_for: str) -> AgentStatus:
    """Return what is so now."""
    lease = parts.lease.status if parts.lease is not None else None
    plane, fabric = parts.plane, parts.plane.fabrics.peek() if parts.plane is not None else None
    problems = tuple(dict.fromkeys(_problems(parts, lease, fabric)))
    answered = parts.watch.answered if parts.watch is not None else None
    underlay = plane.underlay if plane is not None else None
    standing = lease.standing if lease is not None else Standing.WAITING
    return AgentStatus(
        version=__version__,
        pid=os.getpid(),
        at=time.time(),
        state=_state(parts, standing, problems),
        host_id=parts.host_id,
        node=parts.node,
        standing=standing.value,
        reason=lease.reason if lease is not None else waits_for,
        network=str(parts.config.network) if parts.config is not None else "",
        subnet=str(lease.subnet) if lease is not None and lease.subnet is not None else "",
        backend=parts.config.backend.type if parts.config is not None else "",
        mtu=plane.mtu if plane is not None and underlay is not None else 0,
        interface=underlay.link if underlay is not None else "",
        public_ip=str(underlay.public_ip) if underlay is not None else "",
        consul_answered=None if answered is None else time.time() - (time.monotonic() - answered),
        members=_members(fabric),
        problems=problems,
        carried=plane.carried if plane is not None else None,
    )


def _state(parts: Parts, standing: Standing, problems: tuple[str, ...]) -> HostState:
    plane, handover = parts.plane, parts.handover
    if plane is None or plane.carried is None or handover is None or not handover.done:
        # A lease that another host has does not come by waiting.
        return HostState.DEGRADED if standing is Standing.CONFLICT else HostState.STARTING
    return HostState.DEGRADED if problems or standing is not Standing.HELD else HostState.READY


def _problems(parts: Parts, lease: LeaseStatus | None, fabric: Fabric | None) -> Iterator[str]:
    if lease is not None and lease.standing not in (Standing.HELD, Standing.WAITING):
        how = "in conflict" if lease.standing is Standing.CONFLICT else lease.standing.value
        yield f"the lease is {how}: {lease.reason}"
    if parts.watch is not None:
        if parts.watch.problem:
            yield parts.watch.problem
        if parts.watch.view is not None:
            # Leases that cannot be read are among the fabric's.
            yield from (problem for problem in parts.watch.view.problems if not problem.startswith("subnets/"))
    if parts.handover is not None and parts.handover.problem:
        yield parts.handover.problem
    if parts.plane is not None:
        if parts.plane.carried is not None and parts.plane.carried.error:
            yield parts.plane.carried.error
        yield from parts.plane.problems
    if fabric is not None:
        yield from fabric.problems


def _members(fabric: Fabric | None) -> tuple[MemberStatus, ...]:
    if fabric is None:
        return ()
    return tuple(
        MemberStatus(
            host_id=member.host_id,
            node=member.node,
            subnet=str(member.subnet),
            public_ip=str(member.public_ip),
            lives=member.lives,
        )
        for member in fabric.others
    )
