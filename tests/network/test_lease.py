"""One law of leases at a time, in simulated time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from proxygen.network.choice import Standing, SubnetUsage, tally
from proxygen.network.records import Attributes, Record, subnet_key
from proxygen.network.store import PREFIX
from tests.network.world import TERMS, Machine, World


@pytest.fixture
def world() -> Iterator[World]:
    """A new network of three subnets."""
    world = World()
    world.configure(26, new=True)
    yield world
    world.close()


def standing(machine: Machine) -> Standing:
    assert machine.status is not None
    return machine.status.standing


def reason(machine: Machine) -> str:
    assert machine.status is not None
    return machine.status.reason


def holding(world: World, count: int) -> list[Machine]:
    machines = [world.add() for _ in range(count)]
    world.wait_until(lambda: all(standing(one) is Standing.HELD for one in machines), within=5)
    return machines


def record_of(world: World, machine: Machine) -> Record:
    (record,) = world.view().records_of(machine.host_id)
    return record


def snapshot(world: World, key: str) -> tuple[str | None, int]:
    found = world.consul.keys[f"{PREFIX}/{key}"]
    return found.value, found.modified


# --- coming and going


def test_hosts_get_different_subnets_with_three_requests_each(world: World) -> None:
    """A session, one look, one transaction; and one look of the collector for its lock."""
    machine = holding(world, 1)[0]
    assert machine.link.requests <= 4
    others = holding(world, 2)
    assert len({one.subnet for one in (machine, *others)}) == 3


def test_killed_agent_has_its_subnet_back_at_once(world: World) -> None:
    """Its session is still there; nobody waits for a lock-delay."""
    (machine,) = holding(world, 1)
    session, before = record_of(world, machine).session, machine.subnet
    world.run(machine.kill())
    world.start(machine)
    assert machine.status is not None
    assert machine.status.subnet == before
    world.wait_until(lambda: standing(machine) is Standing.HELD, within=1)
    assert record_of(world, machine).session == session


def test_closed_agent_leaves_no_lock_behind(world: World) -> None:
    """A host that is rebooted in an orderly way has its subnet at once, without its memory."""
    (machine,) = holding(world, 1)
    before = machine.subnet
    world.run(machine.leave(release=False))
    assert not world.consul.sessions
    assert record_of(world, machine).session == ""
    world.run(machine.reboot())
    machine.disk.unlink()
    world.start(machine)
    world.wait_until(lambda: standing(machine) is Standing.HELD, within=1)
    assert machine.subnet == before


def test_crashed_host_waits_for_its_own_old_session(world: World) -> None:
    """It cannot be told from a copy of the host until the session has ended; then its subnet is its own again."""
    (machine,) = holding(world, 1)
    before = machine.subnet
    world.run(machine.reboot())
    world.start(machine)
    world.wait(1)
    assert standing(machine) is Standing.WAITING
    assert "earlier agent" in reason(machine)
    world.wait_until(lambda: standing(machine) is Standing.HELD, within=TERMS.busy)
    assert machine.subnet == before


def test_released_subnet_is_free_at_once(world: World) -> None:
    first = holding(world, 3)[0]
    late = world.add()
    world.wait(1)
    assert "no free subnet" in reason(late)
    given = first.subnet
    world.run(first.leave(release=True))
    world.wait_until(lambda: standing(late) is Standing.HELD, within=TERMS.rhythm)
    assert late.subnet == given
    assert not first.disk.exists()


def test_release_whose_answer_is_lost_is_a_release(world: World) -> None:
    """The subnet may have gone to another host by the time that the agent starts again."""
    first = holding(world, 3)[0]
    given = first.subnet
    first.link.delay = 1.0
    # Its look is answered by then, and its transaction on the way.
    world.loop.call_later(1.2, setattr, first.link, "unanswered", 1)
    world.run(first.leave(release=True))
    assert first.status is not None
    assert first.status.subnet is None
    late = world.add()
    world.wait_until(lambda: standing(late) is Standing.HELD, within=2 * TERMS.busy)
    assert late.subnet == given
    first.link.delay = 0.001
    world.start(first)
    world.wait(TERMS.ttl)
    assert standing(first) is Standing.WAITING


def test_memory_of_another_boot_or_host_makes_nobody_live(world: World) -> None:
    """An image carries the file to other hosts, and they must not take the subnet for theirs (flannel #1182)."""
    (original,) = holding(world, 1)
    copy = world.add(double_of=original, runs=False)
    copy.host_id = "another"
    world.start(copy)
    world.wait_until(lambda: standing(copy) is Standing.HELD, within=1)
    assert copy.subnet != original.subnet


# --- Consul out of reach


def test_cut_off_host_knows_what_it_cannot_know(world: World) -> None:
    """Held until the session may be over, then unconfirmed, then expired; the subnet is the same throughout."""
    (machine,) = holding(world, 1)
    before = machine.subnet
    machine.link.cut = True
    world.wait(TERMS.ttl + 0.1)
    assert standing(machine) is Standing.UNCONFIRMED
    world.wait(TERMS.grace - TERMS.ttl)
    assert standing(machine) is Standing.EXPIRED
    assert machine.subnet == before
    machine.link.cut = False
    world.wait_until(lambda: standing(machine) is Standing.HELD, within=TERMS.busy)


def test_nobody_holds_for_longer_than_consul_promised(world: World) -> None:
    """The time runs from before the question: the answer may have been long on its way."""
    (machine,) = holding(world, 1)
    # Almost as long as anybody waits for an answer.
    machine.link.delay = 0.49 * TERMS.deadline
    for moment in range(16):
        world.wait(5 * TERMS.ttl + moment / 2)
        world.wait_until(lambda: standing(machine) is Standing.HELD, within=3 * TERMS.busy)
        session = world.consul.sessions[record_of(world, machine).session]
        machine.link.cut = True
        world.wait_until(lambda: standing(machine) is not Standing.HELD, within=2 * TERMS.ttl)
        assert world.loop.time() <= session.renewed + TERMS.ttl + 0.25
        machine.link.cut = False


def test_what_was_collected_and_given_away_is_a_conflict_and_stays_one(world: World) -> None:
    """A host that was away for too long takes nothing back; when the other leaves, its subnet is its own again."""
    machine = holding(world, 3)[0]
    before = machine.subnet
    machine.link.cut = True
    world.wait(TERMS.grace + 3 * TERMS.ttl)
    late = world.add()
    world.wait_until(lambda: standing(late) is Standing.HELD, within=TERMS.grace)
    assert late.subnet == before
    machine.link.cut = False
    written = snapshot(world, subnet_key(record_of(world, late).subnet))
    world.wait(10 * TERMS.ttl)
    assert standing(machine) is Standing.CONFLICT
    assert f"{before} is leased to host host4" in reason(machine)
    assert snapshot(world, subnet_key(record_of(world, late).subnet)) == written
    world.run(late.leave(release=True))
    world.wait_until(lambda: standing(machine) is Standing.HELD, within=TERMS.ttl)
    assert machine.subnet == before


def test_answer_that_was_lost_leaves_no_second_lease(world: World) -> None:
    """What was written without our knowing is found and kept."""
    machine = world.add(runs=False)
    world.start(machine)
    machine.link.unanswered = 3
    world.wait_until(lambda: standing(machine) is Standing.HELD, within=60)
    assert len(world.view().records) == 1


def test_lock_delay_is_waited_out(world: World) -> None:
    """A session that an operator destroys costs the host its lock for a while, and nothing else."""
    (machine,) = holding(world, 1)
    before = machine.subnet
    world.consul.end(record_of(world, machine).session)
    world.wait_until(lambda: "lock" in reason(machine), within=TERMS.ttl)
    assert standing(machine) is Standing.UNCONFIRMED
    world.wait_until(lambda: standing(machine) is Standing.HELD, within=TERMS.ttl + TERMS.lock_delay)
    assert machine.subnet == before


# --- lost data


def test_living_hosts_come_forward_before_newcomers_choose(world: World) -> None:
    """A store that was wiped and has its config again looks new; whoever has no subnet yet waits."""
    machines = holding(world, 3)
    subnets = [one.subnet for one in machines]
    world.wipe()
    world.configure(26)
    late = world.add()
    world.wait(2 * TERMS.settle + TERMS.lock_delay)
    assert [standing(one) for one in machines] == [Standing.HELD] * 3
    assert [one.subnet for one in machines] == subnets
    assert "no free subnet" in reason(late)


def test_host_that_is_cut_off_while_all_is_lost_does_not_hold_any_more_when_another_takes_it(world: World) -> None:
    machines = holding(world, 3)
    for machine in machines:
        machine.link.cut = True
    world.wipe()
    world.configure(26)
    late = world.add()
    world.wait(TERMS.ttl - 1)
    assert standing(late) is Standing.WAITING
    assert "come forward" in reason(late)
    world.wait_until(lambda: standing(late) is Standing.HELD, within=TERMS.settle + TERMS.ttl)
    assert [standing(one) for one in machines] == [Standing.UNCONFIRMED] * 3


def test_host_finds_the_same_subnet_again_by_its_id_alone(world: World) -> None:
    (machine,) = holding(world, 1)
    before = machine.subnet
    world.run(machine.reboot())
    machine.disk.unlink()
    world.wipe()
    world.configure(26, new=True)
    world.start(machine)
    world.wait_until(lambda: standing(machine) is Standing.HELD, within=1)
    assert machine.subnet == before


def test_deleted_lease_is_written_again(world: World) -> None:
    (machine,) = holding(world, 1)
    before = record_of(world, machine)
    del world.consul.keys[f"{PREFIX}/{subnet_key(before.subnet)}"]
    world.wait(TERMS.ttl)
    assert replace(record_of(world, machine), index=before.index) == before


def test_lease_that_somebody_overwrote_is_not_written_back(world: World) -> None:
    (machine,) = holding(world, 1)
    assert machine.subnet is not None
    key = subnet_key(machine.subnet)
    world.consul.put(f"{PREFIX}/{key}", '{"PublicIP": "192.0.2.9", "HostID": "thief", "Node": "n9"}')
    written = snapshot(world, key)
    world.wait(5 * TERMS.ttl)
    assert standing(machine) is Standing.CONFLICT
    assert "host thief (n9)" in reason(machine)
    assert snapshot(world, key) == written


def test_what_another_holds_since_one_loss_is_not_taken_back_at_once_after_the_next(world: World) -> None:
    """Who was not confirmed of late waits until nobody else relies on what a loss of data hides."""
    (machine,) = holding(world, 1)
    before = machine.subnet
    machine.link.cut = True
    world.wipe()
    world.configure(26)
    others = [world.add() for _ in range(3)]
    world.wait_until(lambda: all(standing(one) is Standing.HELD for one in others), within=3 * TERMS.settle)
    machine.link.cut = False
    world.wait_until(lambda: standing(machine) is Standing.CONFLICT, within=TERMS.ttl)
    taker = next(one for one in others if one.subnet == before)
    taker.link.cut = True
    world.wipe()
    world.configure(26)
    world.wait(TERMS.rhythm)
    assert standing(taker) is Standing.HELD
    assert standing(machine) is not Standing.HELD
    world.wait_until(lambda: standing(machine) is Standing.HELD, within=TERMS.settle)
    assert standing(taker) is Standing.UNCONFIRMED


def test_newcomer_counts_anew_after_each_loss(world: World) -> None:
    """Though the indexes of the new store may be those of the old."""
    machines = holding(world, 3)
    late = world.add()
    for _ in range(3):
        world.wipe()
        world.configure(26)
        world.wait(0.9 * TERMS.settle)
    assert "come forward" in reason(late)
    world.wait(TERMS.settle)
    assert "no free subnet" in reason(late)
    assert [standing(one) for one in machines] == [Standing.HELD] * 3


# --- identity


def test_two_hosts_of_one_id_are_told_apart(world: World) -> None:
    """The second never holds, writes nothing, and says what to do."""
    (original,) = holding(world, 1)
    double = world.add(double_of=original)
    written = snapshot(world, subnet_key(record_of(world, original).subnet))
    world.wait(TERMS.busy + TERMS.ttl)
    assert standing(original) is Standing.HELD
    assert standing(double) is Standing.CONFLICT
    assert "machine id" in reason(double)
    assert snapshot(world, subnet_key(record_of(world, original).subnet)) == written


def test_copy_gives_up_no_subnet_whose_lock_it_cannot_have(world: World) -> None:
    """The config does not offer the original's any more. An operator ended its session while it is cut off: until it
    knows that, the lock-delay is all that speaks for it."""
    (original,) = holding(world, 1)
    world.configure(27)
    world.add(double_of=original)
    world.wait(1)
    before = record_of(world, original)
    original.link.cut = True
    world.consul.end(before.session)
    world.wait_until(lambda: standing(original) is not Standing.HELD, within=TERMS.ttl)
    assert record_of(world, original).subnet == before.subnet


def test_what_a_copy_took_never_overlaps_what_the_original_takes_back(world: World) -> None:
    """The world sees to it that no two records overlap."""
    world.configure(28)
    (original,) = holding(world, 1)
    world.wipe()
    world.configure(26)
    double = world.add(double_of=original)
    world.wait_until(lambda: standing(double) is Standing.HELD, within=TERMS.settle + TERMS.busy)
    world.configure(28)
    world.wait(TERMS.busy + TERMS.ttl)
    assert standing(double) is Standing.HELD
    assert standing(original) is Standing.CONFLICT
    assert "machine id" in reason(original)
    world.run(double.leave(release=False))
    world.wait(TERMS.ttl)
    assert standing(original) is Standing.CONFLICT
    assert "a copy of it took 10.9.0.64/26" in reason(original)


def test_two_agents_on_one_host_see_each_other(world: World) -> None:
    """Both have the session's id; the one that came first stands back and says so."""
    (first,) = holding(world, 1)
    second = world.add(double_of=first, runs=False)
    second.number, second.disk = first.number, first.disk
    world.start(second)
    world.wait(TERMS.busy + 2 * TERMS.ttl)
    assert standing(second) is Standing.HELD
    assert standing(first) is Standing.CONFLICT
    assert second.subnet == first.subnet


def test_two_hosts_of_one_address_are_refused_a_second_subnet(world: World) -> None:
    """Vagrant gives all machines 10.0.2.15 (flannel #51); packets for one would reach the other."""
    (first,) = holding(world, 1)
    second = world.add(runs=False)
    second.public_ip = first.public_ip
    world.start(second)
    world.wait(TERMS.ttl)
    assert standing(second) is Standing.CONFLICT
    assert "192.0.2.1 is also that of host host1" in reason(second)


def test_new_address_changes_the_record_and_nothing_else(world: World) -> None:
    (machine,) = holding(world, 1)
    before = record_of(world, machine)
    assert machine.lease is not None
    moved = Attributes(
        node="renamed", public_ip=IPv4Address("192.0.2.77"), backend_data={"VtepMAC": "02:00:00:00:00:01"}
    )
    machine.lease.announce(moved)
    world.wait(0.1)
    after = record_of(world, machine)
    assert after.attributes == moved
    assert replace(after, attributes=before.attributes, index=before.index) == before
    world.wait(2 * TERMS.ttl)
    assert record_of(world, machine) == after


# --- the operator's keys


def test_reserved_subnet_is_for_its_host_alone(world: World) -> None:
    world.reserve("host2", "10.9.0.128/26")
    world.reserve("10.9.0.192-26", "")
    first = world.add()
    world.wait(1)
    assert first.subnet == IPv4Network("10.9.0.64/26")
    third = world.add("host3")
    world.wait(1)
    assert "no free subnet" in reason(third)
    assert "2 reserved" in reason(third)
    reserving = world.add("host2")
    world.wait(1)
    assert reserving.subnet == IPv4Network("10.9.0.128/26")


@pytest.mark.parametrize(
    ("reservations", "words"),
    [
        ({"host1": "10.9.0.64/26", "10.9.0.128-26": "host1"}, "several subnets are reserved"),
        ({"host1": "10.9.0.64/26", "host2": "10.9.0.64-26"}, "reserved for several hosts: host1, host2"),
        ({"host1": "10.9.0.64/27"}, "the config does not offer it"),
    ],
)
def test_reservation_that_cannot_be_met_is_told(world: World, reservations: dict[str, str], words: str) -> None:
    """A host that was promised a subnet does not get another behind the operator's back."""
    for name, value in reservations.items():
        world.reserve(name, value)
    machine = world.add("host1")
    world.wait(1)
    assert standing(machine) is Standing.WAITING
    assert words in reason(machine)


def test_bad_config_harms_nobody_who_has_a_subnet(world: World) -> None:
    (machine,) = holding(world, 1)
    world.consul.put(f"{PREFIX}/config", '{"Network": "10.9.0.0/30"}')
    late = world.add()
    world.run(machine.kill())
    world.start(machine)
    world.wait(3 * TERMS.ttl)
    assert standing(machine) is Standing.HELD
    assert standing(late) is Standing.WAITING
    assert "too small" in reason(late)


def test_other_sizes_never_overlap_what_is_there(world: World) -> None:
    """A host that lives keeps its subnet under another config; after a reboot it has one that the config offers."""
    (machine,) = holding(world, 1)
    before = machine.subnet
    world.configure(27)
    others = [world.add() for _ in range(5)]
    world.wait(TERMS.ttl)
    assert all(standing(one) is Standing.HELD for one in (machine, *others))
    assert machine.subnet == before
    world.run(machine.leave(release=False))
    world.run(machine.reboot())
    world.start(machine)
    world.wait(TERMS.ttl)
    assert machine.subnet is not None
    assert machine.subnet.prefixlen == 27
    assert len(world.view().records_of(machine.host_id)) == 1


def test_config_that_changed_meanwhile_voids_a_claim(world: World) -> None:
    """Two hosts that read different sizes would write keys that differ and subnets that overlap."""
    slow = world.add(runs=False)
    slow.link.delay = 1.0
    world.start(slow)
    # Its session is open and its look is done; its transaction is on the way.
    world.wait_until(lambda: slow.link.requests == 3, within=10)
    world.configure(27)
    for _ in range(5):
        world.add()
    world.wait(0.4)
    assert len(world.view().records) == 5
    world.wait(TERMS.ttl)
    assert slow.subnet is not None
    assert slow.subnet.prefixlen == 27


def test_lease_that_appeared_meanwhile_voids_a_claim(world: World) -> None:
    """Though its host is away again, and nothing but the record says whose it is."""
    for subnet in ("128", "192"):
        world.reserve(f"10.9.0.{subnet}-26", "")
    slow = world.add(runs=False)
    slow.link.delay = 1.0
    world.start(slow)
    world.wait_until(lambda: slow.link.requests == 3, within=10)
    quick = holding(world, 1)[0]
    world.run(quick.leave(release=False))
    world.wait(TERMS.ttl)
    assert record_of(world, quick).subnet == quick.subnet
    assert standing(slow) is Standing.WAITING


_DEEP = "[" * 20_000 + "]" * 20_000


@pytest.mark.parametrize(
    "value",
    [
        "",
        "{",
        '{"PublicIP": "192.0.2.9", "BackendType": "vxlan"}',
        '{"HostID": 7}',
        pytest.param(f'{{"HostID": "x", "BackendData": {{"VNI": {_DEEP}}}}}', id="deep data"),
        pytest.param(f'{{"HostID": "x", "Unknown": {_DEEP}}}', id="deep unknown"),
    ],
)
def test_lease_that_cannot_be_read_is_left_alone_and_named(world: World, value: str) -> None:
    """flannel's own records, for one, while hosts move over."""
    world.consul.put(f"{PREFIX}/subnets/10.9.0.64-26", value)
    machines = holding(world, 2)
    late = world.add()
    world.wait(TERMS.grace + 5 * TERMS.ttl)
    assert standing(late) is Standing.WAITING
    assert "1 unreadable" in reason(late)
    assert IPv4Network("10.9.0.64/26") not in {one.subnet for one in machines}
    assert late.status is not None
    assert late.status.problems[0].startswith("subnets/10.9.0.64-26: ")


def test_every_subnet_is_counted(world: World) -> None:
    """Live, away, reserved, unreadable, and what is left; overlaps of what is taken count once."""
    world.configure(27)
    gone = holding(world, 2)[0]
    free = [one for one in map("10.9.0.{}-27".format, range(32, 256, 32)) if one not in _taken(world)]
    world.reserve(free[0], "")
    world.consul.put(f"{PREFIX}/subnets/{free[1]}", "{")
    world.run(gone.leave(release=False))
    assert tally(world.view()) == SubnetUsage(subnets=7, free=3, live=1, orphaned=1, reserved=1, unreadable=1)
    world.consul.put(f"{PREFIX}/config", "{")
    assert tally(world.view()) == SubnetUsage(subnets=0, free=0, live=1, orphaned=1, reserved=1, unreadable=1)


def _taken(world: World) -> set[str]:
    return {subnet_key(subnet).removeprefix("subnets/") for subnet in world.view().records}


# --- collecting


def test_host_that_left_for_good_gives_its_subnet_up_after_the_grace(world: World) -> None:
    """Not before, and with all that it wrote; a host that lives is not touched."""
    machine, other = holding(world, 2)
    before = record_of(world, other)
    world.run(machine.kill())
    world.wait(TERMS.grace)
    assert world.view().records_of(machine.host_id)
    world.wait(3 * TERMS.ttl + 0.3 * TERMS.grace)
    assert not world.view().records_of(machine.host_id)
    assert machine.host_id not in world.view().pointers
    assert record_of(world, other) == before


def test_host_that_comes_back_in_time_is_not_collected(world: World) -> None:
    """Each return begins the grace anew."""
    machine = holding(world, 2)[0]
    for _ in range(3):
        world.run(machine.kill())
        world.wait(0.8 * TERMS.grace)
        world.start(machine)
        world.wait_until(lambda: standing(machine) is Standing.HELD, within=TERMS.busy)
    assert world.view().records_of(machine.host_id)


def test_host_that_came_back_between_two_looks_is_not_collected(world: World) -> None:
    machine = holding(world, 2)[0]
    world.run(machine.kill())
    world.wait(0.8 * TERMS.grace)
    world.start(machine)
    world.wait_until(lambda: standing(machine) is Standing.HELD, within=TERMS.busy)
    world.run(machine.leave(release=False))
    world.wait(0.8 * TERMS.grace)
    assert world.view().records_of(machine.host_id)


def test_reserved_lease_is_never_collected(world: World) -> None:
    world.reserve("host1", "10.9.0.128/26")
    machine = holding(world, 2)[0]
    world.run(machine.kill())
    world.wait(3 * TERMS.grace)
    assert record_of(world, machine).subnet == IPv4Network("10.9.0.128/26")


def test_outage_of_consul_is_nobodys_absence(world: World) -> None:
    """The grace begins anew after a time in which nobody could look, nor come back."""
    machine, other = holding(world, 2)
    world.run(machine.kill())
    world.wait(0.9 * TERMS.grace)
    other.link.cut = True
    world.wait(0.6 * TERMS.grace)
    other.link.cut = False
    world.wait(0.5 * TERMS.grace)
    assert world.view().records_of(machine.host_id)
    world.wait(TERMS.grace)
    assert not world.view().records_of(machine.host_id)


def test_one_host_collects_and_another_follows_it(world: World) -> None:
    machines = holding(world, 3)
    world.wait(0.2 * TERMS.grace)
    (collector,) = {key.session for name, key in world.consul.keys.items() if name.endswith("/gc")}
    assert collector in {record_of(world, one).session for one in machines}
    gone = next(one for one in machines if record_of(world, one).session == collector)
    world.run(gone.kill())
    world.wait(TERMS.busy + 0.2 * TERMS.grace)
    (follower,) = {key.session for name, key in world.consul.keys.items() if name.endswith("/gc")}
    assert follower in {record_of(world, one).session for one in machines if one is not gone}
