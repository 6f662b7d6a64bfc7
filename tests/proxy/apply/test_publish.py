"""Generations on disk, whole at every moment."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from proxygen.kit.disk import Readers
from proxygen.kit.errors import OutputUnusable
from proxygen.proxy.apply.publish import (
    Output,
    current,
    discard,
    generations,
    hold_output,
    is_there,
    mark_proven,
    narrow,
    next_number,
    proven,
    prune,
    publish,
    read_generation,
    stage,
    switch,
    write_files,
)
from proxygen.proxy.nginx.stamp import Stamp
from tests.harness.generations import staged


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "output"


@pytest.fixture
def output(directory: Path) -> Iterator[Output]:
    with hold_output(directory) as output:
        yield output


def _publish(output: Output, text: str = "x") -> int:
    number = next_number(output)
    stamp = Stamp(generation=number, digest=f"{number:08x}")
    made = staged(output, stamp, {"http.d/a.conf": text.encode(), "stream.d/b.conf": b""})
    publish(output, made, {"services": ["web"]})
    return number


def test_the_live_generation_is_read_through_one_link(output: Output, directory: Path) -> None:
    _publish(output, "first")
    _publish(output, "second")
    assert os.readlink(directory / "current") == "generations/000002"
    assert (directory / "current/http.d/a.conf").read_text() == "second"
    assert (directory / "generations/000001/http.d/a.conf").read_text() == "first"


def test_a_generation_remembers_itself(output: Output, directory: Path) -> None:
    _publish(output)
    mark_proven(output, 1)
    _publish(output)
    first, second = generations(directory)
    assert first.stamp == Stamp(generation=1, digest="00000001")
    assert first.manifest == {"services": ["web"]}
    assert (first.live, first.proven, second.live, second.proven) == (False, True, True, False)


def test_staging_shows_nothing(output: Output, directory: Path) -> None:
    stage(output, Stamp(generation=1, digest="00000001"), {"http.d/a.conf": b""})
    assert generations(directory) == []
    assert current(directory) is None


def test_nginx_may_read_it_whatever_our_umask(output: Output, directory: Path) -> None:
    before = os.umask(0o077)
    try:
        _publish(output)
    finally:
        os.umask(before)
    generation = directory / "generations/000001"
    modes = {path.stat().st_mode & 0o777 for path in (generation, generation / "http.d")}
    assert modes == {0o755}
    assert (generation / "http.d/a.conf").stat().st_mode & 0o777 == 0o644


def test_only_a_directory_of_our_own_making_gets_a_mode(tmp_path: Path) -> None:
    """`render --output /tmp` by root must not take the sticky bit away from everybody."""
    tmp_path.chmod(0o1777)
    (tmp_path / "http.d").mkdir()
    (tmp_path / "http.d").chmod(0o700)
    before = os.umask(0o077)
    try:
        write_files(tmp_path, {"http.d/web.conf": b"", "stream.d/deep/db.conf": b""})
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o7777 for path in (tmp_path, *tmp_path.rglob("*")) if path.is_dir()}
    assert modes == {tmp_path.name: 0o1777, "http.d": 0o700, "stream.d": 0o755, "deep": 0o755}


def test_numbers_only_grow(output: Output, directory: Path) -> None:
    """Whatever is switched to, pruned, or lost."""
    for _ in range(5):
        _publish(output)
    switch(output, 2)
    assert next_number(output) == 6
    prune(output, 2)
    assert next_number(output) == 6
    assert _publish(output) == 6
    (directory / "generations").rename(directory / "lost")
    (directory / "generations").mkdir()
    assert next_number(output) == 7


def test_pruning_keeps_the_newest_the_live_and_the_protected(output: Output, directory: Path) -> None:
    for _ in range(8):
        _publish(output)
    switch(output, 1)
    prune(output, 2, protect=[3])
    assert [generation.number for generation in generations(directory)] == [1, 3, 7, 8]
    assert list((directory / "stage").iterdir()) == []


def test_a_long_failure_does_not_push_out_what_one_could_go_back_to(output: Output, directory: Path) -> None:
    """The newest failures stay for whoever wants to see why, two of them."""
    for _ in range(3):
        mark_proven(output, _publish(output))
    for _ in range(20):
        _publish(output)
        switch(output, 3)
        prune(output, 5)
    assert [generation.number for generation in generations(directory)] == [1, 2, 3, 22, 23]


def test_what_was_proven_is_kept_in_the_order_of_proof(output: Output, directory: Path) -> None:
    for number in (_publish(output), _publish(output), _publish(output)):
        mark_proven(output, number)
    mark_proven(output, 1)
    assert proven(directory) == (2, 3, 1)


def test_a_generation_that_is_not_there_cannot_go_live(output: Output, directory: Path) -> None:
    _publish(output)
    with pytest.raises(OutputUnusable, match="no generation 7"):
        switch(output, 7)
    assert current(directory) == 1


def test_a_name_cannot_lead_out_of_its_generation(output: Output) -> None:
    for name in ("../evil.conf", "/etc/evil.conf", "http.d/../../evil"):
        with pytest.raises(ValueError, match="leads out"):
            stage(output, Stamp(generation=1, digest="00000001"), {name: b""})


def test_two_cannot_hold_one_output(output: Output, directory: Path) -> None:
    with (
        pytest.raises(OutputUnusable, match=f"held by another proxygen \\(process {os.getpid()}\\)"),
        hold_output(directory),
    ):
        pass


def test_what_cannot_be_published_is_not_left_aside(output: Output, directory: Path) -> None:
    """It is tried again and again while a part of OUTPUT is gone: each attempt would leave its files."""
    _publish(output)
    (directory / "generations").rename(directory / "elsewhere")
    for _ in range(2):
        with pytest.raises(OutputUnusable, match="taken away"):
            _publish(output)
    assert list((directory / "stage").iterdir()) == []
    (directory / "elsewhere").rename(directory / "generations")
    assert _publish(output) == 2


def test_left_over_stages_are_removed_at_start(directory: Path) -> None:
    with hold_output(directory) as output:
        stage(output, Stamp(generation=1, digest="00000001"), {"http.d/a.conf": b""})
    (directory / "stage/current").symlink_to("generations/000009")
    with hold_output(directory):
        assert list((directory / "stage").iterdir()) == []


@pytest.mark.parametrize("content", ["file", "directory"])
def test_a_current_that_is_no_link_is_refused(directory: Path, content: str) -> None:
    directory.mkdir()
    if content == "file":
        (directory / "current").write_text("")
    else:
        (directory / "current").mkdir()
    with pytest.raises(OutputUnusable, match="must be a symbolic link"), hold_output(directory):
        pass


def test_an_output_that_is_a_file_is_refused(directory: Path) -> None:
    directory.write_text("")
    with pytest.raises(OutputUnusable, match="mount a directory, never a single file"), hold_output(directory):
        pass


def test_a_full_disk_is_refused_and_recovered_from(output: Output, directory: Path, tmp_path: Path) -> None:
    """The file system refuses to grow; what was live stays, nothing is left over, and the next attempt succeeds."""
    _publish(output)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OutputUnusable, match="File too large"):
            _publish(output, "x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert current(directory) == 1
    assert list((directory / "stage").iterdir()) == []
    assert _publish(output, "x" * 5000) == 2


_CHECKOUT = Path(__file__).parents[3]
_CHILD = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
from proxygen.proxy.apply.publish import *
from proxygen.proxy.nginx.stamp import Stamp
from tests.harness.generations import staged

directory, fatal = Path(sys.argv[1]), int(sys.argv[2])
STEPS = {"open", "os.mkdir", "os.rename", "os.symlink", "os.remove", "os.rmdir", "os.chmod", "os.listdir"}
count = 0

def die_at_step(event, arguments):
    global count
    if event in STEPS and str(directory) in str(arguments) or event == "os.listdir":
        count += 1
        if count == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

with hold_output(directory) as output:
    sys.addaudithook(die_at_step)
    number = next_number(output)
    made = staged(output, Stamp(generation=number, digest=f"{number:08x}"), {"http.d/a.conf": b"new"})
    publish(output, made, {})
    mark_proven(output, number)
    prune(output, 2)
"""


