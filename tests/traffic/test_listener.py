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
