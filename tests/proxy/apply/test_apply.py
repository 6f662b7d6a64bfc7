"""Where an apply leads when something is in its way: beside a model of nginx, in simulated time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxygen.kit.errors import NginxUnavailable, OutputUnusable
from proxygen.proxy.apply import apply
from proxygen.proxy.apply.apply import Applied, Applier, Checked
from proxygen.proxy.apply.outcome import Outcome
from proxygen.proxy.apply.publish import (
    current,
    generations,
    hold_output,
    mark_proven,
    next_number,
    proven,
    publish,
    switch,
)
from proxygen.proxy.nginx.addresses import Address, addresses, listen
from proxygen.proxy.nginx.binary import Binary, inspect_binary
from proxygen.proxy.nginx.conf import OperatorConf, read_operator_conf
from proxygen.proxy.nginx.master import Master
from proxygen.proxy.nginx.stamp import STAMP_FILE, Stamp
from tests.harness.generations import staged
from tests.model.world import STAMP, World


class Site:
    """An applier, its output and its nginx."""

    def __init__(self, world: World, stack: ExitStack, **reload: float) -> None:
        self.world = world
        self.nginx = world.nginx
        self.output = stack.enter_context(hold_output(world.output))
        self.binary: Binary = self.do(inspect_binary(world.settings.nginx))
        self.conf: OperatorConf = read_operator_conf(world.settings.nginx, world.output, self.binary)
        settings = world.settings.reload.model_copy(update=reload)
        self.applier = Applier(self.output, self.binary, nginx=world.settings.nginx, reload=settings, keep=3)

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.world.loop.run_until_complete(work)

    def wait(self, seconds: float) -> None:
        self.do(asyncio.sleep(seconds))

    def staged(self, text: str = "", *, port: int = 8080, **more: Any) -> Checked:
        """The next generation, with these words in it."""
        number = next_number(self.output)
        stamp = Stamp(generation=number, digest=f"{number:016x}")
        told = f'location = /proxygen/stamp {{ return 200 "{stamp}"; }}'
        files = {
            "http.d/web.conf": f"server {{\nlisten {port};\n}} # {text}\n",
            STAMP_FILE: f"server {{ listen {STAMP}; {told} }}\n",
        }
        return staged(self.output, stamp, {name: file.encode() for name, file in files.items()}, **more)

    def publish(self, text: str = "", *, port: int = 8080) -> int:
        """Without nginx."""
        return publish(self.output, self.staged(text, port=port), {}).number

    def apply(self, text: str = "", *, port: int = 8080, test_seconds: float = 0.1) -> Applied:
        candidate = self.staged(text, port=port, test_seconds=test_seconds)
        applied: Applied = self.do(self.applier.apply(candidate, self.conf, {"text": text}))
        return applied

    def apply_listening(self, *texts: str) -> Outcome:
        listens = {"http": [listen([text]) for text in texts]}
        applied: Applied = self.do(self.applier.apply(self.staged(listens=listens), self.conf, {}))
        return applied.outcome

    def finish(self) -> Applied:
        applied: Applied = self.do(self.applier.finish_pending(self.conf, test_seconds=0.1))
        return applied

    def roll_back(self, number: int | None) -> Applied:
        applied: Applied = self.do(self.applier.roll_back(number, self.conf, test_seconds=0.1))
        return applied

    @property
    def served(self) -> int | None:
        (stamp,) = {each.stamp for each in self.nginx.served()}
        return stamp.generation if stamp else None

    @property
    def live(self) -> int | None:
        return current(self.world.output)

    @property
    def proven(self) -> tuple[int, ...]:
        return proven(self.world.output)

    @property
    def numbers(self) -> list[int]:
        return [each.number for each in generations(self.world.output)]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def site(stack: ExitStack) -> Site:
    """nginx runs, and no generation is there."""
    world = World()
    stack.callback(world.close)
    site = Site(world, stack)
    assert site.nginx.start()
    return site


# --- the way there ----------------------------------------------------------------------------------------------------


def test_what_was_proven_is_live_and_remembered(site: Site) -> None:
    for number in (1, 2):
        applied = site.apply()
        assert (applied.outcome, applied.generation, applied.refused) == (Outcome.APPLIED, number, None)
        assert list(applied.durations) == ["drain", "publish", "reload", "prove"]
        assert 0.3 <= applied.durations["prove"] < 0.6
        assert applied.durations["publish"] < 0.1
        assert (site.live, site.served, site.proven[-1]) == (number, number, number)
    assert [each.manifest for each in generations(site.world.output)] == [{"text": ""}] * 2


def test_what_the_kernel_shows_is_read_where_nginx_must_bind_anything_new(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after a reload that did not end well, and beside another master: what those hold nobody saw."""
    read: list[Master] = []

    def held_addresses(master: Master) -> frozenset[Address]:
        read.append(master)
        return frozenset()

    def is_read(*texts: str, outcome: Outcome = Outcome.APPLIED) -> bool:
        read.clear()
        assert site.apply_listening(*texts) is outcome
        return bool(read)

    monkeypatch.setattr(apply, "held_addresses", held_addresses)
    assert is_read("80")
    assert not is_read("80")
    assert not is_read("127.0.0.1:80", "80")
    assert is_read("80", "443")
    assert not is_read("443")
    assert is_read("80", "443")
    site.nginx.faults.is_signal_refused = True
    assert not is_read("80", "443", outcome=Outcome.ROLLED_BACK)
    site.nginx.faults.is_signal_refused = False
    assert is_read("80", "443")
    assert not is_read("80", "443")
    site.nginx.kill()
    assert site.nginx.start()
    assert is_read("80", "443")


