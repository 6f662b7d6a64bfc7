"""Netlink's messages, through pyroute2's own encoding and back."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from proxygen.network.kernel.diff import KernelRequest, KernelVerb
from proxygen.network.kernel.messages import read_forward, read_neighbour, read_route, write_request
from proxygen.network.kernel.state import PROTOCOL, Entry, Forward, Neighbour, Route

ADDRESSES = st.integers(1, (1 << 32) - 2).map(IPv4Address)
MACS = st.binary(min_size=6, max_size=6).map(lambda raw: raw.hex(":"))
LINKS = st.integers(1, (1 << 31) - 1)
ROUTES = st.builds(
    Route,
    destination=st.tuples(ADDRESSES, st.integers(1, 32)).map(lambda pair: IPv4Network(pair, strict=False)),
    link=LINKS,
    gateway=st.none() | ADDRESSES,
    onlink=st.booleans(),
    table=st.sampled_from([254, 255, 256, 100_000]),
    metric=st.integers(0, (1 << 32) - 1),
    tos=st.sampled_from([0, 16]),
    kind=st.sampled_from([1, 6]),
)
NEIGHBOURS = st.builds(Neighbour, link=LINKS, address=ADDRESSES, mac=MACS)
FORWARDS = st.builds(Forward, link=LINKS, mac=MACS, host=ADDRESSES)
REQUEST, ACK, REPLACE, EXCLUSIVE, CREATE, APPEND = 0x1, 0x4, 0x100, 0x200, 0x400, 0x800


def sent(entry: Entry, verb: KernelVerb) -> Any:
    """Return the message as it arrives."""
    written = write_request(KernelRequest(verb=verb, entry=entry))
    kind = rtmsg if isinstance(entry, Route) else ndmsg
    message = kind()
    message.update(written.fields)
    message["attrs"] = list(written.attributes)
    message.encode()
    arrived = kind(message.data)
    arrived.decode()
    return arrived


@given(ROUTES)
def test_a_route_comes_back_as_it_went(route: Route) -> None:
    """Otherwise each pass would make it again. It carries our protocol."""
    message = sent(route, KernelVerb.ADD)
    assert read_route(message) == route
    assert message["proto"] == PROTOCOL


@given(NEIGHBOURS)
def test_a_neighbour_comes_back_as_it_went(neighbour: Neighbour) -> None:
    """Set for good."""
    message = sent(neighbour, KernelVerb.REPLACE)
    assert read_neighbour(message) == neighbour
    assert message["state"] == 0x80


@given(FORWARDS)
def test_a_forwarding_comes_back_as_it_went(forward: Forward) -> None:
    """On the link itself (NTF_SELF), not on a bridge that it may be a port of."""
    message = sent(forward, KernelVerb.REPLACE)
    assert read_forward(message) == forward
    assert (message["family"], message["flags"], message["state"]) == (7, 2, 0xC0)


@pytest.mark.parametrize("table", [254, 100_000])
def test_removing_names_our_protocol_in_whatever_scope(table: int) -> None:
    """With it the kernel removes no route of anybody else; without a scope it would look for one of the universe."""
    route = Route(destination=IPv4Network("10.99.2.0/24"), link=3, onlink=True, table=table)
    message = sent(route, KernelVerb.REMOVE)
    assert (message["proto"], message["scope"], message["flags"]) == (PROTOCOL, 255, 0)


@pytest.mark.parametrize(
    ("verb", "type_", "flags"),
    [
        (KernelVerb.ADD, 24, CREATE | EXCLUSIVE),
        (KernelVerb.APPEND, 24, CREATE | APPEND),
        (KernelVerb.REMOVE, 25, 0),
    ],
)
def test_no_route_takes_the_place_of_another(verb: KernelVerb, type_: int, flags: int) -> None:
    """NLM_F_REPLACE would take that of the first with the same key, whosever it is; and nothing goes unanswered."""
    request = write_request(KernelRequest(verb=verb, entry=Route(destination=IPv4Network("10.99.2.0/24"), link=3)))
    assert (request.type, request.flags) == (type_, REQUEST | ACK | flags)
    assert not request.flags & REPLACE
