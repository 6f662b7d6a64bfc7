"""Hosts that carry: a namespace, its kernel and a backend, in one process."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass, replace
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, Final

from proxygen.network.backends.host_gw import HostGwBackend
from proxygen.network.backends.vxlan import VxlanBackend
from proxygen.network.config import HostGw, NetworkConfig, Vxlan, parse_config
from proxygen.network.fabric import Backend, Fabric, Member
from proxygen.network.kernel.netlink import Kernel
from proxygen.network.kernel.state import PROTOCOL
from proxygen.network.kernel.underlay import UnderlayWish
from tests.harness.hosts import Container, Host
from tests.network.backends.fabrics import host_id

HOST_GW = '{"Network": "10.99.0.0/16", "Backend": {"Type": "host-gw"}}'
VXLAN = '{"Network": "10.99.0.0/16", "Backend": {"Type": "vxlan"}}'
DIRECT = '{"Network": "10.99.0.0/16", "Backend": {"Type": "vxlan", "DirectRouting": true}}'
PATIENCE: Final = 180.0
"""Seconds for what takes milliseconds on a quiet machine."""


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
    with host.entered():
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
    underlay = await kernel.find_underlay(UnderlayWish(interface=host.LINK))
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


async def make_network(stack: contextlib.AsyncExitStack, hosts: list[Host], config: str) -> list[Node]:
    """Prepare hosts, and have each carry to all others."""
    nodes = [await make_node(stack, host, number, config) for number, host in enumerate(hosts, 1)]
    for node in nodes:
        assert await node.carry(*others_of(node, nodes)) == ()
    return nodes


def others_of(node: Node, nodes: list[Node]) -> list[Member]:
    return [other.member for other in nodes if other is not node]


def start_containers(nodes: list[Node]) -> list[Container]:
    for node in nodes:
        node.host.attach_bridge(node.member.subnet, mtu=node.backend.mtu)
    return [node.host.container() for node in nodes]


def seen(host: Host) -> dict[str, Any]:
    """Return all that a host has of ours, as iproute2 tells it, without what changes by itself."""
    links = json.loads(host.ip("-json", "-details", "link", "show"))
    own = [link for link in links if link.get("group") == str(PROTOCOL)]
    names = {link["ifname"]: link for link in own}
    return {
        "routes": host.ip("route", "show", "table", "all", "proto", PROTOCOL),
        "links": {name: (link["mtu"], link["address"], "UP" in link["flags"]) for name, link in names.items()},
        "neighbours": {name: sorted(host.ip("neigh", "show", "dev", name).splitlines()) for name in names},
        "forwards": {name: sorted(host.run("bridge", "fdb", "show", "dev", name).splitlines()) for name in names},
        "addresses": {name: host.ip("-brief", "-4", "address", "show", "dev", name).split()[2:] for name in names},
    }


def foreign(host: Host) -> list[str]:
    """Return the routes of everybody else."""
    lines = host.ip("route", "show", "table", "all").splitlines()
    return [line.strip() for line in lines if f"proto {PROTOCOL}" not in line]


async def stirs(node: Node) -> None:
    """Wait until the backend notices that something happened."""
    with node.host.entered():
        await asyncio.wait_for(node.backend.stirred(), PATIENCE)


async def comes_to_rest(node: Node, *others: Member) -> None:
    """Carry until nothing stirs any more: what a pass does itself is no reason for more than one other."""
    for _ in range(10):
        await node.carry(*others)
        try:
            with node.host.entered():
                await asyncio.wait_for(node.backend.stirred(), 0.3)
        except TimeoutError:
            return
    raise AssertionError("each pass stirs what the next one looks for")


def add_foreign(host: Host) -> None:
    """Routes of an operator, of daemons, and of nobody in particular; some inside of the containers' network."""
    host.ip("route", "add", "10.99.2.0/24", "via", "192.0.2.99", "proto", "static")
    host.ip("route", "add", "10.99.3.0/24", "via", "192.0.2.99", "metric", "50", "proto", "186")
    host.ip("route", "add", "10.99.200.0/24", "via", "192.0.2.99")
    host.ip("route", "add", "10.99.201.0/24", "via", "192.0.2.99", "proto", "188")
    host.ip("route", "add", "blackhole", "10.99.0.0/16", "proto", "zebra")
    host.ip("route", "add", "default", "via", "192.0.2.254", "proto", "dhcp")
    host.ip("route", "add", "10.98.0.0/16", "via", "192.0.2.99", "table", "77")
    host.ip("neigh", "replace", "192.0.2.99", "lladdr", "02:00:00:00:00:99", "dev", "eth0", "nud", "permanent")


CARRIER: Final = "tests.network.backends.carrier"


def write_job(host: Host, config: str, number: int, rounds: list[Any], **options: object) -> Path:
    job = host.directory / "job.json"
    key = str(host.directory / "wireguard.key")
    job.write_text(json.dumps({"config": config, "number": number, "key": key, "rounds": rounds, **options}))
    return job