def test_an_address_that_nginx_cannot_take_by_a_reload_is_seen_after_reloads_that_went_well(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert site.apply_listening("80") is Outcome.APPLIED
    monkeypatch.setattr(apply, "held_addresses", lambda _master: addresses("80"))
    with pytest.raises(NginxUnavailable, match=r"cannot listen on 127\.0\.0\.1:80 beside it before it is restarted"):
        site.apply_listening("127.0.0.1:80")


def test_old_generations_go_and_what_served_before_stays(site: Site) -> None:
    for _ in range(6):
        site.apply()
    assert site.numbers == [4, 5, 6]


def test_a_reload_waits_for_workers_that_drain_but_not_for_ever(stack: ExitStack) -> None:
    world = World()
    stack.callback(world.close)
    site = Site(world, stack, max_draining=4, max_draining_wait=20)
    assert site.nginx.start()
    site.nginx.drain = 10
    assert [site.apply().durations["drain"] for _ in range(3)] == [0, 0, 0], "four drain, which is not too many"
    assert 8 < site.apply().durations["drain"] < 10
    site.wait(20)
    site.nginx.drain = 1_000
    for _ in range(3):
        site.apply()
    assert 20 <= site.apply().durations["drain"] < 20.2


def test_a_working_directory_that_is_gone_is_refused_before_it_ends_every_worker(site: Site, tmp_path: Path) -> None:
    site.apply()
    site.conf = replace(site.conf, working_directory=tmp_path / "gone")
    applied = site.apply()
    assert (applied.outcome, applied.generation) == (Outcome.REJECTED, 1)
    assert f"working_directory {tmp_path}/gone does not exist" in applied.reason
    assert list((site.world.output / "stage").iterdir()) == []
    site.publish()
    assert site.finish().outcome is Outcome.REJECTED
    assert site.roll_back(1).outcome is Outcome.REJECTED
    assert (site.live, site.served, site.nginx.reloads) == (2, 1, 1)
    (tmp_path / "gone").mkdir()
    assert site.finish().outcome is Outcome.APPLIED


# --- the way back -----------------------------------------------------------------------------------------------------


def test_what_nginx_refuses_is_taken_back_with_its_words(site: Site) -> None:
    site.apply()
    site.nginx.faults.refused_at_reload = {"bad"}
    applied = site.apply("bad")
    assert (applied.outcome, applied.generation, applied.refused) == (Outcome.ROLLED_BACK, 1, 2)
    assert applied.reason == 'nginx refused it: the zone "bad" uses another key than before'
    assert applied.log == ('[emerg] the zone "bad" uses another key than before',)
    assert not applied.ended_workers
    assert applied.failed
    assert "restore" in applied.durations
    assert (site.live, site.served, site.proven) == (1, 1, (1,))


def test_of_what_never_worked_two_stay_and_the_way_back_always(site: Site) -> None:
    for _ in range(3):
        site.apply()
    site.nginx.faults.refused_at_reload = {"bad"}
    for _ in range(5):
        site.apply("bad")
    assert site.numbers == [3, 7, 8]
    assert (site.live, site.served) == (3, 3)


def test_workers_that_all_end_are_told_as_such_and_come_back(site: Site) -> None:
    site.apply()
    site.nginx.faults.fatal = {"bad"}
    applied = site.apply("bad")
    assert (applied.outcome, applied.generation, applied.ended_workers) == (Outcome.ROLLED_BACK, 1, True)
    assert site.served == 1


def test_before_the_first_generation_the_way_back_is_to_none(site: Site) -> None:
    site.nginx.faults.refused_at_reload = {"bad"}
    applied = site.apply("bad")
    assert (applied.outcome, applied.generation, applied.refused) == (Outcome.ROLLED_BACK, None, 1)
    assert (site.live, site.served) == (None, None)
    assert site.numbers == [1]


def test_the_way_back_leads_to_what_nginx_serves_not_to_what_current_names(site: Site) -> None:
    """A publication that nginx never read, and one that it was proven to serve later than the one it serves now."""
    site.apply()
    site.apply()
    site.roll_back(1)
    mark_proven(site.output, 2)
    switch(site.output, 2)
    site.nginx.faults.refused_at_reload = {"bad"}
    assert site.apply("bad").generation == 1
    assert (site.live, site.served) == (1, 1)


def test_where_nobody_answers_the_way_back_leads_to_what_was_seen_last(site: Site) -> None:
    """Not to the newest, and not to what ``current`` names: that was never seen to work."""
    for _ in range(3):
        site.apply()
    site.roll_back(2)
    site.publish()
    site.nginx.kill()
    with pytest.raises(NginxUnavailable, match="until it runs generation 2 stays") as refused:
        site.apply(port=9090)
    assert "start with 0.0.0.0:9090" in str(refused.value)
    assert site.live == 2


def test_a_stamp_of_another_content_is_nowhere_to_go_back_to(site: Site) -> None:
    """nginx serves the generation 2 of an output that was lost since."""
    site.apply()
    site.apply()
    manifest = site.world.output / "generations/000002/manifest.json"
    manifest.write_text(manifest.read_text().replace("0000000000000002", "00000000ffffffff"))
    site.nginx.faults.refused_at_reload = {"bad"}
    site.nginx.faults.is_signal_refused = True
    with pytest.raises(NginxUnavailable):
        site.apply("bad")
    assert site.live == 1


def test_an_nginx_that_serves_and_takes_no_signal_is_left_as_it_was(site: Site) -> None:
    """A restart must not find what it does not run."""
    site.apply()
    site.nginx.faults.is_signal_refused = True
    applied = site.apply()
    assert (applied.outcome, applied.generation, applied.refused) == (Outcome.ROLLED_BACK, 1, 2)
    assert "may not signal" in applied.reason
    assert (site.live, site.served) == (1, 1)


def test_a_proof_may_take_three_times_as_long_as_the_test_beside_its_own_time(site: Site) -> None:
    site.apply()
    site.nginx.freeze()
    for test_seconds, allowed in ((0.0, 5.0), (4.0, 17.0)):
        applied = site.apply(test_seconds=test_seconds)
        assert applied.outcome is Outcome.ROLLED_BACK
        assert allowed <= applied.durations["prove"] < allowed + 0.2


# --- nginx that is away -----------------------------------------------------------------------------------------------


def test_what_an_absent_nginx_can_start_from_is_published(site: Site) -> None:
    site.apply()
    site.nginx.kill()
    with pytest.raises(NginxUnavailable, match="no nginx master process"):
        site.apply()
    assert (site.live, site.proven) == (2, (1,))
    assert site.nginx.start()
    finished = site.finish()
    assert (finished.outcome, finished.generation) == (Outcome.UNCHANGED, 2)
    assert site.proven == (1, 2), "it answers, so it was seen"


def test_a_port_that_is_new_to_an_absent_nginx_waits_until_it_runs(site: Site) -> None:
    """A running one refuses a port that is taken and goes on; a start would fail, and again at each try."""
    site.apply()
    site.nginx.kill()
    with pytest.raises(NginxUnavailable, match=r"nginx could start with 0.0.0.0:9090$"):
        site.apply(port=9090)
    assert site.live == 1
    assert site.nginx.start()
    assert site.apply(port=9090).outcome is Outcome.APPLIED
    site.apply()
    site.nginx.kill()
    with pytest.raises(NginxUnavailable, match="no nginx master process"):
        site.roll_back(3)
    assert site.live == 3, "it was seen to serve that port"


def test_before_anything_was_proven_an_absent_nginx_gets_what_there_is(site: Site) -> None:
    site.nginx.kill()
    for number, port in enumerate((8080, 9090), 1):
        with pytest.raises(NginxUnavailable, match="no nginx master process"):
            site.apply(port=port)
        assert site.live == number


def test_what_was_left_undone_is_finished_once(site: Site) -> None:
    assert site.finish() == Applied(outcome=Outcome.UNCHANGED, generation=None)
    site.apply()
    site.publish()
    finished = site.finish()
    assert (finished.outcome, finished.generation) == (Outcome.APPLIED, 2)
    assert (site.served, site.proven) == (2, (1, 2))
    reloads = site.nginx.reloads
    assert site.finish().outcome is Outcome.UNCHANGED
    assert (site.nginx.reloads, site.proven) == (reloads, (1, 2))


def test_what_cannot_be_finished_is_taken_back(site: Site) -> None:
    site.apply()
    site.publish("bad")
    site.nginx.faults.refused_at_reload = {"bad"}
    finished = site.finish()
    assert (finished.outcome, finished.generation, finished.refused) == (Outcome.ROLLED_BACK, 1, 2)
    assert site.live == 1


# --- what the operator asks for ---------------------------------------------------------------------------------------


def test_going_back_leads_to_what_nginx_ran_before(site: Site) -> None:
    for _ in range(3):
        site.apply()
    assert (site.roll_back(None).generation, site.served) == (2, 2)
    assert site.applier.served_before(2) == 3
    assert (site.roll_back(1).generation, site.served, site.live) == (1, 1, 1)
    assert (site.roll_back(None).generation, site.served) == (2, 2)


def test_going_back_to_nowhere_changes_nothing(site: Site) -> None:
    site.apply()
    for number in (None, 1):
        found = site.roll_back(number)
        assert (found.outcome, found.generation) == (Outcome.UNCHANGED, 1)
        assert found.reason == "there is no other generation to go to"
    with pytest.raises(OutputUnusable, match="there is no generation 7 in "):
        site.roll_back(7)
    assert site.nginx.reloads == 1


def test_two_applies_at_once_are_one_after_the_other(site: Site) -> None:
    candidates = []
    for number in (1, 2):
        stamp = Stamp(generation=number, digest=f"{number:016x}")
        told = f'location = /proxygen/stamp {{ return 200 "{stamp}"; }}'
        files = {STAMP_FILE: f"server {{ listen {STAMP}; {told} }}\n".encode()}
        candidates.append(staged(site.output, stamp, files, test_seconds=0))

    async def both() -> list[Applied]:
        return await asyncio.gather(*(site.applier.apply(each, site.conf, {}) for each in candidates))

    assert [each.outcome for each in site.do(both())] == [Outcome.APPLIED, Outcome.APPLIED]
    assert (site.served, site.nginx.reloads) == (2, 2)
    assert not site.world.laws.broken or all("passed" in law for law in site.world.laws.broken)
