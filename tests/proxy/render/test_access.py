"""Who is let in: what is rendered means what the tags say, and with the operator's lines what both say."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxygen.kit.templating import Block
from proxygen.proxy.render.access import denied_variable, geo_view, stream_access
from proxygen.proxy.render.views import AccessLine
from proxygen.tags import IPNetwork

Address = IPv4Address | IPv6Address

# Few bits, so that networks often lie within each other.
_V4 = st.builds(
    lambda bits, length: ip_network(((10 << 24) + (bits << 20) >> (32 - length) << (32 - length), length)),
    st.integers(0, 15),
    st.integers(8, 12),
)
_V6 = st.builds(
    lambda bits, length: ip_network(((0x2001 << 112) + (bits << 108) >> (128 - length) << (128 - length), length)),
    st.integers(0, 15),
    st.integers(16, 20),
)
_WHOLE = st.sampled_from([ip_network("0.0.0.0/0"), ip_network("::/0")])
_NETWORKS = st.lists(_V4 | _V4 | _V6 | _WHOLE, max_size=4, unique=True).map(tuple)
_CLIENTS = st.one_of(
    st.integers(0, 15).map(lambda bits: ip_address((10 << 24) + (bits << 20) + 1)),
    st.integers(0, 15).map(lambda bits: IPv6Address((0x2001 << 112) + (bits << 108) + 1)),
    st.sampled_from([ip_address("192.0.2.1"), ip_address("fd00::1")]),
)
_RULES = st.lists(st.tuples(st.booleans(), st.one_of(_V4, _V6, st.sampled_from(["all", "unix:"]))), max_size=5)


def _tags_let_in(client: Address, allow: Iterable[IPNetwork], deny: Iterable[IPNetwork]) -> bool:
    allow = tuple(allow)
    return not any(client in network for network in deny) and (not allow or any(client in network for network in allow))


def _first(client: Address, lines: Iterable[AccessLine]) -> bool:
    """As nginx: the first line that matches counts, and whom none matches is let in."""
    for line in lines:
        if line.network == "all" or (line.network != "unix:" and client in ip_network(line.network)):
            return line.allows
    return True


@given(_NETWORKS, _NETWORKS, _CLIENTS)
def test_a_geo_turns_away_whom_the_tags_turn_away(
    allow: tuple[IPNetwork, ...], deny: tuple[IPNetwork, ...], client: Address
) -> None:
    """By its longest prefix, of which there is one for everybody, and no network twice: nginx warns of that."""
    lines = [(ip_network(str(line.match)), line.value) for line in geo_view(allow, deny).lines]
    assert len({network for network, _ in lines}) == len(lines)
    longest, _ = max((line for line in lines if client in line[0]), key=lambda line: line[0].prefixlen)
    assert (dict(lines)[longest] == "") is _tags_let_in(client, allow, deny)


@pytest.mark.incident("T41")
@given(_NETWORKS, _NETWORKS, _RULES, st.booleans(), _CLIENTS)
@example((), (ip_network("192.0.2.0/24"),), [(False, "all")], False, ip_address("198.51.100.1"))
@example((ip_network("10.0.0.0/8"),), (), [(True, "unix:"), (False, "all")], False, ip_address("10.0.0.1"))
def test_a_stream_lets_in_whom_both_let_in(
    allow: tuple[IPNetwork, ...],
    deny: tuple[IPNetwork, ...],
    rules: list[tuple[bool, IPNetwork | str]],
    is_fragment: bool,
    client: Address,
) -> None:
    own = tuple(AccessLine(allows=allows, network=str(network)) for allows, network in rules)
    said = (Block("".join(f"{line.directive} '{line.network}';\n" for line in own)),)
    within, around = (said, ()) if is_fragment else ((), said)
    lines = stream_access(allow, deny, within, around)
    # nginx inherits where nothing is said, and what a fragment says follows in the same block.
    seen = (*lines, *(own if is_fragment or not lines else ()))
    assert _first(client, seen) is (_first(client, own) and _tags_let_in(client, allow, deny))


def test_the_same_networks_share_a_geo_and_others_do_not() -> None:
    ten, twenty = (ip_network("10.0.0.0/8"),), (ip_network("20.0.0.0/8"),)
    assert denied_variable(ten, twenty) == denied_variable(ten, twenty)
    assert len({denied_variable(*networks) for networks in ((ten, ()), ((), ten), (ten, twenty), (twenty, ten))}) == 4


def test_a_rule_that_nginx_reads_and_python_does_not_lets_in_nobody_more() -> None:
    """nginx takes leading zeros; what nobody can read must not end every pass."""
    allow = (ip_network("10.0.0.0/9"),)
    for text, expected in (("010.0.0.0/08", ["10.0.0.0/9"]), ("nonsense/8", [])):
        lines = stream_access(allow, (), (), [Block(f'allow "{text}";'), Block('deny "all";')])
        assert [line.network for line in lines if line.allows][: len(expected)] == expected
        assert not _first(ip_address("192.0.2.1"), lines)
