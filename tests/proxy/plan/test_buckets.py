"""Host names that one hash table of nginx's cannot tell apart never fill a bucket of it."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxygen.catalog import ServiceName
from proxygen.proxy.plan.bounds import Bounds
from proxygen.proxy.plan.buckets import alike, crowded, key
from proxygen.proxy.plan.types import Memory, RouteClaim
from tests.harness.harms import colliding
from tests.proxy.plan.catalogs import instance, plan

BUCKET = 512 - 8
"""Bytes of names in a bucket of 512; behind them stands a null pointer."""


def element(name: str) -> int:
    return 8 + (len(name) + 2 + 7) // 8 * 8


def test_the_hash_is_nginxs() -> None:
    assert key("") == 0
    assert key("a") == 97
    assert key("ab") == 97 * 31 + 98
    assert len({key(host) for host in colliding(300)}) == 1


_NAMES = st.one_of(
    st.sampled_from(colliding(60)),
    st.sampled_from([f"*.{host}" for host in colliding(60)]),
    st.sampled_from([f"x{host}" for host in colliding(60, "b.example.com")]),
    st.from_regex(r"[a-c]{1,3}\.example\.com", fullmatch=True),
)


@given(st.lists(_NAMES, max_size=80, unique=True), st.integers(32, BUCKET))
def test_what_fits_never_fills_a_bucket_and_what_shares_no_hash_always_fits(hosts: list[str], most: int) -> None:
    refused = set(crowded(hosts, most))
    assert refused <= alike(hosts)
    for depth in range(1, 6):
        buckets: dict[tuple[object, ...], set[str]] = defaultdict(set)
        for host in set(hosts) - refused:
            labels = host.removeprefix("*.").split(".")[::-1]
            if not host.startswith("*."):
                buckets["exact", key(host)].add(host)
            elif len(labels) >= depth:
                buckets[tuple(labels[: depth - 1]), key(labels[depth - 1])].add(labels[depth - 1])
        for names in buckets.values():
            assert len(names) == 1 or sum(map(element, names)) <= most


@given(st.lists(st.sampled_from(colliding(40)), unique=True))
def test_who_stands_before_keeps_its_place_whoever_comes_after(hosts: list[str]) -> None:
    for count in range(len(hosts)):
        before = set(crowded(hosts[:count], 160))
        assert set(crowded(hosts, 160)) & set(hosts[:count]) == before


@pytest.mark.incident("T45")
def test_services_whose_hosts_collide_are_told_no_and_nobody_else_is() -> None:
    """The first to hold some of them keeps them."""
    hosts = colliding(261)
    many = [instance(f"evil{n}", n + 1, *(f"route={host}" for host in hosts[87 * n : 87 * n + 87])) for n in range(3)]
    held = Memory(holders={RouteClaim(hosts[200], "/"): ServiceName("evil2")})
    planned = plan(*many, instance("web", 9, "route=web.example.org"), memory=held)
    served = {server.host for server in planned.servers if server.host}
    assert {"web.example.org", hosts[200], min(hosts[:87])} <= served
    assert sum(element(host) for host in served if host != "web.example.org") <= Bounds().hash_bytes
    assert planned.quarantined == ()
    assert {each.loser for each in planned.conflicts} == {"evil0", "evil1", "evil2"}
    assert "bounds.hash_bytes" in planned.conflicts[0].reason


def test_wildcards_meet_at_any_of_their_labels_and_never_with_names() -> None:
    """nginx keeps a table for each label of a wildcard."""
    assert alike({"*.x.c0.test", "*.y.an.test"}) == {"*.x.c0.test", "*.y.an.test"}
    assert alike({"*.c0.x.test", "*.an.y.test", "c0.x.test", "*.c0.test"}) == frozenset()
