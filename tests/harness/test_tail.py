from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tests.harness.tail import JsonLines


def test_whatever_the_pieces_each_line_is_read_once(tmp_path: Path) -> None:
    text = b'{"n": 1}\nTraceback: none\n{"n": 2, "word": "\xc3\xbc"}\n{"n": 3}\n'

    @given(st.lists(st.integers(0, len(text))))
    def holds(cuts: list[int]) -> None:
        path = tmp_path / "log"
        path.unlink(missing_ok=True)
        lines = JsonLines(path)
        assert lines.so_far() == []
        places = sorted({0, *cuts, len(text)})
        for begin, end in pairwise(places):
            with path.open("ab") as file:
                file.write(text[begin:end])
            told = [line["n"] for line in lines.so_far()]
            assert told == [number for number in (1, 2, 3) if f'"n": {number}' in _whole(text[:end])]
        assert lines.so_far()[1]["word"] == "ü"

    holds()


def _whole(text: bytes) -> str:
    return text.rpartition(b"\n")[0].decode()


def test_a_file_that_begins_anew_is_read_anew(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path / "log")
    (tmp_path / "log").write_text('{"n": 1}\n{"n": 2}\n')
    assert len(lines.so_far()) == 2
    (tmp_path / "log").write_text('{"n": 3}\n')
    assert lines.so_far() == [{"n": 3}]


def test_what_a_caller_does_to_the_list_is_its_own(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path / "log")
    (tmp_path / "log").write_text('{"n": 1}\n')
    lines.so_far().clear()
    assert lines.so_far() == [{"n": 1}]
