"""nginx's processes as /proc shows them: the master, its workers, and the signal that asks for a reload."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from itertools import pairwise
from pathlib import Path
from typing import Final

from proxygen.kit.errors import NginxUnavailable
from proxygen.proxy.nginx.binary import Binary
from proxygen.proxy.nginx.conf import OperatorConf

_MASTER: Final = re.compile(r"(?:nginx: master process |angie: master process v\S+ #\d+ \[)(.*)", re.DOTALL)
"""What a master calls itself, and then its command line. OpenResty's says what nginx's says; Angie's tells its version
and how often it read its configuration, and has the command line in brackets."""
_WORKER: Final = re.compile(r"(?:nginx|angie): worker process\b(?! is shutting down)")
_DRAINING: Final = re.compile(r"(?:nginx|angie): worker process is shutting down")


@dataclass(frozen=True, slots=True, kw_only=True)
class Master:
    """A running nginx master that was found to be ours."""

    pid: int
    own_pid: int
    """Its number in its own pid namespace, by which it signs its log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """A master's workers at one moment; cache managers and loaders are none."""

    accepting: frozenset[int]
    draining: frozenset[int]
    starting: frozenset[int]
    """Forked, and not yet told what they are."""


def find_master(conf: OperatorConf, binary: Binary) -> Master | None:
    """Find the master that runs ``conf``; None when there is none or its processes cannot be seen from here.

    The number in the pid file is believed only if that process is an nginx master which is not known to run
    another conf, and which has this number in its own pid namespace: a pid file on a shared volume holds the number
    of *nginx's* namespace, and the same number here may be anybody. Without a number a master in another container
    is ours only if it sees our conf at the path that it names: every image has an /etc/nginx/nginx.conf of its own.
    """
    written = _written_pid(conf.pid_path)
    if written is not None and _runs(written, conf, binary) is not _Runs.NOT and _own_number(written) == written:
        return Master(pid=written, own_pid=written)
    masters = {pid: _runs(pid, conf, binary) for pid in _processes()}
    if written is None:
        found = [pid for pid, runs in masters.items() if runs is _Runs.SURELY]
    else:
        found = [pid for pid, runs in masters.items() if runs is not _Runs.NOT and _own_number(pid) == written]
    return Master(pid=found[0], own_pid=_own_number(found[0]) or found[0]) if len(found) == 1 else None


def is_alive(master: Master) -> bool:
    """Whether the process still is an nginx master (numbers are used again)."""
    return _MASTER.match(_title(master.pid)) is not None


def workers(master: Master) -> Workers | None:
    """Return the master's workers; None where the kernel does not list children or the master is gone."""
    try:
        children = Path(f"/proc/{master.pid}/task/{master.pid}/children").read_text().split()
    except OSError:
        return None
    titles = {int(child): _title(int(child)) for child in children}

    def called(name: re.Pattern[str]) -> frozenset[int]:
        return frozenset(pid for pid, title in titles.items() if name.match(title))

    return Workers(accepting=called(_WORKER), draining=called(_DRAINING), starting=called(_MASTER))


def send_reload(master: Master) -> None:
    """Send HUP. Raise NginxUnavailable when the master is gone or belongs to somebody else."""
    if not is_alive(master):
        raise NginxUnavailable(f"nginx's master process {master.pid} is gone")
    try:
        os.kill(master.pid, signal.SIGHUP)
    except ProcessLookupError as error:
        raise NginxUnavailable(f"nginx's master process {master.pid} is gone") from error
    except PermissionError as error:
        owner = Path(f"/proc/{master.pid}").stat().st_uid
        raise NginxUnavailable(
            f"uid {os.geteuid()} may not signal nginx's master process {master.pid} of uid {owner}: "
            f"run proxygen as uid {owner} or give it the capability CAP_KILL"
        ) from error


class _Runs(Enum):
    """Whether a process is a master that runs a certain conf."""

    SURELY = auto()
    PERHAPS = auto()
    NOT = auto()


def _runs(pid: int, conf: OperatorConf, binary: Binary) -> _Runs:
    master = _MASTER.match(_title(pid))
    if master is None:
        return _Runs.NOT
    command = master[1].rstrip("] ") if master[0].startswith("angie") else master[1]
    options = dict(pairwise(command.split()))
    named = options.get("-c")
    if named is None:
        ours = conf.path == binary.conf_path and not _is_moved(options.get("-p"), binary)
        return _Runs.SURELY if ours and not _is_apart(pid, binary.conf_path, conf) else _Runs.PERHAPS
    if not named.startswith("/"):
        # Relative to nginx's -p, which may itself be relative: only the name can be compared.
        return _Runs.PERHAPS if Path(named).name == conf.path.name else _Runs.NOT
    if os.path.realpath(named) != os.path.realpath(conf.path):
        return _Runs.NOT
    return _Runs.PERHAPS if _is_apart(pid, named, conf) else _Runs.SURELY


def _is_moved(prefix: str | None, binary: Binary) -> bool:
    """Tell whether another prefix may stand before the compiled-in conf, which may be relative to it."""
    return (
        prefix is not None
        and os.path.realpath(prefix) != os.path.realpath(binary.prefix)
        and binary.conf_path.is_relative_to(binary.prefix)
    )


def _is_apart(pid: int, named: Path | str, conf: OperatorConf) -> bool:
    """Tell whether a process lives in a pid namespace below ours and is not seen to have our conf at that path."""
    if len(_numbers(pid)) < 2:
        return False
    with suppress(OSError):
        return not os.path.samefile(Path(f"/proc/{pid}/root{named}"), conf.path)
    return True


def _written_pid(path: Path) -> int | None:
    with suppress(OSError, ValueError):
        return int(path.read_text(encoding="ascii"))
    return None


def _title(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    return ""


def _own_number(pid: int) -> int | None:
    """The process's number in its own pid namespace."""
    numbers = _numbers(pid)
    return numbers[-1] if numbers else None


def _numbers(pid: int) -> tuple[int, ...]:
    """The process's numbers in each pid namespace that it is in, from ours down to its own; none where it is gone."""
    with suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines():
            if line.startswith("NSpid:"):
                return tuple(map(int, line.split()[1:]))
        # Kernels without the line have no namespaces to confuse.
        return (pid,)
    return ()


def _processes() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdecimal())