def test_killed_at_any_step_nothing_is_lost(directory: Path) -> None:
    """Before each of its file operations in turn: a whole generation is live, and the next publication succeeds."""
    with hold_output(directory) as output:
        for _ in range(3):
            mark_proven(output, _publish(output, "old"))
    fatal = killed = 0
    while killed == fatal:
        fatal += 1
        child = subprocess.run([sys.executable, "-c", _CHILD, str(directory), str(fatal)], cwd=_CHECKOUT, check=False)
        killed += child.returncode == -signal.SIGKILL
        assert child.returncode in {0, -signal.SIGKILL}
        live = current(directory)
        assert live is not None
        with hold_output(directory) as output:
            by_number = {generation.number: generation for generation in generations(directory)}
            assert by_number[live].live
            assert (by_number[live].path / "http.d/a.conf").read_text() in {"old", "new"}
            assert len(by_number) == len(list((directory / "generations").iterdir()))
            assert next_number(output) > max(by_number)
            assert proven(directory)
            assert list((directory / "stage").iterdir()) == []
    assert killed > 15


# --- which generations are kept ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("proofs", "keep", "kept"),
    [
        ("pppff", 2, [3, 4, 5]),
        ("pppfff", 2, [3, 5, 6]),
        ("pppff", 1, [3, 4, 5]),
        ("pppff", 3, [3, 4, 5]),
        ("ppppff", 4, [3, 4, 5, 6]),
        ("ppppf", 4, [2, 3, 4, 5]),
        ("pfpfpf", 4, [3, 4, 5, 6]),
        ("fffpp", 3, [2, 3, 5]),
        ("ppppp", 2, [4, 5]),
        ("ff", 2, [1, 2]),
    ],
)
def test_of_keep_generations_two_at_most_are_failures_and_one_at_least_was_proven(
    output: Output, directory: Path, proofs: str, keep: int, kept: list[int]
) -> None:
    """Also where ``keep`` has no room for both: a way back is never given up for a failure."""
    for proof in proofs:
        number = _publish(output)
        if proof == "p":
            mark_proven(output, number)
    switch(output, max((number for number, proof in enumerate(proofs, 1) if proof == "p"), default=1))
    prune(output, keep)
    assert [generation.number for generation in generations(directory)] == kept


