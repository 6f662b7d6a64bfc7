"""Which of the kernel's changes matter."""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest

from proxygen.network.kernel.events import LOST, KernelEvent, Subject, concerns
from proxygen.network.kernel.state import PROTOCOL

UNDERLAY, OWN, CONTAINERS = 2, 3, 9
SUBNET = IPv4Network("10.99.2.0/24")
BGP = 186


def is_concern(event: KernelEvent, *, underlay: int | None = UNDERLAY) -> bool:
    return concerns(event, underlay=underlay, own=frozenset({OWN}))


@pytest.mark.parametrize(
    "event",
    [
        LOST,
        KernelEvent(subject=Subject.LINK, link=UNDERLAY),
        KernelEvent(subject=Subject.LINK, link=OWN, is_gone=True),
        KernelEvent(subject=Subject.ADDRESS, link=UNDERLAY, is_gone=True),
        KernelEvent(subject=Subject.NEIGHBOUR, link=OWN, is_gone=True),
        KernelEvent(subject=Subject.NEIGHBOUR, link=OWN, is_permanent=False),
        KernelEvent(subject=Subject.ROUTE, protocol=PROTOCOL, is_gone=True, destination=SUBNET),
        KernelEvent(subject=Subject.ROUTE, protocol=BGP, is_replaced=True, destination=SUBNET),
        KernelEvent(subject=Subject.ROUTE, protocol=BGP, destination=IPv4Network("0.0.0.0/0")),
    ],
    ids=str,
)
def test_what_may_have_undone_something_of_ours_matters(event: KernelEvent) -> None:
    """And so does what was lost, which may have been anything."""
    assert is_concern(event)


@pytest.mark.parametrize(
    "event",
    [
        KernelEvent(subject=Subject.LINK, link=CONTAINERS),
        KernelEvent(subject=Subject.ADDRESS, link=CONTAINERS, is_gone=True),
        KernelEvent(subject=Subject.NEIGHBOUR, link=UNDERLAY, is_gone=True),
        KernelEvent(subject=Subject.NEIGHBOUR, link=OWN, is_permanent=True),
        KernelEvent(subject=Subject.ROUTE, protocol=PROTOCOL, destination=SUBNET),
        KernelEvent(subject=Subject.ROUTE, protocol=BGP, destination=SUBNET),
        KernelEvent(subject=Subject.ROUTE, protocol=BGP, is_gone=True, destination=SUBNET),
    ],
    ids=str,
)
def test_what_a_busy_host_is_full_of_does_not_matter(event: KernelEvent) -> None:
    """Containers come and go, routing daemons change their minds, and we see our own steps."""
    assert not is_concern(event)


def test_once_the_underlay_is_gone_any_link_may_bring_it_back() -> None:
    """A network card that is taken out and put in again has another index."""
    assert is_concern(KernelEvent(subject=Subject.LINK, link=CONTAINERS), underlay=None)
    assert is_concern(KernelEvent(subject=Subject.ADDRESS, link=CONTAINERS), underlay=None)
