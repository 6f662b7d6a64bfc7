"""The data plane of this host, next to the one that its backend would make of the leases."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from proxygen.network.backends.host_gw import plan_routes
from proxygen.network.backends.vxlan import VxlanBackend, plan_entries
from proxygen.network.config import HostGw, Vxlan, WireGuard
from proxygen.network.doctor.facts import PlaneFacts
from proxygen.network.fabric import Fabric, Underlay
from proxygen.network.kernel.diff import Step, Verb, steps_between
from proxygen.network.kernel.netlink import Kernel
from proxygen.network.kernel.state import Entry, Link, state_of


async def read_plane(kernel: Kernel, fabric: Fabric, underlay: Underlay) -> PlaneFacts:
    """Compare, and change nothing. Raise NetworkError."""
    links = [link for link in await kernel.links() if link.is_ours]
    config = fabric.config.backend
    wanted: Iterable[Entry] = ()
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
            device = next((link for link in links if link.kind == "wireguard"), None)
            mtu = (config.mtu or underlay.mtu) - _OF_WIREGUARD
        case _:
            # FRR, AWS or somebody else forwards: no route of ours is right.
            pass
    actual = await kernel.state(() if device is None else (device.index,))
    steps = () if isinstance(config, WireGuard) else steps_between(actual, state_of(wanted))
    return PlaneFacts(
        needs=config.type if isinstance(config, Vxlan | WireGuard) else "",
        device=device,
        mtu=mtu,
        problems=tuple(problems),
        missing=tuple(_shown(step) for step in steps if step.verb is not Verb.REMOVE),
        stale=(
            *(_shown(step) for step in steps if step.verb is Verb.REMOVE),
            *(f"link {link.name}" for link in links if device is None or link.index != device.index),
        ),
    )


def _shown(step: Step) -> str:
    return str(step.entry)


_OF_WIREGUARD: Final = 80
"""Bytes that WireGuard adds, over IPv6 at most (wireguard.com)."""
