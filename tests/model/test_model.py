"""Whatever happens, in whatever order, and wherever the process dies: what design.md promises is so.

Random catalogs and random trouble meet the real core of the sidecar on a real file system; nginx is a model, so that
a kill can be placed between any two steps. What is not slow tries 12 runs, the rest 40, the same ones each time;
PROXYGEN_MODEL_EXAMPLES=2000 looks for longer, and at other runs each time.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from dataclasses import replace
from typing import Final

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from proxygen.catalog import Catalog, Health
from proxygen.kit.errors import ProxygenError
from proxygen.proxy.apply.outcome import Outcome
from proxygen.proxy.apply.publish import current
from proxygen.proxy.nginx.stamp import STAMP_FILE, Stamp
from tests.harness.examples import examples
from tests.model.catalogs import BYSTANDERS, MISTYPED, PORTS, REFUSABLE, catalogs, host
from tests.model.nginx_model import Loaded
from tests.model.world import World

EXAMPLES: Final = int(os.environ.get("PROXYGEN_MODEL_EXAMPLES", "0"))
BOUNDED: Final = settings(
    max_examples=EXAMPLES or examples(12),
    stateful_step_count=25,
    # The same runs each time, unless somebody looks for new ones.
    derandomize=not EXAMPLES,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)

LONGEST_PAUSE: Final = 3_000.0
"""Seconds after which everything was tried again: 16 minutes for what took nginx down, five for what is held."""

PAUSES: Final = st.sampled_from((0.03, 0.06, 0.2, 1.0, 8.0, 70.0))
STEPS: Final = st.integers(1, 45)
"""An apply has about forty steps on the disk."""


class Sidecar(RuleBasedStateMachine):
    """One sidecar, its nginx and its disk."""

    has_lua = False

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.world.nginx.has_lua = self.has_lua
        self.world.nginx.start()

    def teardown(self) -> None:
        try:
            self.all_is_well_in_the_end()
        finally:
            self.world.close()

    @initialize(catalog=catalogs())
    def begin(self, catalog: Catalog) -> None:
        self.world.tell(catalog)
        self.world.start()
        self.world.wait(2)

    # --- Consul

    @rule(catalog=catalogs(), pause=PAUSES)
    def catalog_changes(self, catalog: Catalog, pause: float) -> None:
        self.world.tell(catalog)
        self.world.wait(pause)

    @rule(pause=PAUSES)
    def time_passes(self, pause: float) -> None:
        self.world.wait(pause)

    # --- the process

    @rule(catalog=catalogs(), steps=STEPS)
    def process_dies_within_a_change(self, catalog: Catalog, steps: int) -> None:
        self.world.disk.die_in(steps)
        self.world.tell(catalog)
        self.world.wait(15)

    @rule(catalog=catalogs(), steps=STEPS, does_nginx_start=st.booleans())
    def machine_dies_within_a_change(self, catalog: Catalog, steps: int, does_nginx_start: bool) -> None:
        self.world.disk.die_in(steps)
        self.world.tell(catalog)
        self.world.wait(15)
        self.world.lose_power()
        if does_nginx_start:
            self.world.nginx.start()

    @precondition(lambda self: self.world.is_alive)
    @rule(does_nginx_start=st.booleans())
    def machine_dies(self, does_nginx_start: bool) -> None:
        self.world.lose_power()
        if does_nginx_start:
            self.world.nginx.start()

    @rule(steps=STEPS)
    def process_will_die(self, steps: int) -> None:
        self.world.disk.die_in(steps)

    @precondition(lambda self: not self.world.is_alive)
    @rule(with_consul=st.booleans(), pause=PAUSES)
    def process_starts(self, with_consul: bool, pause: float) -> None:
        self.world.start(with_consul=with_consul)
        self.world.wait(pause)

    @precondition(lambda self: self.world.is_alive)
    @rule()
    def process_is_stopped(self) -> None:
        self.world.stop()

    # --- the disk

    @rule(steps=STEPS, code=st.sampled_from((errno.EIO, errno.ENOSPC, errno.EACCES, errno.EMFILE)))
    def disk_fails_once(self, steps: int, code: int) -> None:
        self.world.disk.fail_in(steps, code)

    @rule(code=st.sampled_from((errno.ENOSPC, errno.EROFS)))
    def disk_refuses(self, code: int) -> None:
        self.world.disk.refuse(code)

    @rule()
    def disk_is_mended(self) -> None:
        self.world.disk.mend()

    # --- nginx

    @precondition(lambda self: self.world.nginx.is_running)
    @rule()
    def nginx_dies(self) -> None:
        self.world.nginx.kill()

    @precondition(lambda self: not self.world.nginx.is_running)
    @rule(pause=PAUSES)
    def nginx_starts(self, pause: float) -> None:
        self.world.nginx.start()
        self.world.wait(pause)

    @rule(pause=PAUSES)
    def nginx_hangs(self, pause: float) -> None:
        self.world.nginx.freeze()
        self.world.wait(pause)

    @rule()
    def nginx_goes_on(self) -> None:
        self.world.nginx.thaw()

    @rule(seconds=st.sampled_from((0.3, 5.0, 100.0)))
    def old_workers_drain(self, seconds: float) -> None:
        self.world.nginx.drain = seconds

    @rule(refused=st.booleans(), stuck=st.booleans())
    def nginx_cannot_be_asked(self, refused: bool, stuck: bool) -> None:
        self.world.nginx.faults.is_signal_refused = refused
        self.world.nginx.faults.is_test_stuck = stuck

    @rule(texts=st.sets(st.sampled_from(REFUSABLE), max_size=2))
    def nginx_dislikes(self, texts: set[str]) -> None:
        self.world.nginx.faults.refused = texts

    @rule(texts=st.sets(st.sampled_from(REFUSABLE), max_size=1))
    def nginx_refuses_reloads(self, texts: set[str]) -> None:
        self.world.nginx.faults.refused_at_reload = texts

    @rule(texts=st.sets(st.sampled_from(REFUSABLE), max_size=1))
    def workers_cannot_live_with(self, texts: set[str]) -> None:
        self.world.nginx.faults.fatal = texts

    @rule(ports=st.sets(st.sampled_from(PORTS)))
    def ports_are_taken(self, ports: set[int]) -> None:
        self.world.nginx.faults.taken = ports

    # --- the operator

    @precondition(lambda self: self.world.is_alive)
    @rule(back=st.none() | st.integers(0, 3))
    def operator_goes_back(self, back: int | None) -> None:
        live = current(self.world.output)
        number = max(1, live - back) if live is not None and back is not None else None
        # Meanwhile nginx may serve what the operator went back to before, or what he goes back to now.
        laws = self.world.laws
        before, laws.pinned = laws.pinned, None
        try:
            step = self.world.ask(self.world.reconciler.roll_back(number))
            if step is not None and step.outcome is Outcome.APPLIED:
                before = step.generation
        except ProxygenError:
            pass
        finally:
            laws.pinned = before

    @precondition(lambda self: self.world.is_alive)
    @rule()
    def operator_lets_go(self) -> None:
        self.world.laws.pinned = None
        with suppress(ProxygenError):
            self.world.ask(self.world.reconciler.release_hold())

    @precondition(lambda self: self.world.is_alive)
    @rule()
    def operator_asks_for_a_new_reading(self) -> None:
        self.world.reconciler.files_changed()

    # --- what must be so

    @invariant()
    def no_law_is_broken(self) -> None:
        self.world.laws.judge_rest()
        assert not self.world.laws.broken, self.world.laws.broken

    @rule()
    def what_is_gone_at_once_is_kept(self) -> None:
        """Consul shows every service empty: as long as that may be its own trouble, nothing changes."""
        world = self.world
        world.heal()
        world.let_go()
        world.wait(LONGEST_PAUSE)
        assert world.catalog is not None
        serving = {
            f"server {each.endpoint}": service.name
            for service in world.expected().plan.services
            for upstream in service.upstreams
            for each in upstream.servers
        }
        world.tell(replace(world.catalog, services=dict.fromkeys(world.catalog.services, ())))
        world.wait(world.settings.guard.hold / 2)
        text = text_of(self.served())
        if len(set(serving.values())) > 1:
            assert not [server for server in serving if server not in text], world.why()

    @rule()
    def bystanders_are_served(self) -> None:
        """Nobody is in the way but services of others, that nginx refuses."""
        faults = self.world.nginx.faults
        refused, taken = faults.refused, faults.taken
        self.world.heal()
        faults.refused, faults.taken = refused, taken
        self.world.let_go()
        self.world.wait(LONGEST_PAUSE)
        assert self.world.catalog is not None
        text = text_of(self.served())
        for name, network in BYSTANDERS.items():
            instances = self.world.catalog.services.get(name, ())  # type: ignore[call-overload]
            serving = [
                each.address
                for each in instances
                if each.health is Health.PASSING and not {"proxygen.weight=0", f"proxygen.{MISTYPED}"} & {*each.tags}
            ]
            assert (host(name) in text) is bool(instances), (name, self.world.why())
            for address in serving:
                assert f"server {address}:8080" in text, (address, self.world.why())
            servers = [line for line in text.splitlines() if f"server {network}" in line and "backup" not in line]
            assert len(servers) == len(serving), (servers, self.world.why())

    @rule()
    def all_is_well_in_the_end(self) -> None:
        """Once every trouble is over, nginx serves the newest catalog, and nothing more happens."""
        world = self.world
        world.heal()
        if world.laws.pinned is not None:
            world.wait(LONGEST_PAUSE)
            assert self.served().stamp is not None
            assert world.reconciler.state.pinned == world.laws.pinned
        world.let_go()
        world.wait(LONGEST_PAUSE)
        assert not world.missing(), "\n".join((*world.missing(), world.why()))
        served = self.served()
        assert served.stamp is not None
        assert served.stamp.generation == current(world.output)
        world.laws.judge_current()
        reloads = world.nginx.reloads
        world.tell(world.catalog)
        world.wait(1)
        world.stop()
        world.start(with_consul=False)
        world.wait(60)
        world.tell(world.catalog)
        world.wait(60)
        assert world.nginx.reloads == reloads, world.why()
        assert self.served() == served
        world.nginx.kill()
        assert world.nginx.start()
        assert in_force_of(self.served()) == in_force_of(served), "the files say something else than what was served"
        self.no_law_is_broken()

    def served(self) -> Loaded:
        """What every worker serves."""
        found = self.world.nginx.served()
        assert found, f"nobody serves: {self.world.why()}"
        assert all(each == found[0] for each in found)
        return found[0]


def in_force_of(loaded: Loaded) -> tuple[Stamp | None, dict[str, bytes]]:
    """What is served, however it came there."""
    return loaded.stamp, {name: content for name, content in loaded.files.items() if name != STAMP_FILE}


def text_of(loaded: Loaded) -> str:
    return b"\n".join(loaded.files.values()).decode()


class SidecarForLonger(Sidecar):
    """The same in more runs, of which the first are the same."""


class PushingSidecar(Sidecar):
    """The same with an nginx that can be pushed to, and with somebody who has it read its files at any moment."""

    has_lua = True

    @precondition(lambda self: self.world.nginx.is_running)
    @rule(pause=PAUSES)
    def somebody_reloads_nginx(self, pause: float) -> None:
        self.world.nginx.reload_by_others()
        self.world.wait(pause)

    @rule(catalog=catalogs(), steps=STEPS, is_restarted=st.booleans())
    def somebody_has_nginx_read_within_a_change(self, catalog: Catalog, steps: int, is_restarted: bool) -> None:
        self.world.disk.do_in(steps, self.world.nginx.restart if is_restarted else self.world.nginx.reload_by_others)
        self.world.tell(catalog)
        self.world.wait(15)

    @rule(catalog=catalogs(), pause=PAUSES)
    def somebody_asks_nginx_to_take_what_lies_there(self, catalog: Catalog, pause: float) -> None:
        self.world.tell(catalog)
        self.world.wait(pause)
        self.world.nginx.take()


class PushingSidecarForLonger(PushingSidecar):
    """As above."""


# What is found is made small first, and the long form takes its time.
PATIENT: Final = pytest.mark.timeout(3600 if EXAMPLES else 900)

Sidecar.TestCase.settings = BOUNDED
TestSidecar = Sidecar.TestCase
TestSidecar.pytestmark = [PATIENT]  # type: ignore[attr-defined]

SidecarForLonger.TestCase.settings = settings(BOUNDED, max_examples=EXAMPLES or 40)
TestSidecarForLonger = SidecarForLonger.TestCase
TestSidecarForLonger.pytestmark = [PATIENT, pytest.mark.slow]  # type: ignore[attr-defined]

PushingSidecar.TestCase.settings = BOUNDED
TestPushingSidecar = PushingSidecar.TestCase
TestPushingSidecar.pytestmark = [PATIENT]  # type: ignore[attr-defined]

PushingSidecarForLonger.TestCase.settings = settings(BOUNDED, max_examples=EXAMPLES or 40)
TestPushingSidecarForLonger = PushingSidecarForLonger.TestCase
TestPushingSidecarForLonger.pytestmark = [PATIENT, pytest.mark.slow]  # type: ignore[attr-defined]
