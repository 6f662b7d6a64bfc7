"""Which process is nginx's master, from a process table made of files: a number means little, less in a namespace."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from proxygen.kit.errors import NginxUnavailable
from proxygen.proxy.nginx import master
from proxygen.proxy.nginx.binary import Binary
from proxygen.proxy.nginx.conf import OperatorConf
from proxygen.proxy.nginx.master import Master, Workers, find_master, is_alive, send_reload, workers
from tests.proxy.conftest import ReadConf

WORKER = "nginx: worker process"
DRAINING = "nginx: worker process is shutting down"
CACHE = "nginx: cache manager process"


class Processes:
    """A /proc of the test's own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.signals: list[tuple[int, int]] = []
        self.refuse: type[OSError] | None = None

    def add(
        self, pid: int, title: str, *, numbers: tuple[int, ...] | None = None, children: tuple[int, ...] = ()
    ) -> None:
        """``numbers`` are those in each pid namespace, ours first; None: a kernel that does not tell."""
        folder = self.root / f"proc/{pid}"
        (folder / f"task/{pid}").mkdir(parents=True)
        (folder / "cmdline").write_bytes(title.replace(" ", "\0").encode() + b"\0")
        told = "" if numbers is None else "NSpid:\t" + "\t".join(map(str, numbers)) + "\n"
        (folder / "status").write_text(f"Name:\tnginx\nPid:\t{pid}\n{told}Threads:\t1\n")
        (folder / f"task/{pid}/children").write_text(" ".join(map(str, children)))

    def show(self, pid: int, path: str, file: Path) -> None:
        """Let a process see a file at a path of its own."""
        seen = self.root / f"proc/{pid}/root{path}"
        seen.parent.mkdir(parents=True)
        seen.hardlink_to(file)

    def rename(self, pid: int, title: str) -> None:
        (self.root / f"proc/{pid}/cmdline").write_bytes(title.encode())

    def path(self, text: str | Path) -> Path:
        return Path(f"{self.root}{text}") if str(text).startswith("/proc") else Path(text)

    def kill(self, pid: int, number: int) -> None:
        if self.refuse is not None:
            raise self.refuse
        self.signals.append((pid, number))


@pytest.fixture
def processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Processes:
    made = Processes(tmp_path)
    (tmp_path / "proc/self").mkdir(parents=True)
    doors = SimpleNamespace(
        path=os.path, geteuid=os.geteuid, kill=made.kill, listdir=lambda path: os.listdir(made.path(path))
    )
    monkeypatch.setattr(master, "Path", made.path)
    monkeypatch.setattr(master, "os", doors)
    return made


@pytest.fixture
def conf(read_conf: ReadConf, tmp_path: Path) -> OperatorConf:
    return read_conf(f"pid {tmp_path}/nginx.pid;\nhttp {{ include OUTPUT/current/http.d/*.conf; }}\n")


Find = Callable[[int | str | None], Master | None]


@pytest.fixture
def find(conf: OperatorConf, binary: Binary, processes: Processes) -> Find:
    """Find the master where the pid file says this; None: there is no such file."""

    def find(written: int | str | None) -> Master | None:
        if written is not None:
            conf.pid_path.write_text(f"{written}\n")
        return find_master(conf, binary)

    return find


@pytest.fixture
def ours(conf: OperatorConf) -> str:
    """The title of a master that runs our conf."""
    return f"nginx: master process /usr/sbin/nginx -c {conf.path}"


PERHAPS = "nginx: master process /usr/sbin/nginx"
"""Runs the compiled-in conf, which is not ours here, unless nginx was built otherwise than the binary that we asked."""


def test_the_number_in_the_pid_file_is_believed_of_a_master_that_may_be_ours(
    processes: Processes, find: Find, ours: str
) -> None:
    processes.add(40, PERHAPS, numbers=(40,))
    processes.add(41, ours, numbers=(41,))
    assert find(40) == Master(pid=40, own_pid=40)
    assert find(41) == Master(pid=41, own_pid=41)


def test_the_number_of_another_namespace_is_looked_for_there(processes: Processes, find: Find, ours: str) -> None:
    """The same number here is another container's nginx: HUP would reload somebody else's."""
    processes.add(7, ours, numbers=(7, 1))
    processes.add(50, ours, numbers=(50, 20, 7))
    processes.add(60, ours, numbers=(60, 7, 3))
    assert find(7) == Master(pid=50, own_pid=7)


def test_two_masters_of_one_number_are_none(processes: Processes, find: Find, ours: str) -> None:
    processes.add(50, ours, numbers=(50, 7))
    processes.add(60, ours, numbers=(60, 7))
    assert find(7) is None


def test_a_number_of_another_program_or_another_conf_is_nobody(processes: Processes, find: Find, ours: str) -> None:
    processes.add(7, "sleep 60", numbers=(7,))
    processes.add(8, "nginx: master process nginx -c /elsewhere/nginx.conf", numbers=(8,))
    processes.add(9, ours, numbers=(9,))
    assert find(7) is None, "the number says who; nobody else is guessed"
    assert find(8) is None


def test_without_a_number_only_who_surely_runs_our_conf_is_believed(
    processes: Processes, find: Find, ours: str
) -> None:
    processes.add(40, PERHAPS, numbers=(40,))
    assert find(None) is None
    assert find("garbage") is None
    processes.add(41, ours, numbers=(41,))
    assert find("") == Master(pid=41, own_pid=41)
    processes.add(42, ours, numbers=(42,))
    assert find("") is None, "two of them"


