from __future__ import annotations

import json
from pathlib import Path

import msgspec

from proxygen.proxy.apply.outcome import Outcome, WayToNginx
from proxygen.proxy.apply.publish import hold_output, mark_proven, publish, switch
from proxygen.proxy.nginx.stamp import Stamp
from proxygen.proxy.record.steps import Step
from tests.cli.conftest import Proxygen
from tests.harness.generations import staged


def fill(directory: Path) -> None:
    with hold_output(directory) as output:
        for number in (1, 2, 3):
            made = staged(output, Stamp(generation=number, digest=f"{number}" * 64), {})
            publish(output, made, {})
            if number < 3:
                mark_proven(output, number)


def test_generations_are_listed_newest_first_with_the_live_and_the_proven(proxygen: Proxygen, tmp_path: Path) -> None:
    fill(tmp_path)
    ended = proxygen("history", "--output", str(tmp_path))
    rows = [line.split() for line in ended.out.splitlines()[1:]]
    assert [row[:2] for row in rows] == [["3", "live"], ["2", "proven"], ["1", "proven"]]
    assert rows[1][3:] == ["2" * 12]
    body = json.loads(proxygen("history", "--output", str(tmp_path), "--json").out)
    assert [generation["number"] for generation in body] == [3, 2, 1]


def test_it_is_said_which_was_pushed(proxygen: Proxygen, tmp_path: Path) -> None:
    fill(tmp_path)
    made = tuple(
        Step(at="1", outcome=Outcome.APPLIED, generation=number, by=by)
        for number, by in ((1, WayToNginx.RELOAD), (2, WayToNginx.PUSH), (3, WayToNginx.PUSH))
    )
    (tmp_path / "state" / "journal.json").write_bytes(msgspec.json.encode(made))
    rows = [line.split("  ") for line in proxygen("history", "--output", str(tmp_path)).out.splitlines()[1:]]
    assert [[cell.strip() for cell in row if cell][:2] for row in rows] == [
        ["3", "live by push"],
        ["2", "proven by push"],
        ["1", "proven"],
    ]


def test_each_tells_of_the_attempt_that_it_was_made_for(proxygen: Proxygen, tmp_path: Path) -> None:
    """Not of what came later while it stayed live, and the one that nginx did not take says why."""
    fill(tmp_path)
    made = (
        Step(at="1", outcome=Outcome.APPLIED, generation=1, cause="a: new", durations={"prove": 0.5}, propagation=0.7),
        Step(at="2", outcome=Outcome.APPLIED, generation=2, cause="b: new"),
        Step(
            at="3",
            outcome=Outcome.ROLLED_BACK,
            generation=2,
            refused=3,
            reason="no proof | bind() failed",
            cause="c: new",
        ),
        Step(at="4", outcome=Outcome.HELD, generation=2, reason="eight servers went", cause="d: gone"),
        Step(at="5", outcome=Outcome.REJECTED, generation=2, reason="nginx -t", cause="e: new"),
        Step(at="6", outcome=Outcome.APPLIED, generation=1, cause="the operator went back to generation 1"),
        Step(at="7", outcome=Outcome.HELD, generation=1, reason="the operator went back", durations={"plan": 0.001}),
    )
    (tmp_path / "state" / "journal.json").write_bytes(msgspec.json.encode(made))
    with hold_output(tmp_path) as output:
        switch(output, 1)
    found = {each["number"]: each for each in json.loads(proxygen("history", "--output", str(tmp_path), "--json").out)}
    assert {number: (each["outcome"], each["cause"], each["reason"]) for number, each in found.items()} == {
        1: ("live", "a: new", ""),
        2: ("proven", "b: new", ""),
        3: ("rolled back", "c: new", "no proof | bind() failed"),
    }
    assert (found[1]["durations"], found[1]["propagation"]) == ({"prove": 0.5}, 0.7)


def test_no_generation_yet_is_said(proxygen: Proxygen, tmp_path: Path) -> None:
    ended = proxygen("history", "--output", str(tmp_path))
    assert (ended.code, ended.out) == (0, "")
    assert "no generation" in ended.err


def test_a_directory_that_is_not_there_is_code_1(proxygen: Proxygen, tmp_path: Path) -> None:
    ended = proxygen("history", "--output", str(tmp_path / "nope"))
    assert ended.code == 1
    assert ended.err.count("\n") == 1