def test_generations_are_in_the_order_of_their_numbers_not_of_their_names(output: Output, directory: Path) -> None:
    for number in (999_999, 1_000_000, 1_000_001):
        publish(output, staged(output, Stamp(generation=number, digest=f"{number:08x}"), {}), {})
        mark_proven(output, number)
    assert [generation.number for generation in generations(directory)] == [999_999, 1_000_000, 1_000_001]
    prune(output, 2)
    assert [generation.number for generation in generations(directory)] == [1_000_000, 1_000_001]


def test_a_number_is_remembered_by_whatever_is_left_of_it(output: Output, directory: Path) -> None:
    for number in (3, 5, 9):
        publish(output, staged(output, Stamp(generation=number, digest=f"{number:08x}"), {}), {})
    mark_proven(output, 5)
    assert next_number(output) == 10
    shutil.rmtree(directory / "generations/000009")
    assert next_number(output) == 10, "current still names it"
    (directory / "current").unlink()
    assert next_number(output) == 6
    shutil.rmtree(directory / "generations/000005")
    assert next_number(output) == 6, "it was proven"
    (directory / "state/proven.json").unlink()
    assert next_number(output) == 4


def test_a_proof_is_forgotten_with_its_generation(output: Output, directory: Path) -> None:
    for number in (_publish(output), _publish(output), _publish(output)):
        mark_proven(output, number)
    shutil.rmtree(directory / "generations/000002")
    mark_proven(output, 3)
    assert proven(directory) == (1, 3)


@pytest.mark.parametrize("content", ["", "{", "7", "null", '{"7": 1}', '[1, "2", null]'])
def test_a_damaged_list_of_proofs_proves_no_more_than_it_says(output: Output, directory: Path, content: str) -> None:
    _publish(output)
    (directory / "state/proven.json").write_text(content)
    assert proven(directory) == ((1,) if content.startswith("[1") else ())
    mark_proven(output, 1)
    assert proven(directory) == (1,)


@pytest.mark.parametrize("content", ["", "[]", "7", "{}", '{"digest": "00000002", "published_at": "now"}'])
def test_a_damaged_manifest_is_no_generation_and_its_number_is_not_used_again(
    output: Output, directory: Path, content: str
) -> None:
    _publish(output)
    _publish(output)
    (directory / "generations/000002/manifest.json").write_text(content)
    assert [generation.number for generation in generations(directory)] == [1]
    assert is_there(directory, 2)
    assert not is_there(directory, 3)
    assert next_number(output) == 3


def test_no_generation_is_live_where_the_operator_goes_back_to_before_the_first(
    output: Output, directory: Path
) -> None:
    _publish(output)
    for _ in range(2):
        switch(output, None)
        assert current(directory) is None
    assert [generation.live for generation in generations(directory)] == [False]


def test_the_holder_of_an_output_is_told_by_its_whole_number(directory: Path) -> None:
    """A shorter number than that of the last run leaves none of its digits."""
    (directory / "state").mkdir(parents=True)
    (directory / "state/lock").write_text("123456789012345\n")
    with hold_output(directory):
        assert (directory / "state/lock").read_text() == f"{os.getpid()}\n"
    with hold_output(directory):
        pass


def test_what_was_published_is_told_as_it_is_on_disk(output: Output, directory: Path) -> None:
    for number, text in ((1, "one"), (2, "two")):
        made = staged(output, Stamp(generation=number, digest=f"{number:08x}"), {"http.d/a.conf": text.encode()})
        published = publish(output, made, {"number": number})
        assert published == read_generation(directory, number)
        assert not made.path.exists()
    mark_proven(output, 1)
    assert published == read_generation(directory, 2)
    discard(stage(output, Stamp(generation=3, digest="00000003"), {}))
    assert list((directory / "stage").iterdir()) == []


def test_what_not_everybody_may_read_is_written_so_and_stays_so(output: Output) -> None:
    """In older generations too, where fewer may read it by now."""
    group = Readers(owner=os.geteuid(), group=os.getegid(), bits=0o040)
    folders = []
    for number in (1, 2):
        stamp = Stamp(generation=number, digest="00000001")
        made = staged(output, stamp, {"http.d/a.conf": b"open", "http.d/b.conf": b"secret"}, {"http.d/b.conf": group})
        folders.append(publish(output, made, {}).path / "http.d")
    assert [_modes(folder) for folder in folders] == [[0o644, 0o640]] * 2
    narrow(output, "http.d/b.conf", replace(group, bits=0o044))
    assert [_modes(folder) for folder in folders] == [[0o644, 0o640]] * 2
    narrow(output, "http.d/b.conf", replace(group, bits=0))
    assert [_modes(folder) for folder in folders] == [[0o644, 0o600]] * 2


def _modes(folder: Path) -> list[int]:
    return [path.stat().st_mode & 0o777 for path in sorted(folder.iterdir())]