def test_a_kernel_without_namespaces_has_one_number_for_each(processes: Processes, find: Find, ours: str) -> None:
    processes.add(41, ours)
    assert find(41) == Master(pid=41, own_pid=41)


def test_a_master_without_a_conf_in_its_title_runs_the_compiled_in_one(
    processes: Processes, conf: OperatorConf, binary: Binary
) -> None:
    processes.add(41, PERHAPS, numbers=(41,))
    assert find_master(conf, binary) is None
    assert find_master(conf, replace(binary, conf_path=conf.path)) == Master(pid=41, own_pid=41)


@pytest.mark.parametrize(("prefix", "found"), [("elsewhere", False), ("etc", True)])
def test_a_prefix_may_move_the_compiled_in_conf(
    processes: Processes, conf: OperatorConf, binary: Binary, tmp_path: Path, prefix: str, found: bool
) -> None:
    binary = replace(binary, prefix=conf.path.parent, conf_path=conf.path)
    processes.add(41, f"{PERHAPS} -p {tmp_path / prefix}/ -g daemon off;", numbers=(41,))
    assert (find_master(conf, binary) is not None) is found
    assert find_master(conf, replace(binary, prefix=tmp_path / "prefix")) is not None, "compiled in with its whole path"


@pytest.mark.parametrize("named", [True, False])
def test_without_a_number_another_container_runs_our_conf_only_if_it_sees_it(
    processes: Processes, conf: OperatorConf, binary: Binary, ours: str, tmp_path: Path, named: bool
) -> None:
    """Both images have an /etc/nginx/nginx.conf: HUP would reload somebody else's nginx while ours is away."""
    binary = replace(binary, conf_path=conf.path)
    processes.add(41, ours if named else PERHAPS, numbers=(41, 1))
    assert find_master(conf, binary) is None
    (tmp_path / "theirs.conf").write_text("")
    processes.add(42, ours if named else PERHAPS, numbers=(42, 1))
    processes.show(42, str(conf.path), tmp_path / "theirs.conf")
    assert find_master(conf, binary) is None
    processes.add(43, ours if named else PERHAPS, numbers=(43, 5))
    processes.show(43, str(conf.path), conf.path)
    assert find_master(conf, binary) == Master(pid=43, own_pid=5)


@pytest.mark.parametrize(("named", "found"), [("conf/nginx.conf", True), ("conf/other.conf", False)])
def test_of_a_relative_conf_only_the_name_counts(processes: Processes, find: Find, named: str, found: bool) -> None:
    """It is relative to nginx's prefix, which may be relative itself."""
    processes.add(41, f"nginx: master process nginx -p here -c {named}", numbers=(41,))
    assert (find(41) is not None) is found
    assert find("") is None, "not surely"


def test_a_conf_is_the_same_by_any_path(processes: Processes, find: Find, conf: OperatorConf, tmp_path: Path) -> None:
    (tmp_path / "link.conf").symlink_to(conf.path)
    processes.add(41, f"nginx: master process nginx -g daemon -c {tmp_path}/link.conf -q", numbers=(41,))
    assert find(None) == Master(pid=41, own_pid=41)


def test_workers_are_told_apart_by_their_titles(processes: Processes, ours: str) -> None:
    processes.add(41, ours, numbers=(41, 2), children=(42, 43, 44, 45, 46, 47))
    for pid, title in {42: WORKER, 43: WORKER, 44: DRAINING, 45: CACHE, 46: ours}.items():
        processes.add(pid, title)
    assert workers(Master(pid=41, own_pid=2)) == Workers(
        accepting=frozenset({42, 43}), draining=frozenset({44}), starting=frozenset({46})
    )
    assert workers(Master(pid=2, own_pid=41)) is None


def test_angies_processes_are_told_by_their_own_name(processes: Processes, find: Find, conf: OperatorConf) -> None:
    processes.add(
        41, f"angie: master process v1.11.3 #4 [/usr/sbin/angie -c {conf.path}]", numbers=(41,), children=(42, 43, 44)
    )
    processes.add(42, "angie: worker process #4")
    processes.add(43, "angie: worker process is shutting down #3")
    processes.add(44, "angie: cache manager process #4")
    found = Master(pid=41, own_pid=41)
    assert find(41) == found
    assert is_alive(found)
    assert workers(found) == Workers(accepting=frozenset({42}), draining=frozenset({43}), starting=frozenset())


def test_a_number_that_is_used_again_is_no_master_any_more(processes: Processes, ours: str) -> None:
    processes.add(41, ours)
    found = Master(pid=41, own_pid=3)
    assert is_alive(found)
    send_reload(found)
    assert processes.signals == [(41, signal.SIGHUP)]
    processes.rename(41, "sleep 60")
    assert not is_alive(found)
    with pytest.raises(NginxUnavailable, match="41 is gone"):
        send_reload(found)
    assert processes.signals == [(41, signal.SIGHUP)], "HUP ends what has no handler for it"


@pytest.mark.parametrize(("refused", "said"), [(ProcessLookupError, "is gone"), (PermissionError, "CAP_KILL")])
def test_a_signal_that_did_not_arrive_is_told(
    processes: Processes, ours: str, refused: type[OSError], said: str
) -> None:
    processes.add(41, ours)
    processes.refuse = refused
    with pytest.raises(NginxUnavailable, match=said):
        send_reload(Master(pid=41, own_pid=41))
