"""What is not ours in the kernel is left alone; and what is ours goes when it should."""

from __future__ import annotations

import contextlib
import re
import socket

import pytest

from proxygen.kit.errors import NetworkError
from proxygen.network.backends.on_kernel import clear
from proxygen.network.kernel.netlink import Kernel
from proxygen.network.kernel.state import PROTOCOL
from tests.harness.hosts import Lab
from tests.network.backends.fabrics import member
from tests.network.backends.nodes import (
    DIRECT,
    HOST_GW,
    VXLAN,
    add_foreign,
    foreign,
    make_node,
    seen,
)


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


async def test_who_has_the_port_already_is_named(lab: Lab, stack: contextlib.AsyncExitStack) -> None:
    """A link of another overlay that takes any VNI (cilium#2925), or a program; the kernel says `in use` of both."""
    one, two = lab.hosts(2)
    one.ip("link", "add", "cilium_vxlan", "type", "vxlan", "dev", "eth0", "dstport", "8472", "external")
    one.ip("link", "set", "cilium_vxlan", "up")
    with pytest.raises(
        NetworkError, match="in use: cilium_vxlan has UDP port 8472; stop what made it, or choose another"
    ):
        await make_node(stack, one, 1, VXLAN)
    with two.entered():
        holder = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        holder.bind(("0.0.0.0", 8472))
    with pytest.raises(NetworkError, match="in use: a program has UDP port 8472; stop it, or choose another Port"):
        await make_node(stack, two, 2, VXLAN)


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
    with one.entered():
        kernel = await stack.enter_async_context(Kernel())
    await clear(kernel)
    assert (foreign(one), one.ip("link", "show")) == before
