"""A test that fails shows what each part wrote meanwhile.

What is looked for must not stand so in the test, whose source is shown too.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import process, seen
from tests.test_selection import run

TESTS = """
import sys
import pytest
from pathlib import Path
from tests.harness import process, seen

def speak(directory, name, *words):
    program = f"print({' '.join(words)!r}, flush=True)"
    process.start([sys.executable, "-c", program], log=directory / name).wait()

@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    path = tmp_path_factory.mktemp("shared") / "consul.log"
    started = process.start([sys.executable, "-c", "import time; time.sleep(600)"], log=path)
    path.write_text("before any test\\n")
    yield path
    process.stop(started)

def test_one(shared, tmp_path):
    speak(tmp_path, "sidecar.log", "said", "in", "the", "first")

def test_two(shared, tmp_path):
    with shared.open("a") as log:
        log.write(" ".join(["said", "to", "the", "second\\n"]))
    speak(tmp_path, "sidecar.log", *(f"line{number}\\n" for number in range(60)))
    seen.log(tmp_path / "quiet.log")
    seen.source("containers", lambda: "app: " + "started")
    seen.source("broken", lambda: 1 / 0)
    assert False

@pytest.fixture
def failing(tmp_path):
    speak(tmp_path, "agent.log", "said", "before", "the", "fixture", "failed")
    raise RuntimeError

def test_three(failing):
    pass
"""


def test_what_was_written_meanwhile_is_shown_and_nothing_else(tmp_path: Path) -> None:
    last, said = run(tmp_path, "-p", "tests.harness.seen", tests=TESTS)
    assert "1 failed, 1 passed, 1 error" in last, said
    assert "said to the second" in said
    assert "said in the first" not in said
    assert "before any test" not in said
    assert "line59" in said
    assert "line10\n" not in said, "forty lines are enough"
    assert "app: started" in said
    assert "not to be read: division by zero" in said
    assert "/quiet.log" not in said
    assert "said before the fixture failed" in said


def test_workers_hand_it_over(tmp_path: Path) -> None:
    _, said = run(tmp_path, "-p", "tests.harness.seen", "-n", "2", tests=TESTS)
    assert "said to the second" in said


@pytest.fixture
def talker(tmp_path: Path) -> Iterator[Path]:
    program = "import time; print('first', flush=True); time.sleep(600)"
    started = process.start([sys.executable, "-c", program], log=tmp_path / "part.log")
    process.wait_until(lambda: "first" in (tmp_path / "part.log").read_text(), what="its first word")
    yield tmp_path / "part.log"
    process.stop(started)


def test_a_log_that_begins_anew_is_shown_whole(talker: Path) -> None:
    talker.write_text("new\n")
    assert (f"{talker.parent.name}/part.log", "new") in seen.tails()
