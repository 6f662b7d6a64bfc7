"""Following nginx's error log from a moment on."""

from __future__ import annotations

import os
from pathlib import Path

from proxygen.proxy.nginx.errorlog import LogTail


def _line(level: str, text: str, pid: int = 7) -> str:
    return f"2026/01/02 03:04:05 [{level}] {pid}#{pid}: {text}\n"


def test_only_new_severe_lines_are_read(tmp_path: Path) -> None:
    """Traffic writes errors and warnings; only emerg, alert and crit speak of nginx itself."""
    path = tmp_path / "error.log"
    path.write_text(_line("emerg", "old"))
    tail = LogTail(path)
    with path.open("a") as file:
        file.write(_line("error", "upstream timed out") + _line("emerg", "new", pid=9) + "garbage\n")
    assert [(line.level, line.pid, line.text) for line in tail.read()] == [("emerg", 9, "new")]
    assert tail.read() == []
    assert list(map(str, tail.lines)) == ["[emerg] new"]


def test_a_line_is_read_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "error.log"
    path.touch()
    tail = LogTail(path)
    text = _line("emerg", "in two writes")
    with path.open("a") as file:
        file.write(text[:30])
        file.flush()
        assert tail.read() == []
        file.write(text[30:])
    assert [line.text for line in tail.read()] == ["in two writes"]


def test_a_rotated_or_truncated_log_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "error.log"
    path.write_text(_line("emerg", "a line that is longer than the next one"))
    tail = LogTail(path)
    path.write_text(_line("emerg", "truncated"))
    assert [line.text for line in tail.read()] == ["truncated"]
    os.rename(path, tmp_path / "error.log.1")
    path.write_text(_line("crit", "rotated"))
    assert [line.text for line in tail.read()] == ["rotated"]


def test_a_log_that_appears_later_is_read_from_its_start(tmp_path: Path) -> None:
    tail = LogTail(tmp_path / "error.log")
    assert tail.read() == []
    (tmp_path / "error.log").write_text(_line("emerg", "first"))
    assert [line.text for line in tail.read()] == ["first"]


def test_a_log_that_is_no_file_stays_silent(tmp_path: Path) -> None:
    """Opening a pipe to read it would steal from whoever reads it, and hang."""
    os.mkfifo(tmp_path / "pipe")
    assert LogTail(tmp_path / "pipe").read() == []
    assert LogTail(None).read() == []


def test_what_is_quoted_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "error.log"
    path.touch()
    tail = LogTail(path)
    path.write_text("".join(_line("alert", f"{number} " + "x" * 9000) for number in range(100)))
    tail.read()
    assert len(tail.lines) == 20
    assert all(len(str(line)) < 600 for line in tail.lines)


def test_each_line_is_read_once_whatever_bytes_are_in_it(tmp_path: Path) -> None:
    path = tmp_path / "error.log"
    path.write_text(_line("alert", "before"))
    tail = LogTail(path)
    for number in range(3):
        with path.open("ab") as file:
            file.write(_line("alert", f"{number} caf").encode()[:-1] + b"\xe9\n")
        assert [line.text for line in tail.read()] == [f"{number} caf\ufffd"]
    assert [line.text[0] for line in tail.lines] == ["0", "1", "2"]
