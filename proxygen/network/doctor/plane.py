"""The data plane of this host, next to the one that its backend would make of the leases."""

from __future__ import annotations

from collections.abc import Mapping

from proxygen.network.backends import wireguard
from proxygen.network.backends.host_gw import plan_routes
from proxygen.network.backends.vxlan import VxlanBackend, plan_entries
from proxygen.network.config import HostGw, Vxlan, WireGuard
from proxygen.network.doctor.facts import PlaneFacts
from proxygen.network.fabric import Fabric, Member, Underlay
from proxygen.network.kernel.diff import Verb, steps_between
from proxygen.network.kernel.netlink import Kernel
from proxygen.network.kernel.state import Entry, Link, Route, state_of


async def read_plane(kernel: Kernel, fabric: Fabric, underlay: Underlay) -> PlaneFacts:
    """Compare, and change nothing. Raise NetworkError."""
    links = [link for link in await kernel.links() if link.is_ours]
    config = fabric.config.backend
    wanted: Mapping[Entry, Member] = {}
    problems: list[str] = []
    device: Link | None = None
    mtu = underlay.mtu
    match config:
        case HostGw():
            wanted, problems = plan_routes(fabric, underlay)
        case Vxlan():
            device = next((link for link in links if link.vxlan is not None and link.vxlan.vni == config.vni), None)
            mtu = VxlanBackend(kernel, underlay, config, node="", host_id=fabric.own.host_id).mtu
            if device is not None:
                wanted, problems = plan_entries(fabric, underlay, config, device)
        case WireGuard():
            device = next((link for link in links if link.name == wireguard.DEVICE), None)
            mtu = min(underlay.mtu, config.mtu or underlay.mtu) - wireguard.OVERHEAD
            if device is not None:
                peers, problems = wireguard.plan_peers(
                    fabric, underlay, config, own_key=_own_key(fabric), shared_key=""
                )
                wanted = {Route(destination=member.subnet, link=device.index): member for member in peers.values()}
        case _:
            # FRR, AWS or somebody else forwards: no route of ours is right.
            pass
    actual = await kernel.state(() if device is None else (device.index,))
    steps = steps_between(actual, state_of(wanted))
    needs = config.type if isinstance(config, Vxlan | WireGuard) else ""
    missing = [step for step in steps if step.verb is not Verb.REMOVE]
    unreached = [wanted[step.entry] for step in missing] if device is not None or not needs else fabric.others
    return PlaneFacts(
        needs=needs,
        device=device,
        mtu=mtu,
        problems=tuple(problems),
        missing=tuple(str(step.entry) for step in missing),
        unreached=frozenset(member.subnet for member in unreached),
        stale=(
            *(str(step.entry) for step in steps if step.verb is Verb.REMOVE),
            *(f"link {link.name}" for link in links if device is None or link.index != device.index),
        ),
    )


def _own_key(fabric: Fabric) -> str:
    return str(fabric.own.backend_data.get("PublicKey", ""))
