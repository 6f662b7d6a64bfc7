"""The kernel's backends on hosts in namespaces: real links, real routes, real packets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest

from proxygen.errors import NetworkError
from proxygen.network.backends.on_kernel import clear
from proxygen.network.backends.wireguard import DEVICE, WireGuardBackend
from proxygen.network.config import WireGuard
from proxygen.network.fabric import Member
from proxygen.network.kernel.events import Subject
from proxygen.network.kernel.netlink import Kernel
from proxygen.network.kernel.state import PROTOCOL
from proxygen.network.kernel.underlay import Wish
from tests.harness import process
from tests.harness.hosts import Container, Host, Lab
from tests.network.backends.fabrics import member, vtep
from tests.network.backends.nodes import DIRECT, HOST_GW, VXLAN, Node, inside, make_node

PATIENCE: Final = 60.0
"""Seconds for what takes milliseconds on a quiet machine."""


@pytest.fixture
async def stack() -> AsyncIterator[contextlib.AsyncExitStack]:
    async with contextlib.AsyncExitStack() as stack:
        yield stack


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
    with inside(node.host):
        await asyncio.wait_for(node.backend.stirred(), PATIENCE)


async def comes_to_rest(node: Node, *others: Member) -> None:
    """Carry until nothing stirs any more: what a pass does itself is no reason for more than one other."""
    for _ in range(10):
        await node.carry(*others)
        try:
            with inside(node.host):
                await asyncio.wait_for(node.backend.stirred(), 0.3)
        except TimeoutError:
            return
    raise AssertionError("each pass stirs what the next one looks for")


# --- packets


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


# --- what others do to it


def set_link_down_and_up(host: Host) -> None:
    host.ip("link", "set", "pxvx1", "down")
    host.ip("link", "set", "pxvx1", "up")


def leave_link_down(host: Host) -> None:
    host.ip("link", "set", "pxvx1", "down")


def remove_link(host: Host) -> None:
    host.ip("link", "delete", "pxvx1")


def change_mac(host: Host) -> None:
    host.ip("link", "set", "pxvx1", "address", "02:00:00:00:00:77")


def change_mtu(host: Host) -> None:
    host.ip("link", "set", "pxvx1", "mtu", "1400")


def change_address(host: Host) -> None:
    host.ip("address", "flush", "dev", "pxvx1")
    host.ip("address", "add", "10.99.77.1/24", "dev", "pxvx1")


def flush_overlay(host: Host) -> None:
    host.ip("route", "flush", "dev", "pxvx1")


def flush_ours(host: Host) -> None:
    host.ip("route", "flush", "proto", PROTOCOL)


def replace_route(host: Host) -> None:
    host.ip("route", "change", "10.99.2.0/24", "via", "192.0.2.3", "proto", PROTOCOL)


def add_our_own_kind(host: Host) -> None:
    host.ip("route", "add", "10.99.50.0/24", "via", "192.0.2.3", "proto", PROTOCOL)
    host.ip("route", "add", "blackhole", "10.99.51.0/24", "proto", PROTOCOL, "metric", "7")
    host.ip("route", "add", "10.99.52.0/24", "via", "192.0.2.3", "table", "100", "proto", PROTOCOL)
    host.ip("route", "delete", "10.99.2.0/24", "proto", PROTOCOL)


def flush_neighbours(host: Host) -> None:
    host.ip("neigh", "flush", "dev", "pxvx1", "nud", "permanent")


def change_neighbour(host: Host) -> None:
    host.ip("neigh", "replace", "10.99.2.0", "lladdr", "02:00:00:00:00:77", "dev", "pxvx1", "nud", "reachable")


def remove_forwarding(host: Host) -> None:
    mac = re.findall(r"^(\S+) dst 192.0.2.2", host.run("bridge", "fdb", "show", "dev", "pxvx1"), re.MULTILINE)[0]
    host.run("bridge", "fdb", "delete", mac, "dev", "pxvx1", "dst", "192.0.2.2")


def bounce_underlay(host: Host) -> None:
    host.bounce()


ON_VXLAN = [
    set_link_down_and_up,
    leave_link_down,
    remove_link,
    change_mac,
    change_mtu,
    change_address,
    flush_overlay,
    flush_ours,
    flush_neighbours,
    change_neighbour,
    remove_forwarding,
]


@pytest.mark.parametrize(
    ("config", "harm"),
    [
        *((VXLAN, harm) for harm in ON_VXLAN),
        *((HOST_GW, harm) for harm in (bounce_underlay, flush_ours, add_our_own_kind)),
        (DIRECT, bounce_underlay),
    ],
    ids=lambda part: part.__name__ if callable(part) else "",
)
async def test_what_others_undo_is_noticed_and_mended(
    lab: Lab, stack: contextlib.AsyncExitStack, config: str, harm: Callable[[Host], None]
) -> None:
    """By the next pass: all is as it was, to the letter."""
    one, two, three = lab.hosts(3)
    node = await make_node(stack, one, 1, config)
    others = [(await make_node(stack, host, number, config)).member for number, host in ((2, two), (3, three))]
    await comes_to_rest(node, *others)
    before = seen(one)
    assert len(before["routes"].splitlines()) == 2
    harm(one)
    assert seen(one) != before or harm in (set_link_down_and_up, bounce_underlay)
    await stirs(node)
    assert await node.carry(*others) == ()
    assert seen(one) == before


async def test_a_pass_with_nothing_to_do_does_nothing(lab: Lab, stack: contextlib.AsyncExitStack) -> None:
    """Not a single change in the kernel: otherwise each pass would be the reason for the next."""
    nodes = await make_network(stack, lab.hosts(3), VXLAN)
    node = nodes[0]
    kernel = node.kernel
    await comes_to_rest(node, *others_of(node, nodes))
    await node.carry(*others_of(node, nodes))
    # The kernel tells things in their order: what comes after the mark would have been told before it.
    node.host.ip("route", "add", "blackhole", "203.0.113.9", "proto", "static")
    told = []
    while not any(event.subject is Subject.ROUTE and event.protocol == 4 for event in told):
        told += await asyncio.wait_for(kernel.events.next(), PATIENCE)
    pxvx = next(link.index for link in await kernel.links() if link.is_ours)
    # A link's own state is told a moment late.
    told = [event for event in told if event.subject is not Subject.LINK]
    assert [event for event in told if event.link == pxvx or event.protocol == PROTOCOL] == []


async def test_a_host_that_changes_its_address_goes_on(lab: Lab, stack: contextlib.AsyncExitStack) -> None:
    """The link is made anew around the new address, with the same MAC; containers notice a moment without packets."""
    nodes = await make_network(stack, lab.hosts(2), VXLAN)
    containers = start_containers(nodes)
    one, two = nodes
    former = one.member
    one.host.ip("address", "flush", "dev", one.host.LINK)
    await stirs(one)
    with pytest.raises(NetworkError, match="eth0 has no IPv4 address"):
        await one.renew()
    one.host.ip("address", "add", "192.0.2.77/24", "dev", one.host.LINK)
    await stirs(one)
    await one.renew()
    assert str(one.member.public_ip) == "192.0.2.77"
    assert one.member.backend_data == former.backend_data
    for node in nodes:
        assert await node.carry(*others_of(node, nodes)) == ()
    containers[0].until_pings(containers[1].address)
    containers[1].until_pings(containers[0].address)
    assert former.public_ip.exploded not in str(seen(two.host))


async def test_an_underlay_that_is_taken_out_and_put_in_again_is_found(
    lab: Lab, stack: contextlib.AsyncExitStack
) -> None:
    """With another index. The link on it went with it, and so did all routes."""
    nodes = await make_network(stack, lab.hosts(2), VXLAN)
    one = nodes[0]
    before = seen(one.host)
    one.host.ip("link", "delete", one.host.LINK)
    await stirs(one)
    with pytest.raises(NetworkError, match="no interface eth0"):
        await one.renew()
    assert seen(one.host)["links"] == {}
    one.host.ip("link", "add", one.host.LINK, "type", "veth", "peer", "name", "nowhere")
    one.host.ip("address", "add", f"{one.host.address}/24", "dev", one.host.LINK)
    one.host.ip("link", "set", "nowhere", "up")
    one.host.ip("link", "set", one.host.LINK, "up")
    await stirs(one)
    await one.renew()
    assert await one.carry(*others_of(one, nodes)) == ()
    assert seen(one.host) == before


async def test_more_changes_than_can_be_told_count_as_one(lab: Lab, stack: contextlib.AsyncExitStack) -> None:
    """The kernel drops what is not read in time, and says so once: then everything is looked at."""
    nodes = await make_network(stack, lab.hosts(2), HOST_GW)
    one = nodes[0]
    lines = "".join(f"route add blackhole 10.{n // 250}.{n % 250}.0/24\n" for n in range(12_000))
    batch = one.host.directory / "batch"
    batch.write_text(lines)
    # Nothing of ours runs meanwhile: the call waits for the command.
    one.host.ip("-batch", str(batch))
    with inside(one.host):
        told = [event.subject for event in await asyncio.wait_for(until_lost(one.kernel), PATIENCE)]
    assert Subject.LOST in told
    flush_ours(one.host)
    await stirs(one)
    assert await one.carry(*others_of(one, nodes)) == ()


async def until_lost(kernel: Kernel) -> list[Any]:
    told: list[Any] = []
    while not any(event.subject is Subject.LOST for event in told):
        told += await kernel.events.next()
    return told


# --- what is not ours


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


@pytest.mark.parametrize("config", [HOST_GW, VXLAN, DIRECT], ids=["gw", "vx", "dr"])
async def test_routes_of_others_are_never_touched(lab: Lab, stack: contextlib.AsyncExitStack, config: str) -> None:
    """Not even one that stands where ours should: that is told with the member's name, and the rest is done."""
    one = lab.host()
    add_foreign(one)
    before = foreign(one)
    node = await make_node(stack, one, 1, config)
    others = [member(number, kind=node.member.backend_type) for number in (2, 3, 4)]
    for _ in range(2):
        (problem,) = await node.carry(*others)
        assert re.search(r"10\.99\.2\.0/24 of host 0+ \(host2\): add route .*somebody else's route", problem)
    ours = {route["dst"] for route in one.routes("proto", str(PROTOCOL))}
    assert ours == {"10.99.3.0/24", "10.99.4.0/24"}
    await node.carry(*others[2:])
    assert [line for line in foreign(one) if "pxvx1" not in line] == before
    await node.backend.withdraw()
    assert foreign(one) == before
    assert "192.0.2.99 dev eth0 lladdr 02:00:00:00:00:99 PERMANENT" in one.ip("neigh", "show", "nud", "permanent")


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [("flannel.1", ("dstport", "8472"), "flannel.1 has VNI 1 on port 8472"), ("pxvx1", ("dstport", "1"), "not ours")],
)
async def test_a_link_of_somebody_else_is_left_alone(
    lab: Lab, stack: contextlib.AsyncExitStack, name: str, options: tuple[str, ...], said: str
) -> None:
    """With the name of ours, or with its VNI: the way out is told, and what runs goes on."""
    one = lab.host()
    one.ip("link", "add", name, "type", "vxlan", "id", "1", "dev", "eth0", *options)
    before = one.ip("-details", "link", "show")
    with pytest.raises(NetworkError, match=said):
        await make_node(stack, one, 1, VXLAN)
    assert one.ip("-details", "link", "show") == before


