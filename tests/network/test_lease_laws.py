"""Whatever happens, in whatever order: no two hosts hold overlapping subnets, and a live host's never changes.

PROXYGEN_LEASE_EXAMPLES=2000 PROXYGEN_LEASE_STEPS=100 looks for longer, and at other runs each time.
"""

from __future__ import annotations

import os
from typing import Final

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from proxygen.network.choice import Standing
from tests.harness.examples import examples
from tests.network.world import TERMS, Machine, World

EXAMPLES: Final = int(os.environ.get("PROXYGEN_LEASE_EXAMPLES", "0"))
STEPS: Final = int(os.environ.get("PROXYGEN_LEASE_STEPS", "30"))
BOUNDED: Final = settings(
    max_examples=EXAMPLES or examples(30),
    stateful_step_count=STEPS,
    derandomize=not EXAMPLES,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
PAUSES: Final = st.sampled_from((0.0, 0.002, 0.01, 1.0, 6.0, 20.0, 45.0))
LONG: Final = st.sampled_from((TERMS.busy, TERMS.grace / 2, TERMS.grace + 2 * TERMS.ttl, 2 * TERMS.grace))
WHICH: Final = st.integers(0, 5)
MOST: Final = 6
FEW: Final = st.sampled_from((26, 26, 27, 28))
"""There are 3, 7 or 15 subnets then: what somebody lost is soon wanted by another."""


class Hosts(RuleBasedStateMachine):
    """Some hosts, and everything that has ever gone wrong with leases."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    def teardown(self) -> None:
        try:
            self.all_is_well_in_the_end()
        finally:
            self.world.close()

    @initialize(hosts=st.integers(1, 3), new=st.booleans(), subnet_len=FEW)
    def begin(self, hosts: int, new: bool, subnet_len: int) -> None:
        self.world.configure(subnet_len, new=new)
        for _ in range(hosts):
            self.world.add()

    def machine(self, which: int) -> Machine:
        return self.world.machines[which % len(self.world.machines)]

    # --- time

    @rule(pause=PAUSES)
    def time_passes(self, pause: float) -> None:
        self.world.wait(pause)

    @rule(pause=LONG)
    def much_time_passes(self, pause: float) -> None:
        self.world.wait(pause)

    # --- hosts

    @precondition(lambda self: len(self.world.machines) < MOST)
    @rule()
    def host_joins(self) -> None:
        self.world.add()

    @precondition(lambda self: len(self.world.machines) < MOST and not self.world.has_doubles)
    @rule(which=WHICH)
    def host_is_copied(self, which: int) -> None:
        self.world.add(double_of=self.machine(which))

    @rule(which=WHICH, pause=PAUSES)
    def agent_dies(self, which: int, pause: float) -> None:
        self.world.run(self.machine(which).kill())
        self.world.wait(pause)

    @rule(which=WHICH)
    def agent_starts(self, which: int) -> None:
        if not self.machine(which).runs:
            self.world.start(self.machine(which))

    @rule(which=WHICH)
    def host_reboots(self, which: int) -> None:
        self.world.run(self.machine(which).reboot())
        self.world.start(self.machine(which))

    @rule(which=WHICH, release=st.booleans())
    def agent_is_stopped(self, which: int, release: bool) -> None:
        if self.machine(which).runs:
            self.world.run(self.machine(which).leave(release=release))

    # --- the network between

    @rule(which=WHICH, cut=st.booleans())
    def link_is_cut_or_mended(self, which: int, cut: bool) -> None:
        self.machine(which).link.cut = cut

    @rule(which=WHICH, lost=st.integers(1, 3))
    def answers_are_lost(self, which: int, lost: int) -> None:
        self.machine(which).link.unanswered = lost

    @rule(which=WHICH, delay=st.sampled_from((0.001, 0.1, 1.2, 1.5, 4.0)))
    def link_is_slow(self, which: int, delay: float) -> None:
        self.machine(which).link.delay = delay

    # --- Consul and its operator

    @rule(which=WHICH)
    def session_ends(self, which: int) -> None:
        lease = self.machine(which).lease
        if lease is not None:
            self.world.consul.end(lease.session)

    @rule(pause=st.sampled_from((0.0, 0.0, 4.0, 60.0)), subnet_len=FEW)
    def store_is_wiped(self, pause: float, subnet_len: int) -> None:
        """Its config comes back at once, as by automation, or later."""
        self.world.wipe()
        self.world.wait(pause)
        self.world.configure(subnet_len)

    @rule(subnet_len=FEW)
    def config_changes(self, subnet_len: int) -> None:
        self.world.configure(subnet_len)

    @rule(which=WHICH, subnet=st.integers(1, 15))
    def subnet_is_reserved(self, which: int, subnet: int) -> None:
        self.world.reserve(self.machine(which).host_id, f"10.9.0.{16 * subnet}/28")

    # --- the end

    def all_is_well_in_the_end(self) -> None:
        """Every host that runs holds a subnet, or says what people have to decide."""
        if not self.world.machines:
            return
        for machine in self.world.machines:
            machine.link.cut, machine.link.unanswered, machine.link.delay = False, 0, 0.001
        self.world.wait(2 * TERMS.busy + TERMS.settle)
        for machine in self.world.machines:
            status = machine.status
            if status is None or not machine.runs:
                continue
            words = f"{machine.host_id} ({machine.number}): {status}"
            if status.standing is Standing.CONFLICT:
                assert any(
                    one in status.reason for one in ("is leased to", "names", "under this host's id", "offer")
                ), words
            elif status.standing is Standing.WAITING:
                assert any(one in status.reason for one in ("no free subnet", "reserved for")), words
            else:
                assert status.standing is Standing.HELD, words


Hosts.TestCase.settings = BOUNDED
TestLeaseLaws = Hosts.TestCase
