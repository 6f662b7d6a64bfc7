"""What a host does next, from keys that a test writes down: no two of their numbers are the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxygen.network.choice import (
    Adopt,
    Busy,
    Claim,
    Claimant,
    FreeSubnets,
    Settle,
    Standing,
    Stay,
    Step,
    SubnetUsage,
    Visibility,
    decide,
    tally,
)
from proxygen.network.config import NetworkConfig, parse_config
from proxygen.network.records import Attributes, Pointer, Record, View

CONFIG = parse_config('{"Network": "10.9.0.0/24", "SubnetLen": 27}')
"""Seven subnets, from 10.9.0.32 on."""
ME = "me-" + "0" * 20
OTHER = "other-" + "0" * 20


def net(text: str) -> IPv4Network:
    return IPv4Network(f"10.9.0.{text}" if "/" in text else f"10.9.0.{text}/27")


def record(subnet: str, host_id: str = OTHER, *, session: str = "theirs", index: int = 71, ip: int = 9) -> Record:
    return Record(
        subnet=net(subnet),
        host_id=host_id,
        attributes=Attributes(node=f"node of {host_id[:5]}", public_ip=IPv4Address(f"192.0.2.{ip}")),
        generation=6,
        session=session,
        index=index,
    )


def view(*records: Record, pointers: Mapping[str, Pointer] | None = None, **fields: Any) -> View:
    values: dict[str, Any] = {
        "config": CONFIG,
        "config_problem": "",
        "config_index": 31,
        "config_created": 17,
        "settled": True,
        "records": {one.subnet: one for one in records},
        "pointers": pointers or {},
        "strangers": {},
        "reservations": {},
        "problems": (),
        **fields,
    }
    return View(**values)


def me(**fields: Any) -> Claimant:
    values: dict[str, Any] = {
        "host_id": ME,
        "session": "mine",
        "public_ip": IPv4Address("192.0.2.1"),
        "live": None,
        "confirmed": False,
        "hint": None,
        **fields,
    }
    return Claimant(**values)


def step(
    seen: View, calm: Visibility = Visibility.SETTLED, *, refused: frozenset[IPv4Network] = frozenset(), **who: Any
) -> Step:
    return decide(seen, me(**who), calm=calm, refused=refused)


POINTER = {ME: Pointer(subnet=net("64"), index=53)}


# --- a host without containers ----------------------------------------------------------------------------------------


def test_a_newcomer_claims_with_the_indexes_of_the_config_and_of_its_own_key() -> None:
    found = step(view(pointers=POINTER), hint=net("96"))
    assert found == Claim(subnet=net("96"), config_index=31, pointer_index=53)
    found = step(view(), hint=net("96"))
    assert found == Claim(subnet=net("96"), config_index=31, pointer_index=0)


def test_its_own_record_is_locked_again_at_the_index_of_its_key() -> None:
    for session in ("", "mine"):
        own = record("96", ME, session=session)
        assert step(view(record("64"), own, pointers=POINTER)) == Adopt(record=own, pointer_index=53)
    foreign = record("96", ME, session="another")
    assert step(view(foreign)) == Busy(record=foreign)


def test_of_several_records_the_one_that_its_key_names_is_its_own() -> None:
    """And else the lowest."""
    records = [record(subnet, ME, session="") for subnet in ("96", "64", "32")]
    found = step(view(*records, pointers=POINTER))
    assert isinstance(found, Adopt)
    assert found.record.subnet == net("64")
    found = step(view(*records))
    assert isinstance(found, Adopt)
    assert found.record.subnet == net("32")


def test_a_record_that_the_config_offers_no_more_is_replaced() -> None:
    odd = record("32/28", ME, session="")
    found = step(view(odd, pointers={ME: Pointer(subnet=odd.subnet, index=53)}), hint=net("32"))
    assert found == Claim(subnet=net("32"), config_index=31, pointer_index=53, replaced=odd)
    assert step(view(odd, config=None)) == Adopt(record=odd, pointer_index=0), "nobody knows what is offered"
    assert step(view(odd), Visibility.LAPSED) == Settle()


@pytest.mark.parametrize("calm", [Visibility.UNKNOWN, Visibility.LAPSED])
def test_a_newcomer_waits_until_whoever_lives_has_come_forward(calm: Visibility) -> None:
    assert step(view(), calm) == Settle()


def test_the_address_of_another_living_host_is_no_hosts_to_have() -> None:
    twin = record("64", ip=1)
    found = step(view(twin))
    assert isinstance(found, Stay)
    assert found.standing is Standing.CONFLICT
    assert "192.0.2.1 is also that of host other-000000" in found.reason
    assert isinstance(step(view(replace(twin, session=""))), Claim), "it may be gone, and its address given on"
    assert isinstance(step(view(twin), public_ip=None), Claim)
    assert isinstance(step(view(record("64", ip=2))), Claim)


def test_subnets_whose_lock_is_not_given_yet_are_passed_over() -> None:
    found = step(view(), hint=net("96"), refused=frozenset({net("96")}))
    assert isinstance(found, Claim)
    assert found.subnet != net("96")
    every = frozenset(CONFIG.subnet(number) for number in range(7))
    assert isinstance(step(view(), refused=every), Stay)


def test_where_nothing_is_free_it_is_told_who_has_it() -> None:
    numbers = range(32, 256, 32)
    records = [record(str(number), f"host{number}", session="x" if number > 64 else "") for number in numbers[:4]]
    strangers = {net(str(number)): "torn" for number in numbers[4:5]}
    reservations = {net(str(number)): frozenset[str]() for number in numbers[5:]}
    full = view(*records, strangers=strangers, reservations=reservations)
    found = step(full)
    assert found == Stay(
        standing=Standing.WAITING,
        reason="no free subnet in 10.9.0.0/24: 7 of /27, 2 of living hosts, 2 of hosts that are away, 2 reserved, "
        "1 unreadable",
    )
    assert tally(full) == SubnetUsage(subnets=7, free=0, live=2, orphaned=2, reserved=2, unreadable=1)
    assert tally(view(record("64"), record("96", session=""), record("128", session=""))) == SubnetUsage(
        subnets=7, free=4, live=1, orphaned=2, reserved=0, unreadable=0
    )


def test_without_a_config_its_problem_is_why() -> None:
    torn = view(record("64"), config=None, config_problem="torn")
    assert step(torn) == Stay(standing=Standing.WAITING, reason="torn")
    assert tally(torn) == SubnetUsage(subnets=0, free=0, live=1, orphaned=0, reserved=0, unreadable=0)


@pytest.mark.parametrize(
    ("reservations", "records", "found"),
    [
        ({"96": {ME}}, (), "10.9.0.96/27"),
        ({"96": {ME}, "128": {OTHER}}, (), "10.9.0.96/27"),
        (
            {"96": {ME}},
            (record("96/28", session=""), record("112/28", "third")),
            "10.9.0.96/27 is reserved for this host, but 10.9.0.96/28 is leased to host other-000000 (node of other); "
            "10.9.0.112/28 is leased to host third (node of third)",
        ),
        ({"96": {ME}, "128": {ME}}, (), "several subnets are reserved for this host: 10.9.0.96/27, 10.9.0.128/27"),
        ({"96": {ME, OTHER}}, (), f"10.9.0.96/27 is reserved for several hosts: {ME}, {OTHER}"),
        ({"0": {ME}}, (), "10.9.0.0/27 is reserved for this host, but the config does not offer it"),
        (
            {"96": {ME}},
            (record("96/28", session=""),),
            "10.9.0.96/27 is reserved for this host, but 10.9.0.96/28 is leased to host other-000000 (node of other)",
        ),
    ],
)
def test_what_is_reserved_for_a_host_it_takes_or_says_why_not(
    reservations: dict[str, set[str]], records: tuple[Record, ...], found: str
) -> None:
    kept = {net(subnet): frozenset(hosts) for subnet, hosts in reservations.items()}
    result = step(view(*records, reservations=kept, pointers=POINTER), hint=net("160"))
    if isinstance(result, Claim):
        assert result == Claim(subnet=IPv4Network(found), config_index=31, pointer_index=53)
    else:
        assert result == Stay(standing=Standing.WAITING, reason=found)


# --- a host whose containers have a subnet ----------------------------------------------------------------------------


def test_what_its_containers_have_is_kept_and_nothing_else_taken() -> None:
    for session in ("", "mine"):
        own = record("96", ME, session=session)
        found = step(view(own, record("64", ME, session=""), pointers=POINTER), live=net("96"))
        assert found == Adopt(record=own, pointer_index=53)
    foreign = record("96", ME, session="another")
    assert step(view(foreign), live=net("96")) == Busy(record=foreign)
    copied = record("64", ME, session="another")
    assert step(view(copied), live=net("96")) == Busy(record=copied)


@pytest.mark.parametrize(
    ("calm", "confirmed", "is_claimed"),
    [
        (Visibility.SETTLED, False, True),
        (Visibility.LAPSED, False, True),
        (Visibility.UNKNOWN, True, True),
        (Visibility.UNKNOWN, False, False),
    ],
)
def test_a_lease_that_is_gone_is_written_again_once_nobody_else_can_rely_on_it(
    calm: Visibility, confirmed: bool, is_claimed: bool
) -> None:
    found = step(view(pointers=POINTER), calm, live=net("96"), confirmed=confirmed)
    claim = Claim(subnet=net("96"), config_index=31, pointer_index=53)
    assert found == (claim if is_claimed else Settle())


@pytest.mark.parametrize(
    ("seen", "standing", "said"),
    [
        (view(record("96")), Standing.CONFLICT, "but 10.9.0.96/27 is leased to host other-000000 (node of other)"),
        (view(record("112/28", session="")), Standing.CONFLICT, "but 10.9.0.112/28 is leased to host other-000000"),
        (view(strangers={net("96"): "torn"}), Standing.CONFLICT, "10.9.0.96/27 is a lease that cannot be read: torn"),
        (
            view(pointers={OTHER: Pointer(subnet=net("96"), index=3)}),
            Standing.CONFLICT,
            f"but hosts/{OTHER} names 10.9.0.96/27",
        ),
        (view(record("96/28", ME, session="")), Standing.CONFLICT, "a copy of it took 10.9.0.96/28"),
        (view(config=None, config_problem="torn"), Standing.UNCONFIRMED, "is gone from Consul, and torn"),
        (view(config=parse_config('{"Network": "10.9.0.0/24", "SubnetLen": 28}')), Standing.CONFLICT, "not offer it"),
    ],
)
def test_what_others_may_have_is_a_matter_for_people(seen: View, standing: Standing, said: str) -> None:
    found = step(seen, live=net("96"), confirmed=True)
    assert isinstance(found, Stay)
    assert found.standing is standing
    assert said in found.reason


def test_its_own_key_stands_in_the_way_of_no_reservation() -> None:
    own = view(reservations={net("96"): frozenset({ME})}, pointers={ME: Pointer(subnet=net("96"), index=53)})
    assert step(own) == Claim(subnet=net("96"), config_index=31, pointer_index=53)


def test_its_own_key_and_what_lies_beside_it_take_nothing_from_it() -> None:
    beside = view(record("64"), record("128"), pointers={ME: Pointer(subnet=net("96"), index=53)})
    assert isinstance(step(beside, live=net("96")), Claim)


# --- free subnets -----------------------------------------------------------------------------------------------------


@st.composite
def networks(draw: st.DrawFn) -> tuple[NetworkConfig, View]:
    """Subnets of this config and of older ones, by everybody who can have one."""
    length = draw(st.integers(26, 28))
    config = parse_config(f'{{"Network": "10.9.0.0/24", "SubnetLen": {length}}}')
    subnets = [one for size in (25, 26, 27, 28, 29) for one in IPv4Network("10.9.0.0/24").subnets(new_prefix=size)]
    some = st.lists(st.sampled_from(subnets), max_size=4)
    return config, view(
        *(replace(record("32", f"host{number}"), subnet=one) for number, one in enumerate(draw(some))),
        config=config,
        pointers={f"key{number}": Pointer(subnet=one, index=number) for number, one in enumerate(draw(some))},
        strangers=dict.fromkeys(draw(some), "torn"),
        reservations=dict.fromkeys(draw(some), frozenset()),
    )


@given(networks(), st.text(min_size=1, max_size=4), st.none() | st.integers(0, 14))
def test_free_is_what_overlaps_nothing_that_anybody_has(
    seen: tuple[NetworkConfig, View], host_id: str, hinted: int | None
) -> None:
    """Each host goes over all of it, each subnet once, its hint first, and in the same order each time."""
    config, known = seen
    taken = [*known.taken(), *known.reservations]
    every = [config.subnet(number) for number in range(config.subnets)]
    free = {one for one in every if not any(one.overlaps(other) for other in taken)}
    found = FreeSubnets(config, known)
    assert len(found) == len(free)
    assert {config.subnet(number) for number in range(config.subnets) if number in found} == free
    hint = None if hinted is None else every[hinted % len(every)]
    order = list(found.probe(host_id, first=None))
    assert len(order) == len(free)
    assert set(order) == free
    assert list(FreeSubnets(config, known).probe(host_id, first=None)) == order
    if hint in free:
        assert list(found.probe(host_id, first=hint)) == [hint, *order]
    else:
        assert list(found.probe(host_id, first=hint)) == order


def test_two_hosts_seldom_want_the_same_first() -> None:
    big = parse_config('{"Network": "10.0.0.0/8"}')
    found = FreeSubnets(big, view(config=big))
    assert len({next(iter(found.probe(f"host{number}", first=None))) for number in range(50)}) > 48
    small = FreeSubnets(CONFIG, view())
    assert len({tuple(small.probe(f"host{number}", first=None)) for number in range(50)}) > 25