@pytest.mark.parametrize(("first", "then"), [(VXLAN, HOST_GW), (HOST_GW, VXLAN), (VXLAN, DIRECT)])
async def test_what_a_former_run_left_is_cleared_away(
    lab: Lab, stack: contextlib.AsyncExitStack, first: str, then: str
) -> None:
    """Of hosts that left meanwhile, and of another backend: afterwards all is as on a fresh host."""
    one, fresh = lab.hosts(2)
    others = [member(number, ip=f"192.0.2.{number + 20}") for number in (2, 3)]
    former = await make_node(stack, one, 1, first)
    await former.carry(member(9), *others)
    later = await make_node(stack, one, 1, then)
    assert await later.carry(*others) == ()
    control = await make_node(stack, fresh, 1, then)
    await control.carry(*others)
    assert seen(one) == seen(fresh)


@pytest.mark.parametrize("config", [HOST_GW, VXLAN], ids=["gw", "vx"])
async def test_who_leaves_for_good_is_withdrawn_and_who_is_silent_stays(
    lab: Lab, stack: contextlib.AsyncExitStack, config: str
) -> None:
    """Only the end of a lease ends its routes; and `withdraw` leaves a host as it was."""
    one = lab.host()
    bare = foreign(one), one.ip("link", "show")
    node = await make_node(stack, one, 1, config)
    kind = node.member.backend_type
    await node.carry(member(2, kind=kind), member(3, kind=kind))
    await node.carry(member(2, kind=kind, lives=False))
    assert [route["dst"] for route in one.routes("proto", str(PROTOCOL))] == ["10.99.2.0/24"]
    assert "192.0.2.3" not in str(seen(one))
    await node.backend.withdraw()
    await node.backend.withdraw()
    assert (foreign(one), one.ip("link", "show")) == bare


