"""The data plane of this host, next to the one that its backend would make of the leases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from proxygen.network.backends import wireguard
from proxygen.network.backends.host_gw import plan_routes
from proxygen.network.backends.vxlan import VxlanBackend, plan_entries
from proxygen.network.config import FrrBgp, FrrOspf, HostGw, Vxlan, WireGuard
from proxygen.network.doctor.facts import FRR, PlaneFacts
from proxygen.network.fabric import Fabric, Member, Underlay
from proxygen.network.kernel.diff import KernelVerb, steps_between
from proxygen.network.kernel.netlink import Kernel
from proxygen.network.kernel.state import Entry, Link, Route, state_of


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What the backend would make."""

    mtu: int
    is_here: bool = True
    """False: others than the kernel's tables say where packets go."""
    needs: str = ""
    device: Link | None = None
    wanted: Mapping[Entry, Member] = field(default_factory=dict)
    problems: Sequence[str] = ()


async def read_plane(kernel: Kernel, fabric: Fabric, underlay: Underlay) -> PlaneFacts:
    """Compare, and change nothing. Raise NetworkError."""
    links = [link for link in await kernel.links() if link.is_ours]
    plan = _plan(kernel, fabric, underlay, links)
    actual = await kernel.state(() if plan.device is None else (plan.device.index,))
    steps = steps_between(actual, state_of(plan.wanted))
    missing = {str(step.entry): plan.wanted[step.entry] for step in steps if step.verb is not KernelVerb.REMOVE}
    if isinstance(fabric.config.backend, FrrBgp | FrrOspf):
        missing = await _missing_of_frr(kernel, fabric.others)
    carried = {member.subnet for member in (plan.wanted.values() if plan.is_here else fabric.others)}
    carried -= {member.subnet for member in missing.values()}
    return PlaneFacts(
        needs=plan.needs,
        device=plan.device,
        mtu=plan.mtu,
        problems=tuple(plan.problems),
        missing=tuple(missing),
        unreached=frozenset(member.subnet for member in fabric.others if member.subnet not in carried),
        stale=(
            *(str(step.entry) for step in steps if step.verb is KernelVerb.REMOVE),
            *(f"link {link.name}" for link in links if plan.device is None or link.index != plan.device.index),
        ),
    )


def _plan(kernel: Kernel, fabric: Fabric, underlay: Underlay, links: Iterable[Link]) -> _Plan:
    match fabric.config.backend:
        case HostGw():
            wanted, problems = plan_routes(fabric, underlay)
            return _Plan(mtu=underlay.mtu, wanted=wanted, problems=problems)
        case Vxlan() as vxlan:
            mtu = VxlanBackend(kernel, underlay, vxlan, node="", host_id=fabric.own.host_id).mtu
            device = next((link for link in links if link.vxlan is not None and link.vxlan.vni == vxlan.vni), None)
            if device is None:
                return _Plan(mtu=mtu, needs=vxlan.type)
            wanted, problems = plan_entries(fabric, underlay, vxlan, device)
            return _Plan(mtu=mtu, needs=vxlan.type, device=device, wanted=wanted, problems=problems)
        case WireGuard() as config:
            return _plan_wireguard(config, fabric, underlay, links)
        case _:
            # FRR, AWS or somebody else forwards: no route of ours is right.
            return _Plan(mtu=underlay.mtu, is_here=False)


def _plan_wireguard(config: WireGuard, fabric: Fabric, underlay: Underlay, links: Iterable[Link]) -> _Plan:
    mtu = min(underlay.mtu, config.mtu or underlay.mtu) - wireguard.OVERHEAD
    device = next((link for link in links if link.name == wireguard.DEVICE), None)
    if device is None:
        return _Plan(mtu=mtu, needs=config.type)
    own_key = str(fabric.own.backend_data.get("PublicKey", ""))
    peers, problems = wireguard.plan_peers(fabric, underlay, config, own_key=own_key, shared_key="")
    wanted: dict[Entry, Member] = {
        Route(destination=member.subnet, link=device.index): member for member in peers.values()
    }
    return _Plan(mtu=mtu, needs=config.type, device=device, wanted=wanted, problems=problems)


async def _missing_of_frr(kernel: Kernel, members: Iterable[Member]) -> dict[str, Member]:
    """Return the routes that FRR has not made. To a host that is down it has none, and rightly so."""
    made = {route.network for route in await kernel.reached() if route.protocol in FRR}
    return {
        f"route {member.subnet} of FRR to {member.node or member.public_ip}": member
        for member in members
        if member.lives and member.subnet not in made
    }
