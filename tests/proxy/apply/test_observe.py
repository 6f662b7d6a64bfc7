"""The proof that a reload took, of an nginx that does what a script says, in simulated time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from proxygen.proxy.apply import observe
from proxygen.proxy.apply.observe import Before, Proven, Unproven, prove
from proxygen.proxy.nginx.errorlog import LogTail
from proxygen.proxy.nginx.master import Master, Workers
from proxygen.proxy.nginx.stamp import Stamp
from proxygen.settings import ReloadSettings
from tests.model.clock import simulated_time

OLD = Stamp(generation=4, digest="0000000000000004")
NEW = Stamp(generation=5, digest="0000000000000005")
MASTER = Master(pid=70, own_pid=7)
ADDRESS = "127.0.0.1:18082"

At = Callable[[float], Workers | None]


def those(*accepting: int, draining: tuple[int, ...] = (), starting: tuple[int, ...] = ()) -> Workers:
    return Workers(accepting=frozenset(accepting), draining=frozenset(draining), starting=frozenset(starting))


OLD_ONES = those(11, 12)


def turning(at: float = 0.1) -> At:
    """The old ones drain from that moment on."""
    return lambda time: those(11, 12, 21, 22) if time < at else those(21, 22, draining=(11, 12))


@dataclass
class Nginx:
    """What can be seen of it, each by the seconds since it was asked to reload."""

    log: Path
    workers: At
    stamp: Callable[[float], Stamp | None] = lambda time: NEW if time > 0.05 else OLD
    is_alive: Callable[[float], bool] = lambda time: True
    writes: dict[float, str] = field(default_factory=dict)
    """Lines of its error log."""
    before: Workers | None = OLD_ONES
    is_seen: bool = True

    def prove(self, expected: Stamp | None = NEW, *, allowed: float = 5.0, **knobs: float) -> Proven | Unproven:
        self.log.touch()
        before = Before(master=MASTER if self.is_seen else None, workers=self.before, log=LogTail(self.log))
        settings = ReloadSettings(**knobs)  # type: ignore[arg-type]
        with simulated_time() as loop, pytest.MonkeyPatch.context() as patched:
            started = loop.time()

            def now() -> float:
                return loop.time() - started

            async def read_stamp(address: str) -> Stamp | None:
                assert address == ADDRESS
                return self.stamp(now())

            def is_alive(master: Master) -> bool:
                assert master == MASTER
                return self.is_alive(now())

            def write(line: str) -> None:
                with self.log.open("a") as log:
                    log.write(f"2026/01/01 00:00:00 {line}\n")

            for at, line in self.writes.items():
                loop.call_later(at, write, line)
            patched.setattr(observe, "workers", lambda master: self.workers(now()))
            patched.setattr(observe, "read_stamp", read_stamp)
            patched.setattr(observe, "is_alive", is_alive)
            work = prove(before, expected, address=ADDRESS, settings=settings, allowed=allowed)
            return loop.run_until_complete(work)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "error.log"


def seconds(found: Proven | Unproven) -> float:
    assert isinstance(found, Proven), found
    return found.seconds


def failed(found: Proven | Unproven) -> Unproven:
    assert isinstance(found, Unproven), found
    return found


# --- nginx whose processes are seen -----------------------------------------------------------------------------------


@pytest.mark.parametrize("alive_after", [0.3, 1.2])
def test_proven_is_what_answers_once_nobody_old_accepts_and_somebody_new_has_lived(
    log: Path, alive_after: float
) -> None:
    took = seconds(Nginx(log, turning(0.5)).prove(alive_after=alive_after))
    assert 0.5 + alive_after <= took < 0.5 + alive_after + 0.15


def test_old_workers_that_go_on_accepting_are_no_proof(log: Path) -> None:
    found = failed(Nginx(log, turning(99)).prove(allowed=2.0))
    assert found.reason.endswith("s: old workers 11, 12 still accept")
    assert 2.0 < found.seconds < 2.2
    assert (found.served, found.ended_workers) == (NEW, False)


def test_an_old_worker_that_is_late_by_one_is_waited_for(log: Path) -> None:
    late = Nginx(log, lambda time: those(12, 21, 22) if time < 3 else those(21, 22))
    assert 3.3 <= seconds(late.prove()) < 3.45


def test_workers_that_live_shorter_than_it_takes_are_no_proof(log: Path) -> None:
    """Each is replaced by another: at every moment somebody accepts."""
    found = failed(Nginx(log, lambda time: those(100 + int(time * 5))).prove(allowed=3.0))
    assert found.reason.endswith("no new worker stays alive")


def test_one_new_worker_that_stays_is_enough(log: Path) -> None:
    assert seconds(Nginx(log, lambda time: those(21, 100 + int(time * 5))).prove()) < 0.5


def test_a_worker_that_was_being_started_before_is_none_of_the_new_ones(log: Path) -> None:
    nginx = Nginx(log, lambda time: those(13), before=those(11, starting=(13,)))
    assert "no new worker" in failed(nginx.prove(allowed=1.0)).reason


def test_one_that_accepts_again_or_answers_otherwise_begins_the_time_anew(log: Path) -> None:
    stumbling = Nginx(log, turning(0.1), stamp=lambda time: OLD if 0.3 < time < 0.4 else NEW)
    assert 0.7 <= seconds(stumbling.prove()) < 0.9


@pytest.mark.parametrize(
    ("answers", "said"),
    [(OLD, "generation 4 answers"), (None, f"no stamp answers at {ADDRESS}")],
)
def test_what_answers_instead_is_told(log: Path, answers: Stamp | None, said: str) -> None:
    found = failed(Nginx(log, turning(), stamp=lambda time: answers).prove(allowed=1.5))
    assert found.reason == f"nginx did not confirm the reload within {found.seconds:.1f}s: {said}"
    assert found.served == answers


def test_another_digest_of_the_same_number_is_another_generation(log: Path) -> None:
    stranger = Stamp(generation=5, digest="00000000ffffffff")
    assert isinstance(Nginx(log, turning(), stamp=lambda time: stranger).prove(allowed=1.0), Unproven)


def test_no_stamp_at_all_is_what_is_expected_before_the_first_generation(log: Path) -> None:
    assert seconds(Nginx(log, turning(), stamp=lambda time: None).prove(None)) < 0.6
    assert isinstance(Nginx(log, turning(), stamp=lambda time: NEW).prove(None, allowed=1.0), Unproven)


# --- what ends it at once ---------------------------------------------------------------------------------------------


def test_the_masters_own_refusal_ends_it_with_its_words(log: Path) -> None:
    """It signs with its number in its own namespace."""
    found = failed(Nginx(log, lambda time: OLD_ONES, writes={0.4: "[emerg] 7#7: unknown key"}).prove())
    assert found.reason == "nginx refused it: unknown key"
    assert found.log == ("[emerg] unknown key",)
    assert 0.35 < found.seconds < 0.5


@pytest.mark.parametrize(
    "line",
    [
        "[emerg] 70#70: of another namespace's number 70",
        "[emerg] 8#8: of nginx -t",
        "[alert] 7#7: a worker exited",
        "[crit] 7#7: a request's",
        "[emerg] 7#7: bind() to 0.0.0.0:80 failed (98: Address already in use)",
    ],
)
def test_what_others_write_or_the_master_tries_again_refuses_nothing(log: Path, line: str) -> None:
    assert isinstance(Nginx(log, turning(), writes={0.2: line}).prove(), Proven)


def test_where_the_master_is_out_of_sight_any_refusal_counts(log: Path) -> None:
    nginx = Nginx(log, turning(), before=None, is_seen=False, writes={0.2: "[emerg] 1234#0: unknown key"})
    assert failed(nginx.prove()).reason == "nginx refused it: unknown key"


def test_what_was_written_before_is_of_an_earlier_reload(log: Path) -> None:
    log.write_text("2026/01/01 00:00:00 [emerg] 7#7: unknown key\n")
    assert isinstance(Nginx(log, turning()).prove(), Proven)


def test_a_master_that_is_gone_proves_nothing(log: Path) -> None:
    found = failed(Nginx(log, turning(9), is_alive=lambda time: time < 1).prove())
    assert found.reason == "nginx's master process 70 is gone"
    assert 0.95 < found.seconds < 1.1


def test_workers_that_all_end_are_an_outage(log: Path) -> None:
    found = failed(Nginx(log, lambda time: OLD_ONES if time < 0.2 else those(draining=(11,))).prove())
    assert (found.ended_workers, found.reason) == (True, "every worker ended as soon as it was started")
    assert 0.35 <= found.seconds < 0.45


def test_a_moment_between_two_workers_is_none(log: Path) -> None:
    def workers(time: float) -> Workers:
        return OLD_ONES if time < 0.2 else those() if time < 0.3 else those() if 0.5 < time < 0.6 else those(21)

    assert isinstance(Nginx(log, workers).prove(), Proven)


def test_one_that_is_being_started_is_somebody(log: Path) -> None:
    nginx = Nginx(log, lambda time: those(starting=(21,)) if time < 1 else those(21))
    assert 1.3 <= seconds(nginx.prove()) < 1.5


def test_after_an_outage_nobody_is_missed_until_somebody_was_there(log: Path) -> None:
    """The way back begins without workers."""
    nginx = Nginx(log, lambda time: those() if time < 0.6 else those(21), before=those())
    assert 0.9 <= seconds(nginx.prove()) < 1.1


# --- nginx that is out of sight ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("overlap", [1.0, 2.0])
def test_out_of_sight_it_must_answer_alone_for_longer_than_old_and_new_accept_side_by_side(
    log: Path, overlap: float
) -> None:
    nginx = Nginx(log, lambda time: None, before=None, stamp=lambda time: OLD if time < 0.3 else NEW)
    assert 0.3 + overlap <= seconds(nginx.prove(overlap=overlap)) < 0.45 + overlap


def test_out_of_sight_one_other_answer_begins_the_time_anew(log: Path) -> None:
    nginx = Nginx(log, lambda time: None, before=None, stamp=lambda time: OLD if 0.8 < time < 0.85 else NEW)
    assert 1.8 <= seconds(nginx.prove()) < 2.0


def test_out_of_sight_answers_that_take_turns_are_no_proof(log: Path) -> None:
    nginx = Nginx(log, lambda time: None, before=None, stamp=lambda time: NEW if time % 0.7 < 0.6 else OLD)
    found = failed(nginx.prove(allowed=3.7))
    assert found.reason.endswith("other generations answered in between")


def test_the_same_before_without_its_processes_rests_on_the_answer_alone(log: Path) -> None:
    log.touch()
    before = Before(master=MASTER, workers=OLD_ONES, log=LogTail(log)).unseen()
    log.write_text("2026/01/01 00:00:00 [emerg] 7#7: of the first reload\n")
    assert (before.master, before.workers, before.log.read()) == (MASTER, None, [])