async def test_clearing_a_host_on_which_there_never_was_anything(lab: Lab, stack: contextlib.AsyncExitStack) -> None:
    """Nothing to do is no error."""
    one = lab.host()
    before = foreign(one), one.ip("link", "show")
    with inside(one):
        kernel = await stack.enter_async_context(Kernel())
    await clear(kernel)
    assert (foreign(one), one.ip("link", "show")) == before


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
    by_name = await kernel.find_underlay(Wish(interface="eth0"))
    assert (by_name.link, str(by_name.address), by_name.mtu) == ("eth0", "192.0.2.1/24", 1500)
    assert await kernel.find_underlay(Wish(address=by_name.address.ip)) == by_name
    with pytest.raises(NetworkError, match="no default route"):
        await kernel.find_underlay(Wish())
    one.ip("route", "add", "default", "via", "192.0.2.254", "metric", "100")
    assert await kernel.find_underlay(Wish()) == by_name
    one.ip("route", "add", "default", "nexthop", "via", "198.51.100.9", "nexthop", "via", "192.0.2.254")
    assert (await kernel.find_underlay(Wish())).link == "eth1"
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
    with inside(one):
        kernel = await stack.enter_async_context(Kernel())
    underlay = await kernel.find_underlay(Wish(interface="eth0"))
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


