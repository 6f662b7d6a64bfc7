"""Generations with what the journal knows of them, and what is different between two."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from proxygen.kit.errors import UnknownGeneration
from proxygen.proxy.admin.history import LONGEST_DIFF, attempts, generation_difference, generation_report
from proxygen.proxy.apply.outcome import Outcome, WayToNginx
from proxygen.proxy.apply.publish import Generation, Output, generations, hold_output, publish, switch
from proxygen.proxy.nginx.default_copies import OPERATOR_FILE
from proxygen.proxy.nginx.stamp import STAMP_FILE, Stamp
from proxygen.proxy.record.steps import Step
from tests.harness.generations import staged


def entry(outcome: str, generation: int | None, *, refused: int | None = None, cause: str = "") -> Step:
    return Step(
        at="2026-01-01T00:00:00.000+00:00",
        outcome=Outcome(outcome),
        generation=generation,
        refused=refused,
        reason=f"reason {cause}",
        cause=cause,
        durations={"prove": 0.5},
        propagation=1.5,
    )


def test_the_attempt_of_a_generation_is_the_first_that_made_it_whether_nginx_took_it_or_not() -> None:
    """What came later is another story: a hold while it was live, a candidate that it survived, a way back to it."""
    entries = (
        entry("applied", 1, cause="a"),
        entry("rolled back", 1, refused=2, cause="b"),
        entry("held", 1, cause="c"),
        entry("rejected", 1, cause="d"),
        entry("applied", 3, cause="e"),
        entry("applied", 1, cause="f"),
        entry("applied", None, cause="g"),
    )
    assert {number: each.cause for number, each in attempts(entries).items()} == {1: "a", 2: "b", 3: "e"}


def generation(*, live: bool, proven: bool) -> Generation:
    stamp = Stamp(generation=7, digest="00000000000000aa")
    published_at = "2026-02-03T04:05:06.000+00:00"
    return Generation(
        stamp=stamp, path=Path("/nowhere"), published_at=published_at, manifest={}, live=live, proven=proven
    )


@pytest.mark.parametrize(
    ("live", "proven", "attempt", "outcome"),
    [
        (True, True, None, "live"),
        (False, True, None, "proven"),
        (False, True, "rolled back", "proven"),
        (True, False, None, "not proven"),
        (False, False, "applied", "not proven"),
        (False, False, "rolled back", "rolled back"),
        (True, False, "rolled back", "rolled back"),
    ],
)
def test_a_generation_is_called_what_it_is_now(live: bool, proven: bool, attempt: str | None, outcome: str) -> None:
    made = entry(attempt, 7, cause="why") if attempt else None
    report = generation_report(generation(live=live, proven=proven), made)
    assert (report.number, report.digest, report.created) == (7, "00000000000000aa", "2026-02-03T04:05:06.000+00:00")
    assert (report.live, report.outcome) == (live, outcome)
    told = (report.cause, report.reason, dict(report.durations or {}), report.propagation)
    assert told == (("why", "reason why", {"prove": 0.5}, 1.5) if made else ("", "", {}, None))


@pytest.mark.parametrize(("attempt", "told"), [("applied", "push"), ("rolled back", ""), (None, "")])
def test_by_which_way_it_reached_nginx_is_told_of_one_that_did(attempt: str | None, told: str) -> None:
    made = msgspec.structs.replace(entry(attempt, 7), by=WayToNginx.PUSH) if attempt else None
    assert generation_report(generation(live=True, proven=True), made).by == told


@pytest.fixture
def output(tmp_path: Path) -> Iterator[Output]:
    """Generations 2, 5 and 9; the second is live."""
    texts = {2: "one\ntwo\n", 5: "one\nthree\nfour\n", 9: "one\n"}
    with hold_output(tmp_path) as output:
        for number, text in texts.items():
            files = {"http.d/a.conf": text, "stream.d/same.conf": "same\n", STAMP_FILE: f"{number}\n"}
            made = staged(
                output,
                Stamp(generation=number, digest=f"{number:08x}"),
                {name: content.encode() for name, content in files.items()},
            )
            publish(output, made, {})
        switch(output, 5)
        yield output


def test_without_a_second_number_it_is_the_newest_older_one_that_is_compared_with(output: Output) -> None:
    report = generation_difference(output.directory, 9, None)
    assert (report.generation, report.against) == (9, 5)
    report = generation_difference(output.directory, 5, None)
    assert (report.generation, report.against) == (5, 2)
    assert report.summary == "1 files change against generation 2: 2 lines added, 1 removed"
    assert [(file.path, file.added, file.removed) for file in report.files] == [("http.d/a.conf", 2, 1)]
    assert report.diff == "--- 2/http.d/a.conf\n+++ 5/http.d/a.conf\n@@ -1,2 +1,3 @@\n one\n-two\n+three\n+four\n"
    assert not report.truncated


def test_the_first_is_compared_with_nothing(output: Output) -> None:
    report = generation_difference(output.directory, 2, None)
    assert (report.against, report.summary) == (None, "2 files change against nothing: 3 lines added, 0 removed")
    assert report.diff.startswith("--- nothing/http.d/a.conf\n+++ 2/http.d/a.conf\n")


def test_any_two_can_be_compared_in_either_direction(output: Output) -> None:
    assert generation_difference(output.directory, 2, 9).diff.splitlines()[-2:] == [" one", "+two"]
    assert generation_difference(output.directory, 9, 2).diff.splitlines()[-2:] == [" one", "-two"]
    assert generation_difference(output.directory, 5, 5).diff == ""


def test_what_is_the_operators_own_is_counted_and_not_shown(tmp_path: Path) -> None:
    with hold_output(tmp_path) as output:
        for number, text in ((1, "server { return 200 one; }\n"), (2, "server { return 200 two; }\n")):
            stamp = Stamp(generation=number, digest=f"{number:08x}")
            publish(output, staged(output, stamp, {OPERATOR_FILE: text.encode()}), {})
    report = generation_difference(tmp_path, 2, 1)
    assert [(file.path, file.added, file.removed) for file in report.files] == [(OPERATOR_FILE, 1, 1)]
    names, shown = report.diff.splitlines()[:2], report.diff.splitlines()[2:]
    assert names == [f"--- 1/{OPERATOR_FILE}", f"+++ 2/{OPERATOR_FILE}"]
    assert shown == [f"@@ not shown: {OPERATOR_FILE} holds copies of servers of your nginx.conf @@"]


@pytest.mark.parametrize(("number", "against"), [(7, None), (9, 7), (7, 2)])
def test_a_generation_that_is_not_there_is_told_with_those_that_are(
    output: Output, number: int, against: int | None
) -> None:
    with pytest.raises(UnknownGeneration, match=r"^there is no generation 7 on disk; there are 2 to 9$"):
        generation_difference(output.directory, number, against)


def test_where_there_is_none_that_is_told(tmp_path: Path) -> None:
    with pytest.raises(UnknownGeneration, match=r"there are none$"):
        generation_difference(tmp_path, 1, None)


@pytest.mark.parametrize(("lines", "is_cut"), [(LONGEST_DIFF - 3, False), (LONGEST_DIFF - 2, True)])
def test_a_long_difference_is_cut_and_says_so(tmp_path: Path, lines: int, is_cut: bool) -> None:
    """Three of its lines are the two names and the place."""
    with hold_output(tmp_path) as output:
        files = {"http.d/a.conf": b"x\n" * lines}
        publish(output, staged(output, Stamp(generation=1, digest="00000001"), files), {})
        assert len(generations(tmp_path)) == 1
    report = generation_difference(tmp_path, 1, None)
    assert (report.truncated, len(report.diff.splitlines())) == (is_cut, LONGEST_DIFF)
    assert report.files[0].added == lines
