"""The socket and its thread, the mark beside it, and nginx's own count of what it dropped."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxygen.errors import SettingsError
from proxygen.settings import Settings
from proxygen.traffic.listener import Pace, listening
from proxygen.traffic.lost import LostLines
from proxygen.traffic.place import Place, obstacle, place_of
from proxygen.traffic.tally import Tally, Target
from tests.harness.process import wait_until

LINE = b"<190>Nov 24 03:14:29 proxygen: 10000 http://web_s 200 0.001"


@pytest.fixture
def place(short_directory: Path) -> Place:
    return Place(socket=short_directory / "traffic.sock", through_proc=True)


@pytest.fixture
def tally() -> Tally:
    targets = {"web_s": Target(("web", "stable"))}
    return Tally(lambda: targets)


@pytest.fixture
def sender() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        yield sender


def test_what_is_sent_is_counted(place: Place, tally: Tally, sender: socket.socket) -> None:
    with listening(place, tally, budget=1.0, lost=None):
        sender.connect(str(place.socket))
        for _ in range(500):
            sender.send(LINE)
        wait_until(lambda: tally.ends.counted == 500, what="500 lines")
    assert tally.totals()["web", "stable"].requests == 500


def test_thinned_lines_are_scaled_back_however_short_the_batches_are(
    place: Place, tally: Tally, sender: socket.socket
) -> None:
    """The first line of each batch would stand for more than came: 40 batches of one line would count as 160."""
    with listening(place, tally, budget=1.0, lost=None) as listener:
        listener.each = 4
        sender.connect(str(place.socket))
        for number in range(40):
            sender.send(LINE)
            wait_until(lambda seen=number + 1: tally.ends.counted + tally.ends.thinned == seen, what="the line")
            listener.each = 4
    assert tally.totals()["web", "stable"].requests == 40


def test_the_mark_is_there_as_long_as_somebody_listens(place: Place, tally: Tally) -> None:
    with listening(place, tally, budget=1.0, lost=None):
        assert place.mark.exists()
        assert place.socket.is_socket()
    assert not place.mark.is_symlink()
    assert not place.socket.exists()


def test_what_a_killed_sidecar_left_is_taken_over(place: Place, tally: Tally, sender: socket.socket) -> None:
    """Its mark leads nowhere by then: nginx is silent until the next one listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as dead:
        dead.bind(str(place.socket))
    place.mark.symlink_to("/proc/0")
    assert not place.mark.exists()
    with listening(place, tally, budget=1.0, lost=None):
        sender.connect(str(place.socket))
        sender.send(LINE)
        wait_until(lambda: tally.ends.counted == 1, what="a line")


def test_a_living_sidecars_socket_is_not_taken(place: Place, tally: Tally) -> None:
    with (
        listening(place, tally, budget=1.0, lost=None),
        pytest.raises(SettingsError, match="another sidecar"),
        listening(place, tally, budget=1.0, lost=None),
    ):
        pass


def test_lost_lines_are_those_of_nginxs_log_from_now_on(tmp_path: Path) -> None:
    log = tmp_path / "error.log"
    warning = "2026/11/24 03:14:36 [warn] 1#1: *32 send() to syslog failed while logging request\n"
    log.write_text(warning)
    lost = LostLines(log)
    with log.open("a") as file:
        file.write(warning * 20_000 + "2026/11/24 [notice] something else\n" + warning[:50])
    lost.read()
    assert lost.count == 20_000
    with log.open("a") as file:
        file.write(warning[50:])
    lost.read()
    assert lost.count == 20_001
    log.unlink()
    lost.read()
    log.write_text(warning)
    lost.read()
    assert lost.count == 20_002


def test_what_keeps_nginx_from_telling_is_said(tmp_path: Path) -> None:
    """A place that it cannot be told of, or http-wide silence; workers who could not look are in the manual."""
    settings = Settings.model_validate({"traffic": {"socket": "/tmp/a,b.sock"}})
    place = place_of(settings)
    assert place is not None
    assert "cannot be told" in obstacle(place, worker="root", logs=())
    usual = Place(socket=Path("/var/lib/proxygen/traffic.sock"), through_proc=True)
    assert "access_log off" in obstacle(usual, worker="root", logs=("off",))
    assert obstacle(usual, worker="root", logs=("/var/log/nginx/access.log",)) == ""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    assert "cannot pass" in obstacle(Place(socket=closed / "s", through_proc=True), worker="nobody", logs=())