# --- a sudden end


CARRIER: Final = "tests.network.backends.carrier"
CROWD: Final = range(10, 130)


def write_job(host: Host, config: str, number: int, rounds: list[Any], **options: object) -> Path:
    job = host.directory / "job.json"
    key = str(host.directory / "wireguard.key")
    job.write_text(json.dumps({"config": config, "number": number, "key": key, "rounds": rounds, **options}))
    return job


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.parametrize("config", [HOST_GW, VXLAN, DIRECT], ids=["gw", "vx", "dr"])
async def test_after_kill_9_at_any_moment_one_pass_is_enough(
    lab: Lab, stack: contextlib.AsyncExitStack, config: str
) -> None:
    """Then the kernel has what it should, to the letter, and what was not ours is as it was."""
    random = Random(config)
    one, control = lab.hosts(2)
    add_foreign(one)
    add_foreign(control)
    before = foreign(one)
    rounds = [
        [[number, f"192.0.2.{random.choice([number, 251])}", None] for number in random.sample(CROWD, 60)]
        for _ in range(20)
    ]
    job = write_job(one, config, 1, rounds, forever=True)
    for turn in range(5):
        log = f"carrier{turn}.log"
        started = one.start(sys.executable, "-m", CARRIER, str(job), log=log)
        seen_so_far = one.directory / log
        process.wait_until(lambda path=seen_so_far: "[" in path.read_text(), what="the first pass", timeout=PATIENCE)
        await asyncio.sleep(random.uniform(0.0, 0.3))
        assert started.poll() is None, seen_so_far.read_text()
        process.stop(started, signal.SIGKILL)
        assert [line for line in foreign(one) if "pxvx1" not in line] == before
    others = [member(number, ip=f"192.0.2.{number}") for number in random.sample(CROWD, 50)]
    nodes = [await make_node(stack, host, 1, config) for host in (one, control)]
    for node in nodes:
        await node.carry(*others)
    assert len(one.routes("proto", str(PROTOCOL))) == 50
    assert seen(one) == seen(control)
    await nodes[0].backend.withdraw()
    assert foreign(one) == before
