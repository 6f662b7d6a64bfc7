"""What others undo of the data plane, and a sudden end: the next pass makes it what it was."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import sys
from collections.abc import Callable
from random import Random
from typing import Any, Final

import pytest

from proxygen.kit.errors import NetworkError
from proxygen.network.kernel.events import Subject
from proxygen.network.kernel.netlink import Kernel
from proxygen.network.kernel.state import PROTOCOL
from tests.harness import process
from tests.harness.hosts import Host, Lab
from tests.network.backends.fabrics import member
from tests.network.backends.nodes import (
    CARRIER,
    DIRECT,
    HOST_GW,
    PATIENCE,
    VXLAN,
    add_foreign,
    comes_to_rest,
    foreign,
    make_network,
    make_node,
    others_of,
    seen,
    start_containers,
    stirs,
    write_job,
)


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
    with one.host.entered():
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


# --- a sudden end


CROWD: Final = range(10, 130)


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
