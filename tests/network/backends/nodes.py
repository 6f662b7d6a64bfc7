"""Hosts that carry: a namespace, its kernel and a backend, in one process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Network

from pyroute2.netns import popns, pushns

from proxygen.network.backends.host_gw import HostGwBackend
from proxygen.network.backends.vxlan import VxlanBackend
from proxygen.network.config import HostGw, NetworkConfig, Vxlan, parse_config
from proxygen.network.fabric import Backend, Fabric, Member
from proxygen.network.kernel.netlink import Kernel
from proxygen.network.kernel.underlay import Wish
from tests.harness.hosts import Host, Namespace
from tests.network.backends.fabrics import host_id

HOST_GW = '{"Network": "10.99.0.0/16", "Backend": {"Type": "host-gw"}}'
VXLAN = '{"Network": "10.99.0.0/16", "Backend": {"Type": "vxlan"}}'
DIRECT = '{"Network": "10.99.0.0/16", "Backend": {"Type": "vxlan", "DirectRouting": true}}'


@contextlib.contextmanager
def inside(namespace: Namespace) -> Iterator[None]:
    """Be in a namespace for a while: a socket stays in the one in which it was opened."""
    pushns(namespace.name)
    try:
        yield
    finally:
        popns()


@dataclass(slots=True, kw_only=True)
class Node:
    """A host with its part in the network."""

    host: Host
    kernel: Kernel
    config: NetworkConfig
    backend: Backend
    member: Member

    async def renew(self) -> None:
        """Find the underlay and begin anew, as the agent does when the underlay is another."""
        fresh = await _prepared(self.host, self.kernel, self.config, self.member)
        self.backend, self.member = fresh.backend, fresh.member

    async def carry(self, *others: Member) -> tuple[str, ...]:
        ordered = tuple(sorted(others, key=lambda one: one.subnet))
        return await self.backend.carry(Fabric(config=self.config, own=self.member, others=ordered))


async def make_node(stack: contextlib.AsyncExitStack, host: Host, number: int, config: str) -> Node:
    """Prepare a host with 10.99.N.0/24; its link is eth0."""
    with inside(host):
        kernel = await stack.enter_async_context(Kernel())
        await kernel.events.open()
    parsed = parse_config(config)
    member = Member(
        host_id=host_id(number),
        node=host.label,
        subnet=IPv4Network(f"10.99.{number}.0/24"),
        public_ip=host.address,
        backend_type=parsed.backend.type,
    )
    return await _prepared(host, kernel, parsed, member)


async def _prepared(host: Host, kernel: Kernel, config: NetworkConfig, member: Member) -> Node:
    underlay = await kernel.find_underlay(Wish(interface=host.LINK))
    backend: Backend
    match config.backend:
        case HostGw():
            backend = HostGwBackend(kernel, underlay, node=host.label)
        case Vxlan() as chosen:
            backend = VxlanBackend(kernel, underlay, chosen, node=host.label, host_id=member.host_id)
        case other:
            raise AssertionError(f"{other} is not of the kernel's tables")
    attributes = await backend.prepare()
    assert attributes.public_ip is not None
    told = replace(member, public_ip=attributes.public_ip, backend_data=attributes.backend_data or {})
    return Node(host=host, kernel=kernel, config=config, backend=backend, member=told)