def test_no_sample_needs_no_place() -> None:
    assert place_of(Settings.model_validate({"traffic": {"sample": 0}})) is None


def test_over_the_budget_it_comes_less_often_before_it_looks_at_less() -> None:
    """And back in the other order, to where it began."""
    pace = Pace(0.1, shortest=0.0002)
    seen = [(pace.pause, pace.each)]
    for used in [0.2] * 8 + [0.05] + [0.01] * 20:
        pace.adapt(used)
        seen.append((pace.pause, pace.each))
    least = max(seen, key=lambda state: state[1])
    assert least == (0.005, 8)
    assert [each for pause, each in seen if pause < 0.005] == [1] * sum(pause < 0.005 for pause, _ in seen)
    assert seen[8] == seen[9] == least
    assert seen[-1] == seen[0]


@pytest.mark.parametrize(
    ("used", "pause", "each"),
    [
        ([0.1], 0.001, 1),
        ([0.11], 0.002, 1),
        ([0.35], 0.0035, 1),
        ([9.0], 0.005, 1),
        ([9.0, 0.11], 0.005, 2),
        ([9.0, 9.0, 0.09], 0.005, 2),
        ([9.0, 9.0, 9.0, 0.03], 0.005, 2),
        ([9.0, 9.0, 0.03, 0.03], 0.0025, 1),
        ([0.0], 0.001, 1),
        ([9.0] * 20, 0.005, 1024),
    ],
)
def test_a_pause_grows_with_what_was_used_and_shrinks_by_half(used: list[float], pause: float, each: int) -> None:
    pace = Pace(0.1, shortest=0.001)
    for part in used:
        pace.adapt(part)
    assert (pace.pause, pace.each) == (pytest.approx(pause), each)


def test_a_rotated_log_is_counted_from_its_beginning_and_a_truncated_one_too(tmp_path: Path) -> None:
    log = tmp_path / "error.log"
    warning = "send() to syslog failed\n"
    log.write_text(warning * 3)
    lost = LostLines(log)
    lost.read()
    assert lost.count == 0
    other = tmp_path / "new.log"
    other.write_text(warning * 5)
    other.replace(log)
    lost.read()
    assert lost.count == 5, "longer than the one before"
    log.write_text(warning * 2)
    lost.read()
    assert lost.count == 7
    lost.read()
    assert lost.count == 7


def test_a_log_that_comes_later_is_counted_whole(tmp_path: Path) -> None:
    log = tmp_path / "error.log"
    lost = LostLines(log)
    lost.read()
    log.write_text("send() to syslog failed\n" * 2)
    lost.read()
    assert lost.count == 2


@pytest.mark.parametrize(("reload", "through_proc"), [("signal", True), ("command", False), ("docker", False)])
def test_where_nginx_cannot_see_the_process_the_mark_is_a_file(
    reload: str, tmp_path: Path, tally: Tally, short_directory: Path, *, through_proc: bool
) -> None:
    settings = Settings.model_validate({"nginx": {"reload": reload}, "output": {"directory": short_directory}})
    place = place_of(settings)
    assert place == Place(socket=short_directory / "traffic.sock", through_proc=through_proc)
    assert place.mark == short_directory / "traffic.sock.live"
    with listening(place, tally, budget=1.0, lost=None):
        assert place.mark.is_symlink() is through_proc
        assert place.mark.is_file() is not through_proc
        assert place.socket.stat().st_mode & 0o777 == 0o666
    assert not place.mark.exists()


def test_a_socket_of_the_operators_own_is_taken(tmp_path: Path) -> None:
    settings = Settings.model_validate({"traffic": {"socket": tmp_path / "own.sock", "sample": 0.01}})
    assert place_of(settings) == Place(socket=tmp_path / "own.sock", through_proc=True)


@pytest.mark.parametrize(("length", "is_speakable"), [(96, True), (97, False)])
def test_nginx_can_be_told_of_96_characters(length: int, *, is_speakable: bool) -> None:
    place = Place(socket=Path("/" + "x" * (length - 1)), through_proc=True)
    assert place.is_speakable is is_speakable


def test_a_socket_that_cannot_be_made_says_what_to_set(tmp_path: Path, tally: Tally) -> None:
    nowhere = Place(socket=tmp_path / "absent" / "traffic.sock", through_proc=True)
    with (
        pytest.raises(SettingsError, match=r"absent/traffic\.sock: No such file or directory; set traffic\.socket"),
        listening(nowhere, tally, budget=1.0, lost=None),
    ):
        pass
