"""The choice of the link that leads to the other hosts."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest

from proxygen.kit.errors import NetworkError
from proxygen.network.kernel.state import GROUP, Link, LinkAddress, Route
from proxygen.network.kernel.underlay import UnderlayWish, choose_underlay

LO = Link(index=1, name="lo", mtu=65536, mac="", is_up=True, is_loopback=True)
ETH0 = Link(index=2, name="eth0", mtu=1500, mac="02:00:00:00:00:02", is_up=True)
ETH1 = Link(index=3, name="eth1", mtu=9000, mac="02:00:00:00:00:03", is_up=True)
DOWN = Link(index=4, name="eth2", mtu=1500, mac="02:00:00:00:00:04", is_up=False)
OURS = Link(index=5, name="pxvx1", mtu=1450, mac="02:00:00:00:00:05", is_up=True, kind="vxlan", group=GROUP)
LINKS = [LO, ETH0, ETH1, DOWN, OURS]


def address(link: Link, text: str, *, is_global: bool = True, is_secondary: bool = False) -> LinkAddress:
    return LinkAddress(link=link.index, interface=IPv4Interface(text), is_global=is_global, is_secondary=is_secondary)


ADDRESSES = [
    address(LO, "127.0.0.1/8", is_global=False),
    address(ETH0, "192.0.2.1/24"),
    address(ETH1, "198.51.100.1/24"),
    address(DOWN, "203.0.113.1/24"),
    address(OURS, "10.99.1.0/32"),
]


def default(link: Link, gateway: str, *, metric: int = 0) -> Route:
    return Route(destination=IPv4Network("0.0.0.0/0"), link=link.index, gateway=IPv4Address(gateway), metric=metric)


DEFAULTS = [default(ETH0, "192.0.2.254", metric=100), default(ETH1, "198.51.100.254", metric=50)]


def test_with_no_wish_it_is_the_default_routes() -> None:
    """Of several default routes the kernel's choice: the lowest metric."""
    chosen = choose_underlay(LINKS, ADDRESSES, DEFAULTS, UnderlayWish())
    assert (chosen.link, chosen.index, chosen.mtu) == ("eth1", 3, 9000)
    assert chosen.address == IPv4Interface("198.51.100.1/24")
    assert chosen.mac == ETH1.mac


def test_an_interface_or_an_address_is_enough() -> None:
    """Either leads to the other."""
    by_name = choose_underlay(LINKS, ADDRESSES, [], UnderlayWish(interface="eth0"))
    by_address = choose_underlay(LINKS, ADDRESSES, [], UnderlayWish(address=IPv4Address("192.0.2.1")))
    assert by_name == by_address
    assert by_name.link == "eth0"


def test_the_address_that_faces_the_gateway_is_the_one() -> None:
    """Before others of the link; and a secondary address, or one that is good on the link only, comes last."""
    several = [
        address(ETH0, "169.254.7.7/16", is_global=False),
        address(ETH0, "192.0.2.9/24", is_secondary=True),
        address(ETH0, "203.0.113.7/24"),
        address(ETH0, "192.0.2.1/24"),
    ]
    chosen = choose_underlay(LINKS, several, [default(ETH0, "192.0.2.254")], UnderlayWish())
    assert str(chosen.address) == "192.0.2.1/24"
    chosen = choose_underlay(LINKS, several[:2], [default(ETH0, "192.0.2.254")], UnderlayWish())
    assert str(chosen.address) == "192.0.2.9/24"


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        (UnderlayWish(), "no default route; name the interface"),
        (UnderlayWish(interface="eth9"), "no interface eth9; it has eth0, eth1, eth2"),
        (UnderlayWish(interface="lo"), "no interface lo"),
        (UnderlayWish(interface="pxvx1"), "no interface pxvx1"),
        (UnderlayWish(interface="eth2"), "eth2 is down"),
        (UnderlayWish(interface="192.0.2.77"), "no interface 192.0.2.77"),
        (UnderlayWish(interface="127.0.0.1"), "no interface 127.0.0.1"),
        (UnderlayWish(interface="~^wlan,eth9"), "no interface ~.wlan,eth9; it has eth0, eth1, eth2"),
        (UnderlayWish(address=IPv4Address("192.0.2.77")), "no default route"),
        (UnderlayWish(address=IPv4Address("10.99.1.0")), "10.99.1.0 is not on a link that leads to other hosts"),
        (UnderlayWish(interface="eth1", address=IPv4Address("192.0.2.1")), "eth1 has not the address 192.0.2.1"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_with_what_there_is(wish: UnderlayWish, said: str) -> None:
    """Never lo, never a link of ours, never a link that is down."""
    with pytest.raises(NetworkError, match=said):
        choose_underlay(LINKS, ADDRESSES, [], wish)


@pytest.mark.incident("T72")
@pytest.mark.parametrize(
    ("interface", "link", "own"),
    [
        ("eth0", "eth0", "192.0.2.1/24"),
        ("eth9, eth1", "eth1", "198.51.100.1/24"),
        ("192.0.2.1", "eth0", "192.0.2.1/24"),
        ("~^eth[1-9]$", "eth1", "198.51.100.1/24"),
        (r"~^192\.0\.2\.", "eth0", "192.0.2.1/24"),
        ("~^wlan,~100[.]1$", "eth1", "198.51.100.1/24"),
    ],
)
def test_an_interface_is_named_as_for_flannel(interface: str, link: str, own: str) -> None:
    """By name, by address and by pattern, the first that fits of several."""
    chosen = choose_underlay(LINKS, ADDRESSES, DEFAULTS, UnderlayWish(interface=interface))
    assert (chosen.link, str(chosen.address), chosen.elsewhere) == (link, own, None)


@pytest.mark.incident("T72")
@pytest.mark.parametrize(
    ("interface", "own"), [(None, "198.51.100.1"), ("eth0", "192.0.2.1"), ("192.0.2.1", "192.0.2.1")]
)
def test_a_public_address_that_a_router_translates_is_told_and_the_own_one_used(
    interface: str | None, own: str
) -> None:
    """Packets come to the host's own address, whatever the others call it."""
    wish = UnderlayWish(interface=interface, address=IPv4Address("203.0.113.99"))
    chosen = choose_underlay(LINKS, ADDRESSES, DEFAULTS, wish)
    assert str(chosen.address.ip) == own
    assert str(chosen.public_ip) == "203.0.113.99"


def test_a_link_without_an_address_is_refused() -> None:
    """Other hosts could not reach this one."""
    with pytest.raises(NetworkError, match="eth0 has no IPv4 address"):
        choose_underlay(LINKS, [], [], UnderlayWish(interface="eth0"))
