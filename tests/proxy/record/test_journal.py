"""What became of plans, on disk: whatever happens to the file, the loop goes on."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from proxygen.proxy.apply.outcome import Outcome
from proxygen.proxy.record.journal import KEPT, Journal, load_journal
from proxygen.proxy.record.steps import Step


@pytest.fixture
def output(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    return tmp_path


def entry(generation: int, outcome: str = "applied", reason: str = "") -> Step:
    return Step(at="2026-01-01T00:00:00.000+00:00", outcome=Outcome(outcome), generation=generation, reason=reason)


async def written(journal: Journal) -> None:
    """Have what was added written, as the end of the sidecar does."""
    task = asyncio.create_task(journal.run())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_later_run_finds_what_an_earlier_one_wrote(output: Path) -> None:
    journal = Journal(output)
    journal.add(entry(1))
    journal.add(entry(2, "rolled back", "no worker lived"))
    await written(journal)
    assert Journal(output).steps == load_journal(output) == (entry(1), entry(2, "rolled back", "no worker lived"))


def test_what_fails_again_and_again_is_told_once(output: Path) -> None:
    journal = Journal(output)
    for _ in range(3):
        journal.add(entry(2, "rejected", "why"))
    journal.add(entry(2))
    journal.add(entry(3))
    assert [each.outcome for each in journal.steps] == ["rejected", "applied", "applied"]


async def test_it_is_bounded(output: Path) -> None:
    journal = Journal(output)
    for number in range(KEPT + 50):
        journal.add(entry(number))
    await written(journal)
    assert [each.generation for each in load_journal(output)] == list(range(50, KEPT + 50))
    (output / "state/journal.json").write_bytes(msgspec.json.encode([entry(number) for number in range(KEPT + 7)]))
    assert [each.generation for each in load_journal(output)] == list(range(7, KEPT + 7))


@pytest.mark.parametrize("content", [b"", b"{", b"[{}]", b"\xff", b"[" * 100_000, b'[{"at": 1}]'])
def test_a_file_that_is_none_is_a_new_beginning(output: Path, content: bytes) -> None:
    (output / "state/journal.json").write_bytes(content)
    assert Journal(output).steps == ()


async def test_a_disk_that_takes_nothing_costs_nothing_but_the_file(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "gone")
    journal.add(entry(1))
    await written(journal)
    assert journal.steps == (entry(1),)


async def test_what_is_added_while_others_are_gathered_is_written_at_the_end(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(output)
    loop, wrote, write = asyncio.get_running_loop(), asyncio.Event(), journal._write

    def noting(entries: tuple[Step, ...]) -> None:
        write(entries)
        loop.call_soon_threadsafe(wrote.set)

    monkeypatch.setattr(journal, "_write", noting)
    task = asyncio.create_task(journal.run())
    journal.add(entry(1))
    await wrote.wait()
    journal.add(entry(2))
    task.cancel()
    await asyncio.wait({task})
    assert [each.generation for each in load_journal(output)] == [1, 2]


async def test_each_trouble_of_the_disk_is_told_once_and_the_next_again(output: Path) -> None:
    journal = Journal(output)
    with capture_logs() as log:
        for number, is_there in enumerate((False, False, True, False, False), 1):
            if (output / "state").exists() is not is_there:
                (output / ("state" if not is_there else "gone")).rename(output / ("gone" if not is_there else "state"))
            journal.add(entry(number))
            await written(journal)
    assert [line["event"] for line in log] == ["journal not written"] * 2
    assert [each.generation for each in load_journal(output)] == []
    (output / "gone").rename(output / "state")
    assert [each.generation for each in load_journal(output)] == [1, 2, 3]
