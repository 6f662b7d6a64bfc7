"""The kernel's backends on hosts in namespaces: real links, real routes, real packets."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from proxygen.kit.errors import NetworkError
from proxygen.network.backends.wireguard import DEVICE, WireGuardBackend
from proxygen.network.config import WireGuard
from proxygen.network.kernel.netlink import Kernel
from proxygen.network.kernel.state import PROTOCOL
from proxygen.network.kernel.underlay import UnderlayWish
from tests.harness import process
from tests.harness.hosts import Container, Host, Lab
from tests.network.backends.fabrics import member, vtep
from tests.network.backends.nodes import (
    CARRIER,
    DIRECT,
    HOST_GW,
    PATIENCE,
    VXLAN,
    make_network,
    make_node,
    seen,
    start_containers,
    write_job,
)


@pytest.mark.parametrize(("config", "mtu"), [(HOST_GW, 1500), (VXLAN, 1450), (DIRECT, 1450)], ids=["gw", "vx", "dr"])
async def test_containers_of_three_hosts_reach_each_other(
    lab: Lab, stack: contextlib.AsyncExitStack, config: str, mtu: int
) -> None:
    """By ping and by TCP; the largest packet passes whole, and one byte more does not."""
    nodes = await make_network(stack, lab.hosts(3), config)
    assert [node.backend.mtu for node in nodes] == [mtu] * 3
    containers = start_containers(nodes)
    for one in containers:
        for other in containers:
            if one is not other:
                one.until_pings(other.address)
                assert one.ping(other.address, size=mtu)
                assert not one.ping(other.address, size=mtu + 1)
                # From the host itself too: health checks and proxies come from there.
                one.host.until_pings(other.address)
    fetch(containers[0], containers[2])


def fetch(client: Container, server: Container) -> None:
    """Move half a megabyte from one container to another."""
    file = server.directory / "file"
    file.write_bytes(b"x" * 500_000)
    serving = [sys.executable, "-m", "http.server", "--bind", str(server.address), "--directory", str(file.parent)]
    server.start(*serving, "8000")
    program = (
        f"import urllib.request as u; print(len(u.urlopen('http://{server.address}:8000/file', timeout=10).read()))"
    )
    process.wait_until(
        lambda: client.succeeds(sys.executable, "-c", program), what="half a megabyte by TCP", timeout=PATIENCE
    )
    assert client.run(sys.executable, "-c", program).strip() == "500000"


async def test_vxlan_crosses_routers_and_direct_routing_spares_neighbours_the_overlay(
    lab: Lab, stack: contextlib.AsyncExitStack
) -> None:
    """Two hosts on one Ethernet, one behind a router; host-gw says of the same that it cannot be."""
    here, there = lab.segment(), lab.segment()
    lab.join(here, there)
    hosts = [*lab.hosts(2, segment=here), lab.host(segment=there)]
    nodes = await make_network(stack, hosts, DIRECT)
    containers = start_containers(nodes)
    ways = {route["dst"]: route["dev"] for route in hosts[0].routes("proto", str(PROTOCOL))}
    assert ways == {"10.99.2.0/24": "eth0", "10.99.3.0/24": "pxvx1"}
    for one in containers:
        for other in containers:
            one.until_pings(other.address)
    assert containers[0].ping(containers[2].address, size=1450)
    assert not containers[0].ping(containers[2].address, size=1451)

    plain = await make_node(stack, lab.host(segment=here), 4, HOST_GW)
    (problem,) = await plain.carry(nodes[1].member, nodes[2].member)
    assert "10.99.3.0/24 of host" in problem
    assert "is not on eth0's network" in problem
    assert [route["dst"] for route in plain.host.routes("proto", str(PROTOCOL))] == ["10.99.2.0/24"]


async def test_an_mtu_that_is_set_is_of_the_outer_packet(lab: Lab, stack: contextlib.AsyncExitStack) -> None:
    """As flannel means it; more than the underlay carries is not used, and that is told."""
    small, large = lab.hosts(2)
    node = await make_node(stack, small, 1, VXLAN.replace('"vxlan"', '"vxlan", "MTU": 1400'))
    assert await node.carry() == ()
    assert node.backend.mtu == seen(small)["links"]["pxvx1"][0] == 1350
    node = await make_node(stack, large, 2, VXLAN.replace('"vxlan"', '"vxlan", "MTU": 9000'))
    (problem,) = await node.carry()
    assert "MTU 9000 is more than eth0 carries" in problem
    assert node.backend.mtu == seen(large)["links"]["pxvx1"][0] == 1450


@pytest.mark.parametrize("options", ["", '"GBP": true', '"Learning": true', '"Port": 4789', '"VNI": 16777215'])
async def test_a_link_is_made_anew_for_another_config_and_only_then(
    lab: Lab, stack: contextlib.AsyncExitStack, options: str
) -> None:
    """What cannot be changed in place is compared as the kernel tells it: the same link is kept, of any kind."""
    one = lab.host()
    config = VXLAN.replace('"vxlan"', f'"vxlan", {options}') if options else VXLAN
    kept = [await make_node(stack, one, 1, config) for _ in range(2)]
    indexes = []
    for node in kept:
        assert await node.carry(member(2, data=vtep(2, vni=16777215 if "VNI" in options else 1))) == ()
        indexes += [link.index for link in await node.kernel.links() if link.is_ours]
    assert indexes[0] == indexes[1]
    other = await make_node(stack, one, 1, VXLAN.replace('"vxlan"', '"vxlan", "Port": 8473'))
    await other.carry()
    (link,) = [link for link in await other.kernel.links() if link.is_ours]
    assert link.index != indexes[0]
    assert link.vxlan is not None
    assert (link.vxlan.port, link.vxlan.gbp, link.vxlan.learning) == (8473, False, False)


# --- what the kernel is asked


async def test_the_underlay_is_found_by_name_by_address_and_by_the_default_route(
    lab: Lab, stack: contextlib.AsyncExitStack
) -> None:
    """On a real host: with a bridge for containers, and our own link, which are never it."""
    segment, other = lab.segment(), lab.segment()
    one = lab.host(segment=segment)
    other.plug(one, "eth1", other.next_address())
    node = await make_node(stack, one, 1, VXLAN)
    await node.carry()
    one.attach_bridge(node.member.subnet)
    kernel = node.kernel
    by_name = await kernel.find_underlay(UnderlayWish(interface="eth0"))
    assert (by_name.link, str(by_name.address), by_name.mtu) == ("eth0", "192.0.2.1/24", 1500)
    assert await kernel.find_underlay(UnderlayWish(address=by_name.address.ip)) == by_name
    with pytest.raises(NetworkError, match="no default route"):
        await kernel.find_underlay(UnderlayWish())
    one.ip("route", "add", "default", "via", "192.0.2.254", "metric", "100")
    assert await kernel.find_underlay(UnderlayWish()) == by_name
    one.ip("route", "add", "default", "nexthop", "via", "198.51.100.9", "nexthop", "via", "192.0.2.254")
    assert (await kernel.find_underlay(UnderlayWish())).link == "eth1"
    networks = {(str(one.network), one.link) for one in await kernel.reached()}
    assert networks == {("192.0.2.0/24", "eth0"), ("198.51.100.0/24", "eth1"), ("10.99.1.0/24", "docker0")}


# --- WireGuard


WIREGUARD: Final = '{"Network": "10.99.0.0/16", "Backend": {"Type": "wireguard"}}'


def has_wireguard(host: Host) -> bool:
    return host.succeeds("ip", "link", "add", "probe", "type", "wireguard")


async def test_a_kernel_without_wireguard_is_told(lab: Lab, stack: contextlib.AsyncExitStack, tmp_path: Path) -> None:
    """With what to do about it; nothing is left behind."""
    one = lab.host()
    if has_wireguard(one):
        pytest.skip("this kernel has WireGuard")
    with one.entered():
        kernel = await stack.enter_async_context(Kernel())
    underlay = await kernel.find_underlay(UnderlayWish(interface="eth0"))
    backend = WireGuardBackend(kernel, underlay, WireGuard(), node="one", key_file=tmp_path / "key")
    with pytest.raises(NetworkError, match=f"{DEVICE} cannot be made: .*does this kernel have WireGuard"):
        await backend.prepare()
    assert DEVICE not in one.ip("link", "show")


def test_wireguard_carries_packets(lab: Lab) -> None:
    """Between containers of two hosts, and the largest of them whole."""
    if not has_wireguard(lab.host()):
        pytest.skip("this kernel has no WireGuard: its link cannot be made")
    hosts = lab.hosts(2)
    data = {number: carry_once(host, number, []) for number, host in enumerate(hosts, 1)}
    for number, host in enumerate(hosts, 1):
        other = 3 - number
        carry_once(host, number, [[[other, str(hosts[other - 1].address), data[other]]]])
        host.attach_bridge(f"10.99.{number}.0/24", mtu=1420)
    containers = [host.container() for host in hosts]
    containers[0].until_pings(containers[1].address)
    assert containers[0].ping(containers[1].address, size=1420)
    assert not containers[0].ping(containers[1].address, size=1421)


def carry_once(host: Host, number: int, rounds: list[Any]) -> dict[str, Any]:
    """Return what the host publishes."""
    job = write_job(host, WIREGUARD, number, rounds)
    told: dict[str, Any] = json.loads(host.run(sys.executable, "-m", CARRIER, str(job)).splitlines()[0])
    return told
