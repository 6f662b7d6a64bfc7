from __future__ import annotations

import json
from pathlib import Path

from proxygen.nginx.publish import hold_output, mark_proven, publish, stage
from proxygen.nginx.stamp import Stamp
from tests.cli.conftest import Proxygen


def fill(directory: Path) -> None:
    with hold_output(directory) as output:
        for number in (1, 2, 3):
            staged = stage(output, Stamp(generation=number, digest=f"{number}" * 64), {})
            publish(output, staged, {})
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


def test_no_generation_yet_is_said(proxygen: Proxygen, tmp_path: Path) -> None:
    ended = proxygen("history", "--output", str(tmp_path))
    assert (ended.code, ended.out) == (0, "")
    assert "no generation" in ended.err


def test_a_directory_that_is_not_there_is_code_1(proxygen: Proxygen, tmp_path: Path) -> None:
    ended = proxygen("history", "--output", str(tmp_path / "nope"))
    assert ended.code == 1
    assert ended.err.count("\n") == 1
