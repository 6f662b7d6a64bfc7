"""The socket and its thread, the mark beside it, and nginx's own count of what it dropped."""

from __future__ import annotations

import os
import pwd
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from proxygen.kit.errors import SettingsError
from proxygen.proxy.traffic import listener as module
from proxygen.proxy.traffic import lost as lost_module
from proxygen.proxy.traffic.listener import Listener, ReadingPace, listening
from proxygen.proxy.traffic.lost import LostLines
from proxygen.proxy.traffic.place import Place, obstacle, place_of
from proxygen.proxy.traffic.tally import Tally, Target
from proxygen.settings import Settings
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


def test_an_idle_listener_wakes_for_nothing_but_what_nginx_dropped(
    place: Place, tally: Tally, sender: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines that were lost are told of though none arrives, and after that it goes on to hear."""
    batches = []
    drain = Listener._drain
    monkeypatch.setattr(Listener, "_drain", lambda self: batches.append(drain(self)))
    log = tmp_path / "error.log"
    log.touch()
    with listening(place, tally, budget=1.0, lost=LostLines(log)) as listener:
        assert listener.lost == 0
        log.write_text("send() to syslog failed\n" * 3)
        wait_until(lambda: listener.lost == 3, what="the lost lines")
        assert batches == []
        sender.connect(str(place.socket))
        sender.send(LINE)
        wait_until(lambda: tally.ends.counted == 1, what="a line")


def test_without_nginxs_error_log_nobody_knows_what_was_lost(idle: Listener) -> None:
    assert idle.lost is None


def test_the_thread_is_known_by_its_name_and_holds_up_no_end(place: Place, tally: Tally) -> None:
    with listening(place, tally, budget=1.0, lost=None):
        (thread,) = [thread for thread in threading.enumerate() if thread.name == "traffic"]
        assert thread.daemon
    assert not thread.is_alive()


def test_a_thread_that_fails_says_why_in_the_log_and_nginx_stops_sending(place: Place, sender: socket.socket) -> None:
    def fail() -> dict[str, Target]:
        raise LookupError("no names")

    with capture_logs() as log, listening(place, Tally(fail), budget=1.0, lost=None) as listener:
        sender.connect(str(place.socket))
        sender.send(LINE)
        wait_until(lambda: listener.problem, what="the end of the thread")
        assert "the log says why" in listener.problem
        assert not place.mark.is_symlink(), "nginx goes on to send what no thread reads"
    assert [(entry["event"], entry["log_level"]) for entry in log] == [("traffic is no longer read", "error")]
    assert log[0]["exc_info"]


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
    """A path that it cannot read, or http-wide silence; workers who could not look are in the manual."""
    settings = Settings.model_validate({"traffic": {"socket": "/tmp/a,b.sock"}})
    place = place_of(settings)
    assert place is not None
    assert "nginx cannot write its log to /tmp/a,b.sock" in obstacle(place, worker="root", logs=())
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
    pace = ReadingPace(0.1, shortest=0.0002)
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
        ([9.0, 9.0, 0.1 / 3], 0.005, 2),
        ([9.0] * 20, 0.005, 1024),
    ],
)
def test_a_pause_grows_with_what_was_used_and_shrinks_by_half(used: list[float], pause: float, each: int) -> None:
    pace = ReadingPace(0.1, shortest=0.001)
    for part in used:
        pace.adapt(part)
    assert (pace.pause, pace.each) == (pytest.approx(pause), each)
    assert isinstance(pace.each, int)


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
        assert through_proc or place.mark.stat().st_mode & 0o133 == 0, "only the sidecar may change it"
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


def test_a_mark_that_cannot_be_made_says_what_to_set_and_leaves_no_socket(place: Place, tally: Tally) -> None:
    place.mark.mkdir()
    with (
        pytest.raises(
            SettingsError, match=r"traffic\.sock\.live: File exists; set traffic\.socket to a writable place"
        ),
        listening(place, tally, budget=1.0, lost=None),
    ):
        pass
    assert not place.socket.exists()


@pytest.fixture
def idle(place: Place, tally: Tally, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    """A listener that reads only when it is told to, with a queue of three lines."""
    (tmp_path / "queue").write_text("3\n")
    monkeypatch.setattr(module, "_QUEUE_FILE", tmp_path / "queue")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.setblocking(False)
        receiver.bind(str(place.socket))
        yield Listener(receiver, tally, mark=place.mark, budget=1.0, lost=None)


def test_a_queue_is_full_that_holds_more_than_it_has_room_for(
    idle: Listener, place: Place, sender: socket.socket, tally: Tally
) -> None:
    """The kernel takes one more than it says."""
    sender.connect(str(place.socket))
    assert idle.queue == 3
    for lines, full in ((3, 0), (4, 1), (2, 1), (4, 2)):
        for _ in range(lines):
            sender.send(LINE)
        idle._drain()
        assert idle.full == full
    assert tally.ends.counted == 13


def test_one_of_so_many_lines_is_looked_at_over_all_batches(
    idle: Listener, place: Place, sender: socket.socket, tally: Tally
) -> None:
    sender.connect(str(place.socket))
    idle.each = 4
    sent = 0
    for lines in (3, 2, 1, 3, 3, 2, 3):
        for _ in range(lines):
            sender.send(LINE)
        sent += lines
        idle._drain()
        assert tally.ends.counted == (sent + 3) // 4, "the first, the fifth, the ninth"
        assert tally.ends.thinned == sent - tally.ends.counted


@pytest.mark.parametrize(("queue", "pause"), [(3, 0.000_06), (10, 0.000_2), (250, 0.005), (512, 0.005)])
def test_a_short_queue_is_read_more_often(
    queue: int, pause: float, tally: Tally, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "queue").write_text(str(queue))
    monkeypatch.setattr(module, "_QUEUE_FILE", tmp_path / "queue")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        listener = Listener(receiver, tally, mark=tmp_path / "mark", budget=1.0, lost=None)
        assert listener._pace.pause == pytest.approx(pause)


def test_what_keeps_a_listener_from_hearing_is_told(idle: Listener) -> None:
    assert "has ended" in idle.problem
    idle.start()
    assert idle.problem == ""
    idle.full = 1
    assert "net.unix.max_dgram_qlen is 3 here" in idle.problem
    idle.stop()
    assert "has ended" in idle.problem


@pytest.mark.parametrize(("queue", "is_small"), [("255", True), ("256", False), ("many", True)])
def test_a_queue_is_small_below_256(
    queue: str, place: Place, tally: Tally, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_small: bool
) -> None:
    (tmp_path / "queue").write_text(queue)
    monkeypatch.setattr(module, "_QUEUE_FILE", tmp_path / "queue")
    with listening(place, tally, budget=1.0, lost=None) as listener:
        assert listener.queue == (10 if queue == "many" else int(queue))
        listener.full = 1
        assert bool(listener.problem) is is_small


def test_a_reckoning_is_of_the_second_that_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = SimpleNamespace(wall=100.0, used=5.0)
    clock = SimpleNamespace(monotonic=lambda: now.wall, thread_time=lambda: now.used)
    monkeypatch.setattr(module, "time", clock)
    pace = ReadingPace(0.1, shortest=0.001)
    now.wall = 100.9
    assert not pace.is_due()
    now.wall = 101.0
    assert pace.is_due()
    now.wall, now.used = 102.0, 5.5
    assert pace.is_due()
    pace.reckon()
    assert pace.pause == pytest.approx(0.0025), "a quarter of the time, of which a tenth was allowed"
    assert not pace.is_due()
    now.wall, now.used = 104.0, 5.5
    pace.reckon()
    assert pace.pause == pytest.approx(0.00125), "nothing since then"


def test_a_line_that_is_not_whole_yet_is_not_counted(tmp_path: Path) -> None:
    log = tmp_path / "error.log"
    lost = LostLines(log)
    log.write_text("send() to syslog failed while")
    lost.read()
    assert lost.count == 0
    log.write_text("send() to syslog failed while logging\n")
    lost.read()
    assert lost.count == 1


def test_a_log_that_cannot_be_opened_is_read_once_it_can_be(tmp_path: Path) -> None:
    log = tmp_path / "error.log"
    lost = LostLines(log)
    log.mkdir()
    (tmp_path / "error.log" / "kept").touch()
    lost.read()
    assert lost.count == 0
    log.rename(tmp_path / "elsewhere")
    log.write_text("send() to syslog failed\n")
    lost.read()
    assert lost.count == 1


def test_of_a_log_that_grew_too_much_the_rest_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lost_module, "_AT_ONCE", 50)
    log, warning = tmp_path / "error.log", "send() to syslog failed..\n"
    lost = LostLines(log)
    log.write_text(warning * 100)
    lost.read()
    assert lost.count == 16, "one whole line in each chunk"
    with log.open("a") as file:
        file.write(warning)
    lost.read()
    assert lost.count == 17


# --- whether nginx's workers can look for the mark


def test_a_log_that_is_off_beside_others_is_found() -> None:
    place = Place(socket=Path("/traffic.sock"), through_proc=True)
    said = obstacle(place, worker="root", logs=("/var/log/nginx/access.log", "off"))
    assert said.startswith("access_log off in http ")
    assert "write access_log /dev/null " in said


@pytest.mark.parametrize(
    ("outer", "inner", "closed"),
    [
        (0o711, 0o711, None),
        (0o700, 0o711, "outer"),
        (0o711, 0o766, "inner"),
        (0o700, 0o700, "outer"),
        (0o701, 0o701, None),
    ],
)
def test_the_first_directory_that_workers_cannot_pass_is_named(
    short_directory: Path, monkeypatch: pytest.MonkeyPatch, outer: int, inner: int, closed: str | None
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    directory = short_directory / "inner"
    directory.mkdir()
    directory.chmod(inner)
    short_directory.chmod(outer)
    said = obstacle(Place(socket=directory / "s", through_proc=True), worker="nobody", logs=())
    short_directory.chmod(0o700)
    named = {None: "", "outer": f"cannot pass {short_directory}:", "inner": f"cannot pass {directory}:"}[closed]
    assert named in said
    assert bool(said) is bool(closed)


def test_root_passes_everywhere_and_what_does_not_exist_yet_is_made_for_all(
    short_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = Place(socket=short_directory / "s", through_proc=True)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    short_directory.chmod(0)
    assert obstacle(closed, worker="root", logs=()) == ""
    short_directory.chmod(0o700)
    assert "(nobody) cannot pass" in obstacle(closed, worker=None, logs=())
    assert "(no-such-user) cannot pass" in obstacle(closed, worker="no-such-user", logs=())
    short_directory.chmod(0o711)
    later = Place(socket=short_directory / "later" / "s", through_proc=True)
    assert obstacle(later, worker="nobody", logs=()) == ""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    short_directory.chmod(0o700)
    assert obstacle(closed, worker="nobody", logs=()) == "", "who is not root cannot know"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
@pytest.mark.parametrize(
    ("is_owner", "is_in_group", "mode", "may_pass"),
    [
        (True, False, 0o100, True),
        (True, True, 0o011, False),
        (False, True, 0o010, True),
        (False, True, 0o101, False),
        (False, False, 0o001, True),
        (False, False, 0o110, False),
    ],
)
def test_owner_group_and_others_have_a_bit_each(
    short_directory: Path, mode: int, *, is_owner: bool, is_in_group: bool, may_pass: bool
) -> None:
    nobody = pwd.getpwnam("nobody")
    os.chown(short_directory, nobody.pw_uid if is_owner else 0, nobody.pw_gid if is_in_group else 0)
    short_directory.chmod(mode)
    said = obstacle(Place(socket=short_directory / "s", through_proc=True), worker="nobody", logs=())
    assert (said == "") is may_pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_nginxs_own_user_is_nobody_and_an_unknown_one_is_among_the_others(short_directory: Path) -> None:
    place = Place(socket=short_directory / "s", through_proc=True)
    nobody = pwd.getpwnam("nobody")
    os.chown(short_directory, nobody.pw_uid, nobody.pw_gid)
    short_directory.chmod(0o100)
    assert obstacle(place, worker=None, logs=()) == ""
    for owner in (1, nobody.pw_uid):
        os.chown(short_directory, owner, nobody.pw_gid)
        assert "(no-such-user) cannot pass" in obstacle(place, worker="no-such-user", logs=())
